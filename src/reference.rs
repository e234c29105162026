//! `phasetrace reference`: what healthy runs show, the yardstick of a diagnosis.

use std::path::Path;

use anyhow::{Result, bail};
use evals::reference::Reference;

use crate::cli::{ReferenceArgs, Stop};
use crate::diagnose::{Wanted, diagnose_run};
use crate::exit;
use crate::output;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::check_writable;
use crate::run::{Run, chains};
use crate::train::{Extent, train};

/// Healthy runs of the embedded small world, as `phasetrace reference` wrote them.
const EMBEDDED: &str = include_str!("../fixtures/reference.json");
/// Their name in messages.
const EMBEDDED_NAME: &str = "fixtures/reference.json";

pub(crate) fn run(args: &ReferenceArgs, bars: &Bars) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let (_, recipe) = Recipe::read(&args.recipe, None)?;
    if !recipe.world.faults.is_empty() {
        bail!("a reference is made from healthy runs: the recipe has `world.faults`");
    }
    let mut diagnoses = Vec::new();
    for &seed in &args.seeds {
        let (text, recipe) = Recipe::read(&args.recipe, Some(seed))?;
        let run = Run::at(&args.dir.join(format!("seed-{seed}")));
        bars.say(&run.root().display().to_string());
        train(&run, &text, &recipe, Extent::until(Stop::RlCai), bars)?;
        let wanted =
            Wanted { name: run.name(), chains: &chains(&recipe.alignment), answers: run.root(), reference: None };
        diagnoses.push(diagnose_run(&run, &recipe, &wanted, bars)?);
    }
    Reference::from_diagnoses(&diagnoses)?.save(&args.output)?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
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
