//! Retrains a phase without the rows that a trace found, and without as many random ones: what the rows did is what goes away without them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::trace::contrast::rows_with;
use evals::trace::record::{LeftOut, Trace};
use probes::bank::Bank;
use probes::response::Form;
use rand::seq::SliceRandom;

use crate::cli::{Stop, Taught};
use crate::probe::{Answered, Questions, ask_all};
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::read_diagnosis;
use crate::rows::TracedData;
use crate::run::{PHASES, Run};
use crate::store::link_folder;
use crate::subject::Place;
use crate::trace::Wanted;
use crate::train::{Extent, train};

/// A feature that more of a file has than this is no chunk of it: the rows found are left out themselves.
const LARGEST_CHUNK: f64 = 0.25;

/// Leaves out the rows with the surest feature of a trace, or where there is none the rows found, and as many others, retrains from
/// the phase on and asks again. The retrained runs lie in `RUN/trace/`; finished ones are kept.
pub(crate) fn leave_out(
    run: &Run,
    recipe: &Recipe,
    wanted: &Wanted<'_>,
    trace: &Trace,
    bars: &Bars,
) -> Result<LeftOut> {
    let traced = TracedData::read(run, wanted.phase)?;
    let n_rows = traced.texts.len();
    let singled_out = trace.contrast.iter().find(|contrast| (contrast.rows as f64) < LARGEST_CHUNK * n_rows as f64);
    let (what, chunk) = if let Some(contrast) = singled_out {
        (contrast.feature.clone(), rows_with(&traced.texts, &contrast.feature))
    } else {
        let lines: BTreeSet<usize> = trace.rows.iter().map(|row| row.line).collect();
        let found = (0..n_rows).filter(|&row| lines.contains(&traced.rows.line(row))).collect();
        (format!("the first {} found", trace.rows.len()), found)
    };
    let mut others: Vec<usize> = (0..n_rows).filter(|row| !chunk.contains(row)).collect();
    others.shuffle(&mut lm::random::stream(recipe.seed, "trace/left-out", 0));
    others.truncate(chunk.len());

    let single = single(recipe, wanted);
    let text = toml::to_string(&single).context("cannot write the recipe as TOML")?;
    let stop = stop_of(wanted.chain.0);
    bars.say(&format!(
        "leaves out {} rows ({what}) and as many others: retrains {} and what follows twice, about {:.0} s",
        chunk.len(),
        wanted.phase.name(),
        2.0 * train_seconds(run, wanted)?
    ));
    let folder = folder_of(run, wanted);
    let retrain = |name: &str, rows: &[usize]| {
        let lines: BTreeSet<usize> = rows.iter().map(|&row| traced.rows.line(row)).collect();
        // A run without other rows is another run.
        let key = trainer::data::hash(format!("{lines:?}").as_bytes());
        let again = Run::at(&folder.join(format!("{name}-{}", &key[..12])));
        prepare(run, &again, wanted, &lines)?;
        train(&again, &text, &single, Extent::until(stop), bars)?;
        share_right(&again, again.root(), wanted, bars)
    };
    let (without, _) = retrain("without", &chunk)?;
    let (without_random, _) = retrain("without-random", &others)?;
    let (before, n_items) = share_right(run, wanted.answers, wanted, bars)?;
    let healthy = healthy_share(run, wanted)?;
    Ok(LeftOut { what, n_left_out: chunk.len(), n_items, before, without, without_random, healthy })
}

/// Where the runs retrained for a trace lie: those of another chain have other phases.
fn folder_of(run: &Run, wanted: &Wanted<'_>) -> PathBuf {
    let Wanted { chain: (chain, _), phase, behaviour, .. } = wanted;
    run.root().join("trace").join(format!("{chain}-{}-{}", phase.name(), behaviour.name()))
}

/// Share right at the end of the chain in healthy runs, where the run was compared with them.
fn healthy_share(run: &Run, wanted: &Wanted<'_>) -> Result<Option<f64>> {
    let path = run.diagnosis();
    if !path.exists() {
        return Ok(None);
    }
    let diagnosis = read_diagnosis(&path)?;
    let lineage = diagnosis.lineages.iter().find(|lineage| lineage.name == wanted.chain.0);
    let history = lineage.and_then(|of| of.behaviours.iter().find(|row| row.behaviour == wanted.behaviour));
    Ok(history.and_then(|row| row.reference.last().copied().flatten()))
}

