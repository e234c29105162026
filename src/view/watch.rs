//! How far a run is, looked at again and again: of its logs only what they have grown by is read.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use reports::progress::{PhaseProgress, Progress};
use trainer::reward::{self, RewardRecipe};
use trainer::rlhf::RlhfRecipe;
use trainer::trajectory::Trajectory;
use trainer::{rl_cai, sl_cai};

use super::log::FollowedLog;
use crate::recipe::{Alignment, Recipe};
use crate::run::Run;

/// What is kept from one look to the next: the logs by phase.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    logs: BTreeMap<String, FollowedLog>,
}

impl Watch {
    /// How far the run is; whether somebody works on it is for the caller to say.
    pub(crate) fn look(&mut self, run: &Run) -> Result<Progress> {
        let mut phases = Vec::new();
        for (name, steps) in read_plan(&run.plan())? {
            let log = self.logs.entry(name.clone()).or_default();
            log.read_on(&run.folder().logs().join(format!("{name}.jsonl")))?;
            let (is_done, alarms) = (run.checkpoint(&name).exists(), read_alarms(run, &name)?);
            phases.push(PhaseProgress { name, steps, is_done, course: log.course().clone(), alarms });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let at_work = phases.iter().find(|phase| !phase.is_done);
        let last = at_work.and_then(|phase| phase.course.last_unix_s());
        Ok(Progress {
            run: run.name(),
            path: run.root().display().to_string(),
            since_last_s: last.map(|then| (now - then).max(0.0)),
            phases,
            ..Progress::default()
        })
    }
}

/// The phases that a plan asks for; none where there is no plan yet.
fn read_plan(path: &Path) -> Result<Vec<(String, u64)>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let recipe: Recipe = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(planned(&recipe))
}

/// The phases of a recipe in the order in which they are trained, each with its number of steps.
fn planned(recipe: &Recipe) -> Vec<(String, u64)> {
    let rewards = |phase: &str, recipe: &RewardRecipe| -> Vec<(String, u64)> {
        reward::phases(phase, recipe).into_iter().map(|name| (name, recipe.steps.get())).collect()
    };
    let rounds = |recipe: &RlhfRecipe| recipe.rounds.get() * recipe.method.steps_per_round();
    let mut phases =
        vec![("pretrain".to_owned(), recipe.pretrain.steps.get()), ("sft".to_owned(), recipe.sft.steps.get())];
    for alignment in &recipe.alignment {
        match alignment {
            Alignment::Rlhf => {
                phases.extend(rewards("reward", &recipe.reward));
                phases.push(("rlhf".to_owned(), rounds(&recipe.rlhf)));
            }
            Alignment::Dpo => phases.push(("dpo".to_owned(), recipe.dpo.steps.get())),
            Alignment::Constitutional => {
                phases.push((sl_cai::PHASE.to_owned(), recipe.sl_cai.steps.get()));
                phases.extend(rewards(rl_cai::PREFERENCE_PHASE, &recipe.rl_cai.preference));
                phases.push((rl_cai::PHASE.to_owned(), rounds(&recipe.rl_cai.rl)));
            }
        }
    }
    phases
}

/// What a phase warned of, by its checkpoint or by the newest intermediate one.
fn read_alarms(run: &Run, phase: &str) -> Result<Vec<(u64, String)>> {
    let checkpoint = run.checkpoint(phase);
    let folder = if checkpoint.exists() { Some(checkpoint) } else { newest(&run.folder().steps(phase)) };
    let trajectory = folder.map(|folder| Trajectory::load(&folder)).transpose()?.flatten();
    Ok(trajectory.unwrap_or_default().alarms.into_iter().map(|alarm| (alarm.step, alarm.message)).collect())
}

/// The folder with the highest number for a name.
fn newest(steps: &Path) -> Option<PathBuf> {
    let numbered = fs::read_dir(steps).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let step: u64 = path.file_name()?.to_str()?.parse().ok()?;
        Some((step, path))
    });
    numbered.max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::plan_file;

    fn with(settings: &[&str]) -> Recipe {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Recipe::read_with("", Path::new("recipe.toml"), false, &settings).unwrap().1
    }

    #[test]
    fn a_plan_is_read_back_as_its_phases_and_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        assert!(read_plan(&path).unwrap().is_empty());
        let recipe = with(&[
            "alignment=[\"dpo\", \"rlhf\", \"constitutional\"]",
            "reward.ensemble=2",
            "rlhf.rounds=5",
            "rlhf.method.ppo={ epochs = 2, minibatches = 3 }",
            "rl_cai.rl.rounds=7",
        ]);
        fs::write(&path, plan_file(&recipe).unwrap()).unwrap();
        let phases = read_plan(&path).unwrap();
        let names: Vec<&str> = phases.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["pretrain", "sft", "dpo", "reward", "reward-2", "rlhf", "sl-cai", "preference", "rl-cai"]);
        let steps = |wanted: &str| phases.iter().find(|(name, _)| name == wanted).unwrap().1;
        assert_eq!((steps("rlhf"), steps("rl-cai"), steps("sft")), (30, 7, recipe.sft.steps.get()));
    }

    #[test]
    fn a_look_tells_what_is_done_what_is_logged_and_what_was_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::at(folder.path());
        fs::write(run.plan(), plan_file(&with(&[])).unwrap()).unwrap();
        for made in [run.checkpoint("pretrain"), run.folder().steps("sft").join("000500"), run.folder().logs()] {
            fs::create_dir_all(made).unwrap();
        }
        let warned = "{\"points\":[],\"alarms\":[{\"step\":400,\"message\":\"repeats itself\"}]}";
        fs::write(run.folder().steps("sft").join("000500/trajectory.json"), warned).unwrap();
        fs::write(run.folder().logs().join("sft.jsonl"), "{\"step\":510,\"loss_nats\":1.0,\"unix_s\":9.0}\n").unwrap();
        let progress = Watch::default().look(&run).unwrap();
        let (pretrain, sft) = (&progress.phases[0], &progress.phases[1]);
        assert!(pretrain.is_done && !sft.is_done && !progress.is_worked_on);
        assert_eq!((pretrain.course.step(), sft.course.step()), (0, 510));
        assert_eq!(sft.alarms, [(400, "repeats itself".to_owned())]);
        assert!(progress.since_last_s.unwrap() > 1e9, "since the step, which was in 1970");
    }
}
