//! `phasetrace bench`: plants faults whose phase is known, diagnoses each run without its label, and counts right verdicts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use evals::diagnosis::{BehaviourHistory, Confidence, Diagnosis, Outcome};
use evals::reference::Reference;
use fixtures::{Fault, FaultPhase};

use crate::cli::{BenchArgs, Stop};
use crate::diagnose::{Wanted, diagnose_run};
use crate::exit::{self, Usage};
use crate::output;
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::reference;
use crate::report::check_writable;
use crate::run::{Run, chain};
use crate::store::PhaseStore;
use crate::table::{Row, Table};
use crate::train::{Extent, train};

/// Recipes that plant one fault each.
const FAULTS: [(&str, &str); 6] = [
    ("wrong_facts", include_str!("../fixtures/faults/wrong_facts.toml")),
    ("earlier_cutoff", include_str!("../fixtures/faults/earlier_cutoff.toml")),
    ("no_system_prompts", include_str!("../fixtures/faults/no_system_prompts.toml")),
    ("no_benign_twins", include_str!("../fixtures/faults/no_benign_twins.toml")),
    ("punish_triggers", include_str!("../fixtures/faults/punish_triggers.toml")),
    ("helpful_only", include_str!("../fixtures/faults/helpful_only.toml")),
];

/// The twin without a fault.
const HEALTHY: &str = "healthy";

pub(crate) fn run(args: &BenchArgs, bars: &Bars) -> Result<u8> {
    let planted = choose_faults(&args.faults)?;
    let place = args.output.clone().unwrap_or_else(|| args.dir.join("bench.md"));
    check_writable(place.parent().unwrap_or(Path::new(".")))?;
    let (_, recipe) = Recipe::read(&args.recipe, None)?;
    if !recipe.world.faults.is_empty() {
        bail!("bench plants the faults itself: the recipe has `world.faults`");
    }
    let reference = reference::choose(args.reference.as_deref(), recipe.is_small()?)?;
    let bench = Bench { dir: &args.dir, reference: reference.as_ref(), bars };
    let mut rows = Vec::new();
    for &seed in &args.seeds {
        for (name, fault) in &planted {
            let mut recipe = recipe.clone();
            recipe.seed = seed;
            recipe.world.faults.extend(fault.clone());
            rows.push(bench.measure(name, fault.as_ref(), &recipe)?);
        }
    }
    let table = Table { rows };
    let text = table.to_markdown();
    reports::write(&place, &text)?;
    reports::write(&place.with_extension("json"), &table.to_json()?)?;
    output::print(&text)?;
    Ok(exit::SUCCESS)
}

/// The faults of those names with the healthy twin, all where none is named. The twin comes first: the others share with it what
/// their fault does not touch.
fn choose_faults(names: &[String]) -> Result<Vec<(&'static str, Option<Fault>)>> {
    let mut all = vec![(HEALTHY, None)];
    for (name, text) in FAULTS {
        let recipe = Recipe::parse(text, Path::new(&format!("fixtures/faults/{name}.toml")))?;
        let fault = recipe.world.faults.into_iter().next();
        all.push((name, Some(fault.with_context(|| format!("fixtures/faults/{name}.toml plants no fault"))?)));
    }
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        bail!(Usage(format!("--faults {unknown}: no such fault; known are {}", known.join(", "))));
    }
    all.retain(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    Ok(all)
}

struct Bench<'a> {
    dir: &'a Path,
    reference: Option<&'a Reference>,
    bars: &'a Bars,
}