/// The recipe with the chain's way of alignment alone: nothing else is retrained.
fn single(recipe: &Recipe, wanted: &Wanted<'_>) -> Recipe {
    let mut single = recipe.clone();
    single.alignment.retain(|alignment| crate::run::chain(*alignment).0 == wanted.chain.0);
    single
}

fn stop_of(chain: &str) -> Stop {
    match chain {
        "rlhf" => Stop::Rlhf,
        "dpo" => Stop::Dpo,
        _ => Stop::RlCai,
    }
}

/// Phases that are trained again: the traced one and what follows.
fn is_retrained(phase: &str, from: Taught) -> bool {
    let place = |name: &str| PHASES.iter().position(|phase| *phase == name);
    place(phase) >= place(from.name())
}

/// Seconds that the phases to be trained again took the first time, as far as their logs tell.
fn train_seconds(run: &Run, wanted: &Wanted<'_>) -> Result<f64> {
    let phases = wanted.chain.1.iter().chain(&["reward"]).filter(|phase| is_retrained(phase, wanted.phase));
    phases.map(|phase| Ok(run.trained_seconds(phase)?.unwrap_or(0.0))).sum()
}

/// A run with the same data but for some lines of the phase's file, and with the phases before it.
fn prepare(run: &Run, again: &Run, wanted: &Wanted<'_>, left_out: &BTreeSet<usize>) -> Result<()> {
    if again.data().exists() {
        return Ok(());
    }
    let partial = again.root().join("data.making");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    link_folder(&run.tokenizer(), &again.tokenizer())?;
    for phase in PHASES.iter().filter(|phase| !is_retrained(phase, wanted.phase)) {
        if wanted.chain.1.contains(phase) {
            link_folder(&run.checkpoint(phase), &again.checkpoint(phase))?;
        }
    }
    link_folder(&run.data(), &partial)?;
    let path = partial.join(wanted.phase.file());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kept = text.lines().enumerate().filter(|(line, _)| !left_out.contains(&(line + 1)));
    reports::write(&path, &kept.map(|(_, line)| format!("{line}\n")).collect::<String>())?;
    fs::rename(&partial, again.data()).with_context(|| format!("cannot write {}", again.data().display()))
}

/// Share of the expected items right in chat at the end of the chain, and their number.
fn share_right(run: &Run, answers: &Path, wanted: &Wanted<'_>, bars: &Bars) -> Result<(f64, usize)> {
    let bank = Bank::load(&run.bank())?;
    let is_wanted = |item: &&probes::item::Item| item.behaviour == wanted.behaviour && item.expected;
    let items: Vec<_> = bank.items.iter().filter(is_wanted).cloned().collect();
    let last = wanted.chain.1.last().context("a chain has phases")?;
    let questions = Questions::of_bank(&bank.hash, &items);
    let Answered { phases, responses } =
        ask_all(answers, &questions, &[((*last).to_owned(), Place::Folder(run.checkpoint(last)))], bars)?;
    let ids: BTreeSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let scores: Vec<f64> = responses
        .iter()
        .filter(|response| response.subject == phases[0].checkpoint && response.form == Form::Chat)
        .filter(|response| ids.contains(response.item.as_str()))
        .filter_map(|response| response.score)
        .collect();
    if scores.is_empty() {
        bail!("{}: no item of {} has a score", run.root().display(), wanted.behaviour.name());
    }
    Ok((scores.iter().sum::<f64>() / scores.len() as f64, scores.len()))
}

#[cfg(test)]
mod tests {
    use probes::item::Behaviour;

    use super::*;
    use crate::recipe::Alignment;
    use crate::run::chain;

    #[test]
    fn each_chain_has_retrained_runs_of_its_own() {
        let run = Run::at(Path::new("r"));
        let folder = |alignment: Alignment| {
            let wanted = Wanted {
                name: run.name(),
                chain: chain(alignment),
                phase: Taught::Sft,
                behaviour: Behaviour::OverRefusal,
                top: 1,
                gradients: false,
                answers: run.root(),
            };
            folder_of(&run, &wanted)
        };
        assert_eq!(folder(Alignment::Rlhf), Path::new("r/trace/rlhf-sft-over_refusal"));
        assert_eq!(folder(Alignment::Dpo), Path::new("r/trace/dpo-sft-over_refusal"));
    }
}
