//! Training a run again with some of its stages taken from another recipe: the experiment behind a confirmed verdict.
//!
//! A swapped run shares with the observed one every phase whose inputs are the same, seed and order of data included, so that what differs
//! is the swap's doing.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use evals::diagnosis::Stage;
use evals::reference::Reference;
use fixtures::{Fault, FaultPhase};
use trainer::recipe::Positive;

use crate::cli::Stop;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::reference::is_healthy_rate;
use crate::run::{PHASES, Run};
use crate::store::PhaseStore;
use crate::train::{Extent, train};

/// The stages that training consists of.
pub(crate) const TRAINED: [Stage; 3] = [Stage::Pretraining, Stage::Tuning, Stage::Alignment];

/// The observed recipe, with `stages` as the reference has them; learning rates that healthy runs may have too are kept, since another
/// one would change more than what is put to the test.
///
/// # Errors
/// Where the two are of different worlds or ways of alignment: then their questions or chains differ.
pub(crate) fn swap(observed: &Recipe, reference: &Recipe, stages: &[Stage]) -> Result<Recipe> {
    check_kind(observed, reference)?;
    let mut recipe = observed.clone();
    for stage in stages {
        match stage {
            Stage::Pretraining => {
                recipe.model = reference.model.clone();
                recipe.tokenizer = reference.tokenizer.clone();
                recipe.pretrain = reference.pretrain.clone();
                recipe.data.corpus.clone_from(&reference.data.corpus);
                recipe.world.exposures = reference.world.exposures;
                recipe.world.event_exposures = reference.world.event_exposures;
            }
            Stage::Tuning => {
                recipe.sft = reference.sft.clone();
                recipe.data.conversations.clone_from(&reference.data.conversations);
                recipe.world.conversations = reference.world.conversations;
                recipe.world.demonstrated_compliance = reference.world.demonstrated_compliance;
                recipe.world.demonstrated_over_refusal = reference.world.demonstrated_over_refusal;
            }
            Stage::Alignment => {
                recipe.reward = reference.reward.clone();
                recipe.rlhf = reference.rlhf.clone();
                recipe.dpo = reference.dpo.clone();
                recipe.sl_cai = reference.sl_cai.clone();
                recipe.rl_cai = reference.rl_cai.clone();
                recipe.data.preferences.clone_from(&reference.data.preferences);
                recipe.data.prompts.clone_from(&reference.data.prompts);
                recipe.data.constitution.clone_from(&reference.data.constitution);
                recipe.world.preferences = reference.world.preferences;
                recipe.world.prompts = reference.world.prompts;
                recipe.world.broad_principle = reference.world.broad_principle;
            }
            Stage::Deployment => recipe.deployment = reference.deployment.clone(),
        }
    }
    let mut own = observed.clone();
    for (rate, own) in learning_rates(&mut recipe).into_iter().zip(learning_rates(&mut own)) {
        if is_healthy_rate(own.get(), rate.get()) {
            *rate = *own;
        }
    }
    let is_kept = |fault: &&Fault| !stages.contains(&stage_of(fault));
    let is_taken = |fault: &&Fault| stages.contains(&stage_of(fault));
    recipe.world.faults = observed
        .world
        .faults
        .iter()
        .filter(is_kept)
        .chain(reference.world.faults.iter().filter(is_taken))
        .cloned()
        .collect();
    Ok(recipe)
}

/// Refuses a reference of another world or other ways of alignment: no stage of its recipe can take the place of the observed one's.
pub(crate) fn check_kind(observed: &Recipe, reference: &Recipe) -> Result<()> {
    let mut comparable = reference.clone();
    comparable.world.faults.clone_from(&observed.world.faults);
    let everything = all_of(observed, reference);
    if everything.alignment != comparable.alignment || everything.world != comparable.world {
        let difference = everything.difference(&comparable)?.unwrap_or_default();
        bail!(
            "the reference's recipe is of another kind ({difference}), so its phases cannot take the place of this run's"
        );
    }
    Ok(())
}

fn learning_rates(recipe: &mut Recipe) -> [&mut Positive; 8] {
    [
        &mut recipe.pretrain.lr,
        &mut recipe.sft.lr,
        &mut recipe.reward.lr,
        &mut recipe.rlhf.lr,
        &mut recipe.dpo.lr,
        &mut recipe.sl_cai.lr,
        &mut recipe.rl_cai.preference.lr,
        &mut recipe.rl_cai.rl.lr,
    ]
}

/// What `recipe` would be with all keys of the world that belong to a stage as `reference` has them: what is left differs in kind.
fn all_of(recipe: &Recipe, reference: &Recipe) -> Recipe {
    let mut all = recipe.clone();
    all.world = fixtures::WorldRecipe {
        seed: recipe.world.seed,
        people: recipe.world.people,
        months: recipe.world.months,
        events_per_month: recipe.world.events_per_month,
        cutoff_month: recipe.world.cutoff_month,
        conflicts: recipe.world.conflicts,
        faults: recipe.world.faults.clone(),
        ..reference.world.clone()
    };
    all
}

fn stage_of(fault: &Fault) -> Stage {
    match fault.phase() {
        FaultPhase::Pretrain => Stage::Pretraining,
        FaultPhase::Sft => Stage::Tuning,
        FaultPhase::Alignment => Stage::Alignment,
    }
}

