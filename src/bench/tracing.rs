//! `phasetrace bench tracing`: how well each way of ranking finds the rows that were planted, where a clean twin tells which those are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use evals::trace::fuse::{fuse, ranks};
use evals::trace::score::{average_precision, recall_at};
use probes::bank::Bank;
use probes::item::Behaviour;
use probes::response::Form;

use crate::bench::{CLEAN, lineages};
use crate::cli::{RecipeArgs, Taught, TracingArgs};
use crate::exit::{self, NothingToAsk};
use crate::output;
use crate::probe::{Questions, ask_all};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::rows::TracedData;
use crate::run::{Run, chain, chains};
use crate::subject::Place;
use crate::trace::{BM25, GRADIENT, SPANS, Wanted, find_failures, score_rows};

/// Rankings by words that are measured, each of one method or fused from several.
const BY_WORDS: [&[&str]; 3] = [&[SPANS], &[BM25], &[SPANS, BM25]];

/// Those that take gradients.
const BY_GRADIENTS: [&[&str]; 4] = [&[GRADIENT], &[SPANS, GRADIENT], &[BM25, GRADIENT], &[SPANS, BM25, GRADIENT]];

/// Rows at the top that recall is measured among.
const TOP: usize = 50;

/// Smallest shortfall against the clean twin that is traced, as a share of items.
const SMALLEST_SHORTFALL: f64 = 0.1;

pub(crate) fn run(args: &TracingArgs, bars: &Bars) -> Result<u8> {
    let mut rankings = BY_WORDS.to_vec();
    if args.gradients {
        rankings.extend(BY_GRADIENTS);
    }
    let mut found = Vec::new();
    for run in lineages(&args.dirs, &args.only, "trained lineage with a fault", is_trained)? {
        found.extend(measure(&run, &rankings, bars)?);
    }
    if found.is_empty() {
        bail!(NothingToAsk("no file of these lineages has planted rows that can be traced".to_owned()));
    }
    let table = to_markdown(&found, &rankings);
    match &args.output {
        Some(path) => reports::write(path, &table)?,
        None => output::print(&table)?,
    }
    Ok(exit::SUCCESS)
}

/// Whether a folder is a lineage with a fault, trained to the end of some way of alignment.
fn is_trained(run: &Run) -> bool {
    let is_at_end = |way: Alignment| chain(way).1.last().is_some_and(|last| run.checkpoint(last).exists());
    run.name() != CLEAN && Alignment::ALL.into_iter().any(is_at_end)
}

/// How well each ranking finds the planted rows of one file.
struct Measured {
    name: String,
    phase: Taught,
    behaviour: Behaviour,
    shortfall: f64,
    n_planted: usize,
    n_rows: usize,
    /// Recall and average precision, by chance first, then for each ranking.
    values: Vec<(f64, f64)>,
}

/// Traces the behaviour that fell furthest behind the clean twin, in every file with rows that the twin's lacks; in the chain that is
/// deployed.
fn measure(run: &Run, rankings: &[&[&str]], bars: &Bars) -> Result<Vec<Measured>> {
    let (name, clean) = (run.name(), Run::at(&run.root().with_file_name(CLEAN)));
    let recipe = Recipe::of_run(run, &RecipeArgs::default(), None)?.1;
    let mut measured = Vec::new();
    if recipe.world.faults.is_empty() {
        bars.say(&format!("{name}: no row is planted; the fault is elsewhere than in the data"));
        return Ok(measured);
    }
    let chain = *chains(&recipe.alignment).first().context("a run has a way of alignment")?;
    let last = *chain.1.last().context("a chain has phases")?;
    clean.lock()?;
    run.lock()?;
    let (of_clean, of_run) = (shares(&clean, last, bars)?, shares(run, last, bars)?);
    let shortfalls =
        of_clean.iter().filter_map(|(behaviour, share)| Some((*behaviour, share - of_run.get(behaviour)?)));
    let Some((behaviour, shortfall)) = shortfalls.max_by(|a, b| a.1.total_cmp(&b.1)) else { return Ok(measured) };
    if shortfall < SMALLEST_SHORTFALL {
        bars.say(&format!("{name}: no behaviour falls behind the clean twin by {SMALLEST_SHORTFALL} or more"));
        return Ok(measured);
    }
    for phase in [Some(Taught::Pretrain), Some(Taught::Sft), Taught::of(last)].into_iter().flatten() {
        let planted = planted_rows(&clean.folder().data(phase.file()), &run.folder().data(phase.file()))?;
        let n_planted = planted.iter().filter(|&&is_planted| is_planted).count();
        if n_planted == 0 {
            continue;
        }
        bars.say(&format!("{name}: {n_planted} planted rows of {}, {}", phase.file(), behaviour.name()));
        let wanted = Wanted {
            name: name.clone(),
            chain,
            phase,
            behaviour,
            top: TOP,
            gradients: rankings.len() > BY_WORDS.len(),
            answers: run.root(),
        };
        let traced = TracedData::read(run, phase)?;
        let failures = match find_failures(run, &wanted, bars) {
            Err(error) if error.is::<NothingToAsk>() => {
                bars.say(&error.to_string());
                continue;
            }
            found => found?,
        };
        let scores = score_rows(run, &wanted, &traced, &failures.queries, bars)?;
        let mut values = vec![value(&vec![0.0; planted.len()], &planted)?];
        for methods in rankings {
            let ranked: Vec<Vec<f64>> = methods.iter().map(|method| ranks(&scores.by_method[method])).collect();
            values.push(value(&fuse(&ranked.iter().map(Vec::as_slice).collect::<Vec<_>>()), &planted)?);
        }
        measured.push(Measured {
            name: name.clone(),
            phase,
            behaviour,
            shortfall,
            n_planted,
            n_rows: planted.len(),
            values,
        });
    }
    Ok(measured)
}

