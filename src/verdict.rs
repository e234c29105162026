//! `phasetrace bench fit` and `bench score`: the verdict model and its figures, from what a bench has recorded.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evals::verdict::features::Tier;
use evals::verdict::model::{TierModel, VerdictModel};
use evals::verdict::record::{self, Record};
use evals::verdict::{fit, score};

use crate::cli::{FitArgs, ScoreArgs};
use crate::exit;
use crate::output;
use crate::report::check_writable;

/// The verdict model that ships with the project, as `phasetrace bench fit` wrote it.
const SHIPPED: &str = include_str!("../fixtures/verdict_model.json");

/// The shipped model for what is at hand.
pub(crate) fn shipped(tier: Tier) -> Result<Option<TierModel>> {
    let model = VerdictModel::parse(SHIPPED, Path::new("fixtures/verdict_model.json"))?;
    Ok(model.at(tier).cloned())
}

/// Fits the model on the records and writes it.
pub(crate) fn fit(args: &FitArgs) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let model = fit::fit(&load(&args.records)?);
    reports::write(&args.output, &model.to_json())?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// Scores verdicts on the records; writes the tables, and their numbers beside them as JSON.
pub(crate) fn score(args: &ScoreArgs) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let score = score::score(&load(&args.records)?);
    let text = score.to_markdown();
    reports::write(&args.output, &text)?;
    let json = serde_json::to_string_pretty(&score).context("cannot write the score as JSON")?;
    reports::write(&args.output.with_extension("json"), &(json + "\n"))?;
    output::print(&text)?;
    Ok(exit::SUCCESS)
}

fn load(paths: &[PathBuf]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for path in paths {
        records.extend(record::load(path)?);
    }
    Ok(records)
}