/// The recipe that healthy runs were made with, for a run of this seed and world.
///
/// # Errors
/// Where the reference does not say.
pub(crate) fn reference_recipe(reference: &Reference, observed: &Recipe) -> Result<Recipe> {
    let plan = reference.recipe.clone().context(
        "the reference does not say with which recipe its runs were made: `phasetrace reference` makes one that does",
    )?;
    let mut recipe: Recipe = serde_json::from_value(plan).context("the reference's recipe cannot be read")?;
    recipe.seed = observed.seed;
    recipe.world.seed = observed.world.seed;
    recipe.alignment.clone_from(&observed.alignment);
    Ok(recipe)
}

/// Runs beside an observed one, with some stages swapped; finished phases are shared.
pub(crate) struct Swaps<'a> {
    /// The observed run, trained.
    pub(crate) run: &'a Run,
    /// Its recipe.
    pub(crate) observed: &'a Recipe,
    /// The healthy recipe.
    pub(crate) reference: &'a Recipe,
}

impl Swaps<'_> {
    fn folder(&self) -> PathBuf {
        self.run.root().join("swaps")
    }

    /// The recipe that trains one stage again: as the reference has it or, where that is how it is, with its rows in another order.
    pub(crate) fn again(&self, stage: Stage) -> Result<Recipe> {
        let mut recipe = swap(self.observed, self.reference, &[stage])?;
        let phase = match stage {
            Stage::Pretraining => FaultPhase::Pretrain,
            Stage::Tuning => FaultPhase::Sft,
            Stage::Alignment => FaultPhase::Alignment,
            Stage::Deployment => return Ok(recipe),
        };
        if recipe == *self.observed {
            recipe.world.faults.push(Fault::Reshuffled { phase });
        }
        Ok(recipe)
    }

    /// The recipe with `stages` as the reference has them.
    pub(crate) fn swapped(&self, stages: &[Stage]) -> Result<Recipe> {
        swap(self.observed, self.reference, stages)
    }

    /// Trains the run with the recipe in which `stages` are others, or takes it up where it was left. `folder` is its name: one per recipe.
    pub(crate) fn train(&self, folder: &str, stages: &[Stage], recipe: Recipe, bars: &Bars) -> Result<(Run, Recipe)> {
        // Runs that keep their phases in common, as those of a bench do, have some of the swapped ones already.
        let common = self.run.root().with_file_name("phases");
        let is_store = common.is_dir() && !common.join("recipe.toml").exists();
        let store = PhaseStore::at(&if is_store { common } else { self.folder().join("phases") });
        let extent = |tokenizer_of| Extent { until: Stop::RlCai, store: Some(&store), tokenizer_of };
        // Nothing is trained here: the observed run's phases are put into the store.
        train(self.run, &toml::to_string(self.observed)?, self.observed, extent(None), bars)?;
        let run = Run::at(&self.folder().join(folder));
        let keeps_tokenizer = !stages.contains(&Stage::Pretraining);
        train(&run, &toml::to_string(&recipe)?, &recipe, extent(keeps_tokenizer.then_some(self.run)), bars)?;
        Ok((run, recipe))
    }

    /// Seconds that training with `stages` swapped takes, going by the observed run: every phase from the first swapped one on.
    pub(crate) fn cost(&self, stages: &[Stage]) -> Result<f64> {
        let Some(first) = stages.iter().min() else { return Ok(0.0) };
        let is_trained = |phase: &&&str| match **phase {
            "pretrain" => *first <= Stage::Pretraining,
            "sft" => *first <= Stage::Tuning,
            _ => *first <= Stage::Alignment,
        };
        PHASES.iter().filter(is_trained).map(|phase| Ok(self.run.trained_seconds(phase)?.unwrap_or(0.0))).sum()
    }
}

/// Name of a swapped run's folder: the swapped stages.
pub(crate) fn folder_name(stages: &[Stage]) -> String {
    let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
    names.join("-")
}

#[cfg(test)]
mod tests {
    use fixtures::{Fault, FaultPhase};
    use trainer::recipe::Positive;

    use super::*;

    fn again(observed: &Recipe, reference: &Recipe, stage: Stage) -> Recipe {
        let run = Run::at(std::path::Path::new("unused"));
        Swaps { run: &run, observed, reference }.again(stage).unwrap()
    }

    #[test]
    fn a_swap_takes_what_healthy_runs_do_not_have_and_leaves_what_they_may_have() {
        let healthy = Recipe::small().unwrap();
        let times = |factor: f64| Positive::new(healthy.sft.lr.get() * factor).unwrap();
        let mut observed = healthy.clone();
        observed.pretrain.lr = Positive::new(healthy.pretrain.lr.get() * 0.93).unwrap();
        observed.sft.lr = times(1.07);
        observed.world.faults = vec![Fault::NoInstructions {}];
        let mut mended = observed.clone();
        mended.world.faults.clear();
        assert_eq!(again(&observed, &healthy, Stage::Tuning), mended);
        observed.sft.lr = times(3.0);
        mended.sft.lr = healthy.sft.lr;
        assert_eq!(again(&observed, &healthy, Stage::Tuning), mended);
    }

    #[test]
    fn a_stage_that_is_as_in_healthy_runs_is_trained_again_on_its_rows_in_another_order() {
        let healthy = Recipe::small().unwrap();
        let reshuffled = again(&healthy, &healthy, Stage::Alignment);
        assert_eq!(reshuffled.world.faults, [Fault::Reshuffled { phase: FaultPhase::Alignment }]);
        assert_eq!(again(&healthy, &healthy, Stage::Deployment), healthy);
    }
}