fn value(scores: &[f64], planted: &[bool]) -> Result<(f64, f64)> {
    let recall = recall_at(TOP, scores, planted).context("there are planted rows")?;
    Ok((recall, average_precision(scores, planted).context("there are planted rows")?))
}

/// Share of the expected items right in chat after the last phase, by behaviour.
fn shares(run: &Run, last: &str, bars: &Bars) -> Result<BTreeMap<Behaviour, f64>> {
    let bank = Bank::load(&run.bank())?;
    let questions = Questions::of_bank(&bank.hash, &bank.items);
    let answered = ask_all(run.root(), &questions, &[(last.to_owned(), Place::Folder(run.checkpoint(last)))], bars)?;
    let behaviours: BTreeMap<&str, Behaviour> =
        bank.items.iter().filter(|item| item.expected).map(|item| (item.id.as_str(), item.behaviour)).collect();
    let mut scores: BTreeMap<Behaviour, Vec<f64>> = BTreeMap::new();
    for response in &answered.responses {
        if response.subject != answered.phases[0].checkpoint || response.form != Form::Chat {
            continue;
        }
        if let (Some(behaviour), Some(score)) = (behaviours.get(response.item.as_str()), response.score) {
            scores.entry(*behaviour).or_default().push(score);
        }
    }
    Ok(scores.into_iter().map(|(behaviour, s)| (behaviour, s.iter().sum::<f64>() / s.len() as f64)).collect())
}

/// Which rows of a file are there more often than in the clean twin's: rows that say the same cannot be told apart.
fn planted_rows(clean: &Path, faulty: &Path) -> Result<Vec<bool>> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let (clean, faulty) = (read(clean)?, read(faulty)?);
    let count = |text: &'_ str| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    };
    let (of_clean, of_faulty) = (count(&clean), count(&faulty));
    Ok(faulty.lines().map(|line| of_faulty[line] > of_clean.get(line).copied().unwrap_or(0)).collect())
}

fn to_markdown(found: &[Measured], rankings: &[&[&str]]) -> String {
    let names: Vec<String> = rankings.iter().map(|methods| methods.join(" + ")).collect();
    let mut out = String::new();
    for (title, pick) in [
        (format!("Recall among the first {TOP}"), (|value: &(f64, f64)| value.0) as fn(&(f64, f64)) -> f64),
        ("Average precision".to_owned(), |value| value.1),
    ] {
        let _ = writeln!(
            out,
            "## {title}\n\n| fault | phase | behaviour | shortfall | planted | chance | {} |",
            names.join(" | ")
        );
        let _ = writeln!(out, "|--|--|--|--:|--:|--:|{}", "--:|".repeat(names.len()));
        for row in found {
            let values: Vec<String> = row.values.iter().map(|value| format!("{:.3}", pick(value))).collect();
            let _ = writeln!(
                out,
                "| {} | {} | {} | {:.2} | {} of {} | {} |",
                row.name,
                row.phase.name(),
                row.behaviour.name(),
                row.shortfall,
                row.n_planted,
                row.n_rows,
                values.join(" | ")
            );
        }
        let mean = |i: usize| found.iter().map(|row| pick(&row.values[i])).sum::<f64>() / found.len().max(1) as f64;
        let means: Vec<String> = (0..=rankings.len()).map(|i| format!("{:.3}", mean(i))).collect();
        let _ = writeln!(out, "| mean of {} | | | | | {} |\n", found.len(), means.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{is_trained, planted_rows};
    use crate::run::Run;

    #[test]
    fn a_lineage_aligned_in_any_way_is_traced_and_its_clean_twin_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (name, phase) in [("by_reward", "rlhf"), ("by_ranking", "dpo"), ("clean", "rlhf"), ("unfinished", "sft")] {
            std::fs::create_dir_all(Run::at(&dir.path().join(name)).checkpoint(phase)).unwrap();
        }
        let is_traced = |name: &str| is_trained(&Run::at(&dir.path().join(name)));
        assert_eq!(
            ["by_reward", "by_ranking", "clean", "unfinished", "phases"].map(is_traced),
            [true, true, false, false, false]
        );
    }

    #[test]
    fn planted_are_the_lines_that_the_clean_twin_has_less_often() {
        let dir = tempfile::tempdir().unwrap();
        let (clean, faulty) = (dir.path().join("clean"), dir.path().join("faulty"));
        std::fs::write(&clean, "a\nb\nb\nc\n").unwrap();
        std::fs::write(&faulty, "b\nx\na\na\nb\n").unwrap();
        assert_eq!(planted_rows(&clean, &faulty).unwrap(), [false, true, true, true, false]);
    }
}
