//! When within the accused phase a behaviour broke: the checkpoints that were saved on the way are asked about it too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use evals::bisection::{Bisection, Saved};
use evals::diagnose::{Findings, Lineage, diagnose};
use evals::diagnosis::{LineageDiagnosis, Outcome, PhaseInfo, Provenance};
use evals::store::Store;
use lm::Subject;
use probes::bank::Bank;
use probes::item::Item;

use crate::evidence::ask_closed_book;
use crate::progress::Bars;
use crate::run::Run;
use crate::subject::load;

/// Most checkpoints of a phase that are asked, evenly over its steps.
const MOST: usize = 8;

/// Fills in, for each accused phase of a lineage, how the failing behaviour went over its steps.
pub(crate) fn bisect(
    store: &mut Store,
    run: &Run,
    lineage: &mut LineageDiagnosis,
    bank: &Bank,
    provenance: &Provenance,
    bars: &Bars,
) -> Result<()> {
    let infos = lineage.phases.clone();
    for row in &mut lineage.behaviours {
        let Outcome::Attributed { phase, .. } = &row.verdict.outcome else { continue };
        let Some(end) = infos.iter().position(|info| info.name == *phase) else { continue };
        let saved = saved_steps(run, phase)?;
        if saved.is_empty() {
            continue;
        }
        let items: Vec<Item> = bank.items.iter().filter(|item| item.behaviour == row.behaviour).cloned().collect();
        let mut steps: Vec<(u64, PhaseInfo)> = Vec::new();
        for (step, folder) in saved {
            let model = load(&folder)?;
            let name = format!("{phase}, step {step}");
            ask_closed_book(store, &name, &model, &items, bars)?;
            steps.push((step, PhaseInfo { name, checkpoint: model.fingerprint().to_owned(), ..PhaseInfo::default() }));
        }
        let start = end.checked_sub(1).map(|before| infos[before].clone());
        let phases: Vec<PhaseInfo> = start
            .iter()
            .cloned()
            .chain(steps.iter().map(|(_, info)| info.clone()))
            .chain([infos[end].clone()])
            .collect();
        let asked = diagnose(Findings {
            run: "steps",
            lineages: &[Lineage { name: lineage.name.clone(), phases, ..Lineage::default() }],
            items: &items,
            responses: &store.responses(),
            declared_cutoff: None,
            data: BTreeMap::new(),
            intended: &[],
            model: None,
            fixes: None,
            reference: None,
            stated: BTreeMap::new(),
            provenance: provenance.clone(),
        })?;
        let Some(values) = asked.lineages[0].behaviours.iter().find(|other| other.behaviour == row.behaviour) else {
            continue;
        };
        let values = if row.verdict.is_content { &values.elicited } else { &values.values };
        let last =
            infos[end].metrics.get("steps").map_or_else(|| steps.last().map_or(0, |(step, _)| step + 1), |n| *n as u64);
        let places = start.iter().map(|_| 0).chain(steps.iter().map(|(step, _)| *step)).chain([last]);
        let saved: Vec<Saved> =
            places.zip(values).filter_map(|(step, value)| Some(Saved { step, value: value.clone()? })).collect();
        row.verdict.bisection = Bisection::of(saved);
    }
    Ok(())
}

/// The saved checkpoints of a phase in order of their steps, not more than [`MOST`].
fn saved_steps(run: &Run, phase: &str) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.folder().steps(phase);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut all: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let step = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(step) = step.filter(|_| path.join("config.json").exists()) {
            all.push((step, path));
        }
    }
    all.sort();
    let n = all.len();
    let is_kept = |i: &usize| n <= MOST || (i * MOST) / n != ((i + 1) * MOST) / n;
    Ok(all.into_iter().enumerate().filter(|(i, _)| is_kept(i)).map(|(_, saved)| saved).collect())
}
