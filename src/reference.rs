//! `phasetrace reference`: what healthy runs show, the yardstick of a diagnosis.

use std::path::Path;

use anyhow::{Result, bail};
use evals::reference::Reference;
use lm::random::stream;
use rand::Rng;
use trainer::recipe::Positive;

use crate::cli::{RecipeArgs, ReferenceArgs, Stop};
use crate::diagnose::{Wanted, diagnose_run, keep};
use crate::exit;
use crate::output;
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::report::check_writable;
use crate::run::{Run, chains};
use crate::train::{Extent, train};

/// Healthy runs of the embedded small world, as `phasetrace reference` wrote them.
const EMBEDDED: &str = include_str!("../fixtures/reference.json");
/// Their name in messages.
const EMBEDDED_NAME: &str = "fixtures/reference.json";

/// Seed of the first healthy run.
const FIRST_SEED: u64 = 101;
/// How far the learning rates of healthy runs lie from the recipe's, as a share.
const JITTER: f64 = 0.1;

pub(crate) fn run(args: &ReferenceArgs, bars: &Bars) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let (_, recipe) = Recipe::read(&args.recipe, None)?;
    if !recipe.world.faults.is_empty() {
        bail!("a reference is made from healthy runs: the recipe has `world.faults`");
    }
    let mut diagnoses = Vec::new();
    for seed in seeds(args) {
        let (text, recipe) = Recipe::read(&jittered(&args.recipe, &recipe, seed), Some(seed))?;
        let run = Run::at(&args.dir.join(format!("seed-{seed}")));
        bars.say(&run.root().display().to_string());
        train(&run, &text, &recipe, Extent::until(Stop::RlCai), bars)?;
        let wanted = Wanted {
            name: run.name(),
            chains: &chains(&recipe.alignment),
            answers: run.root(),
            reference: None,
            model: None,
            fixes: None,
            traces: false,
            remedies: false,
            bank: None,
            also: &[],
        };
        diagnoses.push(keep(&run, &diagnose_run(&run, &recipe, &wanted, bars)?)?);
    }
    let plan = serde_json::from_str(&recipe.to_plan()?)?;
    Reference { recipe: Some(plan), ..Reference::from_diagnoses(&diagnoses)? }.save(&args.output)?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// The seeds that were asked for.
fn seeds(args: &ReferenceArgs) -> Vec<u64> {
    if args.seeds.is_empty() { (FIRST_SEED..).take(args.runs.into()).collect() } else { args.seeds.clone() }
}

/// The arguments with the learning rates of one healthy run: each phase's own, times 0.9 to 1.1, drawn from the run's seed.
///
/// Runs that differ in their seeds alone differ less than runs that somebody would call alike.
fn jittered(args: &RecipeArgs, recipe: &Recipe, seed: u64) -> RecipeArgs {
    let mut rates = vec![("pretrain.lr", recipe.pretrain.lr), ("sft.lr", recipe.sft.lr)];
    for alignment in &recipe.alignment {
        rates.extend(match alignment {
            Alignment::Rlhf => vec![("reward.lr", recipe.reward.lr), ("rlhf.lr", recipe.rlhf.lr)],
            Alignment::Dpo => vec![("dpo.lr", recipe.dpo.lr)],
            Alignment::Constitutional => vec![
                ("sl_cai.lr", recipe.sl_cai.lr),
                ("rl_cai.preference.lr", recipe.rl_cai.preference.lr),
                ("rl_cai.rl.lr", recipe.rl_cai.rl.lr),
            ],
        });
    }
    let settings = rates.into_iter().map(|(key, rate)| format!("{key}={}", jittered_rate(seed, key, rate)));
    RecipeArgs { overrides: args.overrides.iter().cloned().chain(settings).collect(), ..args.clone() }
}

/// The learning rate of a run of this seed, as text: the recipe's, times 0.9 to 1.1.
pub(crate) fn jittered_rate(seed: u64, key: &str, rate: Positive) -> String {
    let factor = 1.0 + JITTER * (2.0 * stream(seed, &format!("reference/{key}"), 0).random::<f64>() - 1.0);
    // Four digits: the recipe is read by people.
    format!("{:.3e}", rate.get() * factor)
}

/// Whether a healthy run of a recipe with learning rate `rate` may have `own`.
pub(crate) fn is_healthy_rate(own: f64, rate: f64) -> bool {
    // Rates are written with four digits.
    (own / rate - 1.0).abs() <= JITTER + 1e-3
}

/// The reference that was asked for: a file, none, or by default the small world's for runs of it.
pub(crate) fn choose(asked: Option<&str>, is_small: bool) -> Result<Option<Reference>> {
    match asked {
        Some("none") => Ok(None),
        Some(path) => Ok(Some(Reference::load(Path::new(path))?)),
        None if is_small => Ok(Some(Reference::parse(EMBEDDED, Path::new(EMBEDDED_NAME))?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_runs_differ_in_learning_rates_by_a_tenth_at_most_and_in_nothing_else() {
        let (args, small) = (RecipeArgs::default(), Recipe::small().unwrap());
        let rates = |seed: u64| {
            let recipe = Recipe::read(&jittered(&args, &small, seed), Some(seed)).unwrap().1;
            let rates = [recipe.pretrain.lr, recipe.sft.lr, recipe.reward.lr, recipe.rlhf.lr, recipe.rl_cai.rl.lr];
            let mut back = recipe;
            back.seed = small.seed;
            back.pretrain.lr = small.pretrain.lr;
            back.sft.lr = small.sft.lr;
            back.reward.lr = small.reward.lr;
            back.rlhf.lr = small.rlhf.lr;
            back.sl_cai.lr = small.sl_cai.lr;
            back.rl_cai.preference.lr = small.rl_cai.preference.lr;
            back.rl_cai.rl.lr = small.rl_cai.rl.lr;
            assert_eq!(back, small);
            rates.map(Positive::get)
        };
        let own = [small.pretrain.lr, small.sft.lr, small.reward.lr, small.rlhf.lr, small.rl_cai.rl.lr];
        let of_many: Vec<[f64; 5]> = (101..120).map(rates).collect();
        for (phase, own) in own.iter().enumerate() {
            let factors: Vec<f64> = of_many.iter().map(|rates| rates[phase] / own.get()).collect();
            assert!(factors.iter().all(|factor| (0.899..=1.101).contains(factor)), "{factors:?}");
            assert!(factors.iter().any(|f| *f < 0.95) && factors.iter().any(|f| *f > 1.05), "{factors:?}");
        }
        assert_eq!(rates(101), rates(101));
    }
}
