//! `phasetrace bless`: keeps what a run's checkpoints scored as the baseline of later gates.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use evals::release::baseline::{Asked, Blessed};
use lm::tokenizer::Tokenizer;
use probes::bank::Bank;

use crate::cli::{BlessArgs, RecipeArgs};
use crate::exit;
use crate::output;
use crate::probe::{Questions, ask_all, checkpoints_of};
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::check_writable;
use crate::run::{ASKED, Run, chains};

pub(crate) fn run(args: &BlessArgs, bars: &Bars) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new("")))?;
    let run = Run::at(&args.run);
    let blessed = scores(&run, &bank(&run)?, bars)?;
    reports::write(&args.output, &blessed.to_json())?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// The item bank of a run.
pub(crate) fn bank(run: &Run) -> Result<Bank> {
    if !run.bank().exists() {
        bail!("{}: no run with an item bank; `phasetrace train` makes one", run.root().display());
    }
    Ok(Bank::load(&run.bank())?)
}

/// What a run's checkpoints score; what was not asked yet is asked.
pub(crate) fn scores(run: &Run, bank: &Bank, bars: &Bars) -> Result<Blessed> {
    let recipe = Recipe::of_run(run, &RecipeArgs::default(), None)?.1;
    let checkpoints = checkpoints_of(run, &ASKED);
    if checkpoints.is_empty() {
        bail!("{}: no run with a checkpoint; `phasetrace train` makes one", run.root().display());
    }
    run.lock()?;
    let questions = Questions::of_bank(&bank.hash, &bank.items);
    let answered = ask_all(run.root(), &questions, &checkpoints, bars)?;
    let mut asked = Vec::with_capacity(checkpoints.len());
    for ((name, _), phase) in checkpoints.iter().zip(&answered.phases) {
        let path = run.checkpoint(name);
        let tokenizer = Tokenizer::load(&path).with_context(|| format!("cannot load {}", path.display()))?;
        asked.push(Asked {
            phase: name.clone(),
            checkpoint: phase.checkpoint.clone(),
            tokenizer: tokenizer.files().get("tokenizer.json").cloned().unwrap_or_default(),
            template: tokenizer.template().map_or_else(String::new, |template| template.source().to_owned()),
        });
    }
    let is_there = |phase: &&&str| checkpoints.iter().any(|(name, _)| name == **phase);
    let lineages: BTreeMap<String, Vec<String>> = chains(&recipe.alignment)
        .into_iter()
        .map(|(name, phases)| {
            (name.to_owned(), phases.iter().filter(is_there).map(|phase| (*phase).to_owned()).collect())
        })
        .collect();
    Ok(Blessed::of(&run.name(), &questions.key(), lineages, &asked, &bank.items, &answered.responses))
}
