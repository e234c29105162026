//! `phasetrace bench confirm`: how often verdicts are right that training a phase again has confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use evals::diagnosis::{Confirmation, Diagnosis, Outcome, Rung, Stage};
use evals::reference::Reference;
use evals::stats::wilson::wilson;
use evals::verdict::features::Tier;
use evals::verdict::model::TierModel;
use evals::verdict::record::{self, Record, Set};
use probes::item::Behaviour;

use crate::bench::group::{Unlabelled, bank_of};
use crate::bench::organism::{Organism, read_organisms};
use crate::bench::{Seeds, is_recorded, lineages, record_file};
use crate::cli::{ConfirmArgs, RecipeArgs};
use crate::confirm::Experiment;
use crate::exit::{self, NothingToAsk};
use crate::output;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::check_writable;
use crate::run::Run;
use crate::verdict;

/// A verdict that was put to the test.
struct Tested {
    name: String,
    truth: Vec<Stage>,
    behaviour: Behaviour,
    accused: Stage,
    shown: Confirmation,
    is_confirmed: bool,
}

impl Tested {
    fn is_right(&self) -> bool {
        self.truth.contains(&self.accused)
    }
}

pub(crate) fn run(args: &ConfirmArgs, bars: &Bars) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let reference = Reference::load(&args.reference)?;
    let (model, known) = (verdict::shipped(Tier::T4)?, read_organisms(&[])?);
    let judge = Judge { reference: &reference, model: model.as_ref(), known: &known, bars };
    let mut tested = Vec::new();
    for run in lineages(&args.dirs, &args.only, "recorded lineage", is_recorded)? {
        tested.extend(judge.test(&run)?);
    }
    if tested.is_empty() {
        bail!(NothingToAsk("no verdict on these lineages names a phase that could be put to the test".to_owned()));
    }
    let table = to_markdown(&tested);
    reports::write(&args.output, &table)?;
    output::print(&table)?;
    Ok(exit::SUCCESS)
}

/// What verdicts are made and tested with.
struct Judge<'a> {
    reference: &'a Reference,
    model: Option<&'a TierModel>,
    known: &'a [Organism],
    bars: &'a Bars,
}

impl Judge<'_> {
    /// Diagnoses a lineage of the bench as it was measured, and puts its verdicts to the test. What the bench has kept stays as it is.
    fn test(&self, run: &Run) -> Result<Vec<Tested>> {
        let organism = self.known.iter().find(|organism| organism.name == run.name());
        let recipe = Recipe::of_run(run, &RecipeArgs::default(), None)?.1;
        let mut tested = Vec::new();
        for record in record::load(&record_file(run))? {
            if organism.is_none() && record.set == Set::Harness {
                self.bars.say(&format!("{}: left out, as only its fault file says what it was asked", record.name));
                continue;
            }
            let bank = bank_of(run, organism)?;
            let group = Seeds { world: record.world, training: record.seed }.group();
            let lineage = Unlabelled { group: &group, run, recipe: &recipe, bank: &bank };
            let mut diagnosis = lineage.diagnose(Some(self.reference), self.model, self.bars)?;
            Experiment::new(run, &recipe, Some(self.reference), self.bars)?.confirm(&mut diagnosis)?;
            tested.extend(verdicts(&record, &diagnosis));
        }
        Ok(tested)
    }
}

fn verdicts(record: &Record, diagnosis: &Diagnosis) -> Vec<Tested> {
    let mut tested = Vec::new();
    for lineage in &diagnosis.lineages {
        let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
        for row in &lineage.behaviours {
            if let (Outcome::Attributed { phase, .. }, Some(shown)) = (&row.verdict.outcome, &row.verdict.confirmation)
            {
                tested.push(Tested {
                    name: record.name.clone(),
                    truth: record.guilty.clone(),
                    behaviour: row.behaviour,
                    accused: Stage::of(phase, &names),
                    shown: shown.clone(),
                    is_confirmed: row.verdict.rung == Some(Rung::Confirmed),
                });
            }
        }
    }
    tested
}

fn to_markdown(tested: &[Tested]) -> String {
    let mut out = String::new();
    let share = |of: &[&Tested]| {
        let (right, n) = (of.iter().filter(|verdict| verdict.is_right()).count(), of.len());
        // Verdicts on one lineage hang together.
        let n_lineages = of.iter().map(|verdict| &verdict.name).collect::<BTreeSet<_>>().len();
        let (low, high) = wilson(right as f64 / n.max(1) as f64, n_lineages as f64);
        if n == 0 {
            "none".to_owned()
        } else {
            format!("{right} of {n} right, lineages: {n_lineages} ({:.0} to {:.0} %)", 100.0 * low, 100.0 * high)
        }
    };
    let mut kinds = BTreeMap::<bool, Vec<&Tested>>::new();
    for verdict in tested {
        kinds.entry(verdict.is_confirmed).or_default().push(verdict);
    }
    let of = |is_confirmed: bool| kinds.get(&is_confirmed).map_or_else(|| share(&[]), |of| share(of));
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "Verdicts put to the test by training the accused phase again, and an innocent one; Wilson intervals over lineages, 95 %.\n\n- confirmed: {}\n- not \
         confirmed: {}\n\n| organism | truth | behaviour | accused | taken back | by the innocent phase | confirmed |\n|---|---|---|---|--:|--:|---|",
        of(true),
        of(false)
    );
    for Tested { name, truth, behaviour, accused, shown, is_confirmed } in tested {
        let truth: Vec<&str> = truth.iter().map(|stage| stage.name()).collect();
        let innocent = shown.innocent.as_ref().map_or_else(
            || "–".to_owned(),
            |(stage, estimate)| format!("{:.0} % ({})", 100.0 * estimate.value, stage.name()),
        );
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {:.0} % ({:.0} to {:.0} %) | {innocent} | {} |",
            if truth.is_empty() { "nothing".to_owned() } else { truth.join(" + ") },
            behaviour.name(),
            accused.name(),
            100.0 * shown.recovered.value,
            100.0 * shown.recovered.low,
            100.0 * shown.recovered.high,
            if *is_confirmed { "yes" } else { "no" }
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use evals::diagnosis::Estimate;

    use super::*;

    #[test]
    fn confirmed_verdicts_are_counted_apart_from_the_others() {
        let estimate = |value| Estimate { value, low: 0.0, high: 1.0, n: 10, method: "delta method".to_owned() };
        let tested = |name: &str, accused, is_confirmed| Tested {
            name: format!("{name}/world-1/seed-1"),
            truth: vec![Stage::Tuning],
            behaviour: Behaviour::OverRefusal,
            accused,
            shown: Confirmation { recovered: estimate(0.9), innocent: Some((Stage::Alignment, estimate(0.1))) },
            is_confirmed,
        };
        let table = to_markdown(&[
            tested("a", Stage::Tuning, true),
            tested("a", Stage::Tuning, true),
            tested("b", Stage::Alignment, false),
        ]);
        assert!(table.contains("- confirmed: 2 of 2 right, lineages: 1 (21 to 100 %)"), "{table}");
        assert!(table.contains("- not confirmed: 0 of 1 right, lineages: 1 (0 to 79 %)"), "{table}");
        assert!(table.contains("| 90 % (0 to 100 %) | 10 % (alignment) | yes |"), "{table}");
        assert!(to_markdown(&[]).contains("- confirmed: none"));
    }
}
