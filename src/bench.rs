//! `phasetrace bench attribution`: plants faults whose phase is known, diagnoses each lineage without its label, and measures how
//! far the verdicts can be trusted.

pub(crate) mod organism;

use std::path::Path;

use anyhow::{Result, bail};
use lm::random::stream;
use rand::Rng;

use crate::bench::organism::{Organism, read_organisms};
use crate::cli::{AttributionArgs, BenchCommand, Stop};
use crate::exit;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::run::Run;
use crate::store::PhaseStore;
use crate::train::{Extent, train};

/// The recipe of the bench's lineages.
const RECIPE: &str = include_str!("../recipes/bench.toml");

/// The twin without a fault.
const CLEAN: &str = "clean";

pub(crate) fn run(command: &BenchCommand, bars: &Bars) -> Result<u8> {
    match command {
        BenchCommand::Attribution(args) => attribution(args, bars),
    }
}

fn attribution(args: &AttributionArgs, bars: &Bars) -> Result<u8> {
    let base = match &args.recipe {
        Some(path) => Recipe::read_with(&std::fs::read_to_string(path)?, path, false, &[])?.1,
        None => Recipe::parse(RECIPE, Path::new("recipes/bench.toml"))?,
    };
    if !base.world.faults.is_empty() {
        bail!("bench plants the faults itself: the recipe has `world.faults`");
    }
    let organisms = read_organisms(&args.faults, &args.only)?;
    for lineage in &args.lineages {
        let group = Group::new(&args.dir, &base, *lineage)?;
        group.train(None, bars)?;
        for organism in organisms.iter().filter(|_| !args.clean) {
            group.train(Some(organism), bars)?;
        }
    }
    Ok(exit::SUCCESS)
}

/// World and training seed of lineages that share what their faults do not touch, written `WORLD:SEED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seeds {
    world: u64,
    training: u64,
}

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(world, training)| Some(Self { world: world.parse().ok()?, training: training.parse().ok()? }));
        parsed.ok_or_else(|| format!("expected WORLD:SEED, two numbers, found {text:?}"))
    }
}

/// Lineages of the same seeds: the healthy twin and those with a fault.
struct Group {
    dir: std::path::PathBuf,
    base: Recipe,
}

impl Group {
    fn new(dir: &Path, base: &Recipe, Seeds { world, training }: Seeds) -> Result<Self> {
        let mut base = base.clone();
        base.seed = training;
        base.world.seed = world;
        jitter(&mut base)?;
        Ok(Self { dir: dir.join(format!("world-{world}-seed-{training}")), base })
    }

    /// Trains a lineage, or what is missing of it.
    fn train(&self, organism: Option<&Organism>, bars: &Bars) -> Result<Run> {
        let name = organism.map_or(CLEAN, |organism| &organism.name);
        let run = Run::at(&self.dir.join(name));
        bars.say(&run.root().display().to_string());
        let (text, recipe) = match organism {
            Some(organism) => organism.plant(&self.base)?,
            None => (toml::to_string(&self.base)?, self.base.clone()),
        };
        let twin = Run::at(&self.dir.join(CLEAN));
        let shares = organism.is_some_and(|organism| organism.shares_pretraining(&recipe, &self.base));
        let store = PhaseStore::at(&self.dir.join("phases"));
        let extent = Extent { until: Stop::Rlhf, store: Some(&store), tokenizer_of: shares.then_some(&twin) };
        train(&run, &text, &recipe, extent, bars)?;
        Ok(run)
    }
}

/// How far learning rates lie from the recipe's, as a share: runs that differ in their seeds alone differ less than runs that
/// somebody would call alike.
const JITTER: f64 = 0.1;

/// Draws the learning rates of the lineages of one seed: the recipe's, times 0.9 to 1.1.
fn jitter(recipe: &mut Recipe) -> Result<()> {
    let seed = recipe.seed;
    let rates = [
        ("pretrain", &mut recipe.pretrain.lr),
        ("sft", &mut recipe.sft.lr),
        ("reward", &mut recipe.reward.lr),
        ("rlhf", &mut recipe.rlhf.lr),
    ];
    for (phase, rate) in rates {
        let factor = 1.0 + JITTER * (2.0 * stream(seed, &format!("reference/{phase}.lr"), 0).random::<f64>() - 1.0);
        let text = format!("{:.3e}", rate.get() * factor);
        let jittered: f64 = text.parse()?;
        *rate = trainer::recipe::Positive::new(jittered).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}
