//! `diagnose --confirm` and `--factorial`: verdicts are put to the test by training phases again with the healthy recipe.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use evals::diagnose::sentences;
use evals::diagnosis::{BehaviourHistory, Confirmation, Diagnosis, Estimate, LineageDiagnosis, Outcome, Stage};
use evals::factorial::{self, Factorial};
use evals::reference::{Reference, Route};
use evals::verdict::weigh::confirm;
use probes::item::Behaviour;
use reports::duration;

use crate::diagnose::{Wanted, diagnose_run, keep};
use crate::exit::Usage;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::run::{Run, chains};
use crate::swap::{Swaps, TRAINED, check_kind, folder_name, reference_recipe};

/// What a run is confirmed with.
pub(crate) struct Experiment<'a> {
    run: &'a Run,
    observed: &'a Recipe,
    reference: &'a Reference,
    healthy: Recipe,
    bars: &'a Bars,
}

impl<'a> Experiment<'a> {
    /// # Errors
    /// Where there is no reference, or it does not say with which recipe its runs were made, or that is of another kind than the run's.
    pub(crate) fn new(
        run: &'a Run,
        observed: &'a Recipe,
        reference: Option<&'a Reference>,
        bars: &'a Bars,
    ) -> Result<Self> {
        let reference = reference.ok_or_else(|| {
            Usage("--confirm and --factorial need healthy runs to compare with: --reference FILE".to_owned())
        })?;
        let healthy = reference_recipe(reference, observed)?;
        check_kind(observed, &healthy)?;
        Ok(Self { run, observed, reference, healthy, bars })
    }

    fn swaps(&self) -> Swaps<'_> {
        Swaps { run: self.run, observed: self.observed, reference: &self.healthy }
    }

    /// Trains every accused stage again, and an innocent one, and writes what came of it into the verdicts.
    pub(crate) fn confirm(&self, diagnosis: &mut Diagnosis) -> Result<()> {
        let accused: BTreeSet<Stage> = diagnosis.lineages.iter().flat_map(accused_stages).collect();
        if accused.is_empty() {
            self.bars.say("confirm: no phase is accused, so there is nothing to put to the test");
            return Ok(());
        }
        // The last of the innocent: what follows it has to be trained again too, and that is the least.
        let innocent = TRAINED.into_iter().rev().find(|stage| !accused.contains(stage));
        let swaps = self.swaps();
        let planned: Vec<Stage> = accused.iter().copied().chain(innocent).collect();
        let seconds = planned.iter().map(|stage| swaps.cost(&[*stage])).sum::<Result<f64>>()?;
        self.bars.say(&format!(
            "confirm: training {} again with the healthy recipe{}, about {} going by the first time",
            accused.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(", then "),
            innocent.map_or_else(String::new, |stage| format!(", and {} as a control", stage.name())),
            duration(seconds),
        ));
        let again = planned
            .iter()
            .map(|stage| {
                let folder = format!("again-{}", stage.name());
                Ok((*stage, self.diagnose(&folder, &[*stage], swaps.again(*stage)?)?))
            })
            .collect::<Result<BTreeMap<Stage, Diagnosis>>>()?;
        for lineage in &mut diagnosis.lineages {
            let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
            let observed = lineage.clone();
            for (row, seen) in lineage.behaviours.iter_mut().zip(&observed.behaviours) {
                let Outcome::Attributed { phase, .. } = &row.verdict.outcome else { continue };
                let recovered = |stage: Stage| self.recovered(&observed, again.get(&stage)?, seen.behaviour);
                let Some(accused) = recovered(Stage::of(phase, &names)) else { continue };
                let control = innocent.and_then(recovered);
                confirm(&mut row.verdict, Confirmation { recovered: accused, innocent: innocent.zip(control) });
            }
        }
        diagnosis.sentences = sentences(&diagnosis.lineages);
        Ok(())
    }

    /// The value of every behaviour in all eight lineages of observed and healthy stages.
    pub(crate) fn factorial(&self) -> Result<Factorial> {
        let swaps = self.swaps();
        let subsets: Vec<Vec<Stage>> = (0..8_usize)
            .map(|bits| {
                TRAINED.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, stage)| *stage).collect()
            })
            .collect();
        let seconds = subsets.iter().map(|stages| swaps.cost(stages)).sum::<Result<f64>>()?;
        self.bars.say(&format!("factorial: eight lineages, at most {} going by the first time", duration(seconds)));
        let mut values = BTreeMap::new();
        for swapped in subsets {
            let diagnosis = match &swapped[..] {
                [] => self.diagnose_as(self.run, self.observed)?,
                stages => self.diagnose(&folder_name(stages), stages, swaps.swapped(stages)?)?,
            };
            let observed: BTreeSet<Stage> = TRAINED.into_iter().filter(|stage| !swapped.contains(stage)).collect();
            values.insert(observed, diagnosis);
        }
        Ok(factorial::of(&values))
    }

    /// Trains and diagnoses a run with some stages swapped; the diagnosis stays in its folder.
    fn diagnose(&self, folder: &str, stages: &[Stage], recipe: Recipe) -> Result<Diagnosis> {
        let (run, recipe) = self.swaps().train(folder, stages, recipe, self.bars)?;
        keep(&run, &self.diagnose_as(&run, &recipe)?)
    }

    /// Diagnoses a run for its values alone: that of the observed run says less than the one kept in its folder.
    fn diagnose_as(&self, run: &Run, recipe: &Recipe) -> Result<Diagnosis> {
        let wanted = Wanted {
            name: run.name(),
            chains: &chains(&recipe.alignment),
            answers: run.root(),
            reference: Some(self.reference),
            model: None,
            fixes: None,
            traces: false,
            remedies: false,
            bank: None,
            also: &[],
        };
        diagnose_run(run, recipe, &wanted, self.bars)
    }

    /// Which share of a behaviour's shortfall went in a swapped run: `(v_swapped - v) / (v_healthy - v)`, on the route where more is missing.
    fn recovered(&self, observed: &LineageDiagnosis, swapped: &Diagnosis, behaviour: Behaviour) -> Option<Estimate> {
        let other = swapped.lineages.iter().find(|lineage| lineage.name == observed.name)?;
        let row =
            |lineage: &'_ LineageDiagnosis| lineage.behaviours.iter().find(|row| row.behaviour == behaviour).cloned();
        let (before, after) = (row(observed)?, row(other)?);
        let last = observed.phases.last()?;
        let on = |route: Route| {
            let value = |row: &BehaviourHistory| match route {
                Route::Elicited => row.elicited.last().cloned().flatten(),
                _ => row.values.last().cloned().flatten(),
            };
            let healthy = self.reference.values(&observed.name, behaviour, route, &last.name)?;
            let healthy = healthy.iter().sum::<f64>() / healthy.len() as f64;
            factorial::recovered(&value(&before)?, &value(&after)?, healthy)
        };
        // Where the content is missing, chat hides what came back behind how well it is said.
        if before.verdict.is_content { on(Route::Elicited) } else { on(Route::Chat) }
    }
}

fn accused_stages(lineage: &LineageDiagnosis) -> Vec<Stage> {
    let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
    let of_row = |row: &BehaviourHistory| match &row.verdict.outcome {
        Outcome::Attributed { phase, .. } => Some(Stage::of(phase, &names)),
        _ => None,
    };
    lineage.behaviours.iter().filter_map(of_row).collect()
}