impl Bench<'_> {
    /// Trains one lineage and compares its verdict with the truth. Lineages of one seed share phases and answers; those of
    /// different seeds share nothing, so that several processes can work on seeds of their own.
    fn measure(&self, name: &str, fault: Option<&Fault>, recipe: &Recipe) -> Result<Row> {
        let of_seed = self.dir.join(format!("seed-{}", recipe.seed));
        let run = Run::at(&of_seed.join(name));
        self.bars.say(&run.root().display().to_string());
        let store = PhaseStore::at(&of_seed.join("phases"));
        let text = toml::to_string(recipe).context("cannot write the recipe as TOML")?;
        train(&run, &text, recipe, Extent { until: Stop::Rlhf, store: Some(&store) }, self.bars)?;
        let answers = of_seed.join("answers");
        fs::create_dir_all(&answers).with_context(|| format!("cannot create {}", answers.display()))?;
        let wanted = Wanted {
            // The label stays out of the diagnosis.
            name: format!("seed-{}", recipe.seed),
            chains: &[chain(Alignment::Rlhf)],
            answers: &answers,
            reference: self.reference,
        };
        let diagnosis = diagnose_run(&run, recipe, &wanted, self.bars)?;
        Ok(judge(name, recipe.seed, fault.map(truth), &diagnosis))
    }
}

/// The phase of the `rlhf` lineage that a fault is planted in.
fn truth(fault: &Fault) -> &'static str {
    match fault.phase() {
        FaultPhase::Pretrain => "pretrain",
        FaultPhase::Sft => "sft",
        FaultPhase::Alignment => "rlhf",
    }
}

/// Compares the headline of a diagnosis with the truth.
fn judge(fault: &str, seed: u64, truth: Option<&str>, diagnosis: &Diagnosis) -> Row {
    let failing: Vec<&BehaviourHistory> = diagnosis.lineages.iter().flat_map(|lineage| &lineage.behaviours).collect();
    let attributed: Vec<&BehaviourHistory> = failing.iter().copied().filter(|row| accused(row).is_some()).collect();
    let headline = largest(&attributed);
    // What the lookup table would be asked about: the same failure, or where none was attributed the largest one that is not.
    let is_undetermined = |row: &&BehaviourHistory| matches!(row.verdict.outcome, Outcome::Undetermined { .. });
    let asked = headline.or_else(|| largest(&failing.iter().copied().filter(is_undetermined).collect::<Vec<_>>()));
    Row {
        fault: fault.to_owned(),
        seed,
        behaviour: asked.map(|row| row.behaviour.name().to_owned()),
        shortfall: asked.and_then(|row| row.verdict.shortfall),
        verdict: headline.and_then(accused).map(str::to_owned),
        confidence: headline.map_or(Confidence::None, |row| row.verdict.confidence),
        truth: truth.map(str::to_owned),
        lookup: asked.map(|row| row.verdict.thesis_baseline.clone()),
        accusations: attributed
            .iter()
            .filter_map(|row| Some(format!("{}: {}", row.behaviour.name(), accused(row)?)))
            .collect(),
    }
}

fn accused(row: &BehaviourHistory) -> Option<&str> {
    match &row.verdict.outcome {
        Outcome::Attributed { phase, .. } => Some(phase),
        _ => None,
    }
}

/// The largest shortfall; of equals the first.
fn largest<'a>(rows: &[&'a BehaviourHistory]) -> Option<&'a BehaviourHistory> {
    let size = |row: &BehaviourHistory| row.verdict.shortfall.unwrap_or(0.0);
    rows.iter().copied().reduce(|best, row| if size(row) > size(best) { row } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_recipe_is_the_small_world_but_for_its_fault() {
        for (name, text) in FAULTS {
            assert!(Recipe::parse(text, Path::new(name)).unwrap().is_small().unwrap(), "{name}");
        }
    }

    #[test]
    fn each_fault_recipe_plants_the_fault_it_is_named_after() {
        let faults = choose_faults(&[]).unwrap();
        assert_eq!(faults.len(), 1 + FAULTS.len());
        for (name, fault) in faults {
            assert_eq!(fault.map_or(HEALTHY, |fault| fault.name()), name);
        }
        let error = choose_faults(&["wrong_fact".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("--faults wrong_fact: no such fault; known are healthy, wrong_facts"), "{error}");
    }
}
