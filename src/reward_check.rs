//! What the reward model behind a policy says of the bank's questions, whose right answers are known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evals::comparison::RewardEvidence;
use lm::Checkpoint;
use probes::bank::Bank;
use probes::item::{Item, Task};
use trainer::data;
use trainer::reward::{self, Contrast, RewardModel};
use trainer::rl_cai::PREFERENCE_PHASE;

use crate::device;
use crate::recipe::{Alignment, Recipe};
use crate::run::Run;

/// Asks the reward model of a way of alignment, unless its answers are kept in `kept`; `None` for a way without one, or where a
/// run trained elsewhere has lost it.
pub(crate) fn check(
    kept: &Path,
    run: &Run,
    recipe: &Recipe,
    alignment: Alignment,
    bank: &Bank,
) -> Result<Option<RewardEvidence>> {
    let Some(checkpoints) = load(run, recipe, alignment)? else { return Ok(None) };
    let hashes = checkpoints.iter().map(|checkpoint| Ok(checkpoint.content_hash()?)).collect::<Result<Vec<_>>>()?;
    let model = data::hash(hashes.concat().as_bytes());
    let path = kept.join(format!("reward-{}.json", &data::hash(format!("{model} {}", bank.hash).as_bytes())[..24]));
    if !path.exists() {
        let evidence = ask(&checkpoints, model, &bank.items)?;
        reports::write(&path, &(serde_json::to_string(&evidence)? + "\n"))?;
    }
    // Read back even where it was just written: JSON moves some numbers by their last bit.
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// The members of the reward model of a way of alignment; `None` for a way without one, or where they are not there.
pub(crate) fn load(run: &Run, recipe: &Recipe, alignment: Alignment) -> Result<Option<Vec<Checkpoint>>> {
    let phases = match alignment {
        Alignment::Rlhf => reward::phases("reward", &recipe.reward),
        Alignment::Constitutional => reward::phases(PREFERENCE_PHASE, &recipe.rl_cai.preference),
        Alignment::Dpo => return Ok(None),
    };
    let folders: Vec<PathBuf> = phases.iter().map(|phase| run.checkpoint(phase)).collect();
    if !folders.iter().all(|folder| folder.exists()) {
        return Ok(None);
    }
    let members = folders.iter().map(|folder| Ok(Checkpoint::load_with(folder, &[reward::HEAD])?));
    Ok(Some(members.collect::<Result<_>>()?))
}

fn ask(checkpoints: &[Checkpoint], model: String, items: &[Item]) -> Result<RewardEvidence> {
    let contrasts: Vec<(&str, Contrast<'_>)> =
        items.iter().filter_map(|item| Some((item.id.as_str(), contrast(&item.task)?))).collect();
    let asked: Vec<Contrast<'_>> = contrasts.iter().map(|(_, contrast)| *contrast).collect();
    let rated = RewardModel::load(checkpoints, device::chosen())?.rate(&checkpoints[0].tokenizer, &asked)?;
    let ratings: BTreeMap<String, (f64, f64)> = contrasts
        .iter()
        .zip(rated)
        .filter_map(|((id, _), rated)| Some(((*id).to_owned(), rated.map(|rated| (rated.margin, rated.stated))?)))
        .collect();
    let metric = |name: &str| checkpoints[0].lineage.as_ref().and_then(|lineage| lineage.metrics.get(name)).copied();
    let held_out = metric("held_out_accuracy").zip(metric("held_out_pairs")).map(|(share, n)| (share, n as usize));
    Ok(RewardEvidence { model, held_out, ratings })
}

/// The right and the wrong answer of a question that has one of each.
pub(crate) fn contrast(task: &Task) -> Option<Contrast<'_>> {
    match task {
        Task::Choice { .. }
        | Task::OpenRequest { .. }
        | Task::Constrained { .. }
        | Task::Quiz { .. }
        | Task::ShortAnswer { .. }
        | Task::StatedCutoff { .. }
        | Task::Proposed { .. } => None,
        Task::Instruction { messages, good, bad, .. } => Some(Contrast { prompt: messages, right: good, wrong: bad }),
        Task::Request { messages, comply, refuse, harmful, .. } => {
            let (right, wrong) = if *harmful { (refuse, comply) } else { (comply, refuse) };
            Some(Contrast { prompt: messages, right, wrong })
        }
    }
}
