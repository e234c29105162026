//! Settings between the start and a trained one, looked at without training: each stands for a trained setting, by which it is judged.

use std::path::PathBuf;

use anyhow::{Context, Result};
use evals::comparison::{Exploration, SettingKind};
use lm::{Checkpoint, LoadedModel, Realigned, Subject, interpolate};

use crate::device::ask_there;
use crate::recipe::Alignment;
use crate::run::chain;
use crate::setting::Setting;

/// A setting to be explored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Short and unique.
    pub(crate) name: String,
    /// How.
    pub(crate) by: Exploration,
    /// The trained setting at lambda 1.
    pub(crate) base: String,
    /// Position between the start and the base.
    pub(crate) lambda: f64,
    /// The trained setting that it stands for.
    pub(crate) stands_for: String,
}

impl Plan {
    pub(crate) fn kind(&self) -> SettingKind {
        SettingKind::Explored {
            by: self.by,
            base: self.base.clone(),
            lambda: self.lambda,
            stands_for: Some(self.stands_for.clone()),
        }
    }
}

/// The key that says how strongly a way of alignment is held to its start.
fn strength_key(alignment: Alignment) -> &'static str {
    match alignment {
        Alignment::Rlhf => "rlhf.kl",
        Alignment::Dpo => "dpo.beta",
        Alignment::Constitutional => "rl_cai.rl.kl",
    }
}

/// The phase that the last one starts from, whose checkpoint is at lambda 0.
pub(crate) fn start_phase(alignment: Alignment) -> &'static str {
    let (_, phases) = chain(alignment);
    phases[phases.len() - 2]
}

/// What can be explored among trained settings: of those that differ in their strength alone, the weakest held is the base, and each
/// other one is stood for at `lambda = strength of the base / its own`.
///
/// # Reference
/// Liu et al. 2024, arXiv 2402.02992, section 3: mixing the logits of start and policy at `lambda` approximates the policy
/// trained with `strength / lambda`.
pub(crate) fn plan(settings: &[&Setting]) -> Vec<Plan> {
    let strength = |setting: &Setting| -> Option<f64> {
        let value = setting.values.get(strength_key(setting.alignment))?.parse().ok()?;
        (value > 0.0).then_some(value)
    };
    let is_like = |one: &Setting, other: &Setting| {
        let rest = |setting: &Setting| {
            let mut values = setting.values.clone();
            values.remove(strength_key(setting.alignment));
            values
        };
        one.alignment == other.alignment && rest(one) == rest(other)
    };
    let mut plans = Vec::new();
    for setting in settings {
        let Some(own) = strength(setting) else { continue };
        let alike = settings.iter().filter(|other| is_like(setting, other));
        let base = alike.filter_map(|other| Some((strength(other)?, other))).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((weakest, base)) = base.filter(|(weakest, _)| *weakest < own) else { continue };
        let lambda = weakest / own;
        for (by, how) in [(Exploration::Realigned, "predictions"), (Exploration::Interpolated, "weights")] {
            plans.push(Plan {
                name: format!("{} by mixed {how}", setting.name),
                by,
                base: base.name.clone(),
                lambda,
                stands_for: setting.name.clone(),
            });
        }
    }
    plans
}

/// Two checkpoints between which settings are explored.
pub(crate) struct Ends {
    start: Checkpoint,
    aligned: Checkpoint,
    models: (LoadedModel, LoadedModel),
}

impl Ends {
    pub(crate) fn load(start: &PathBuf, aligned: &PathBuf) -> Result<Self> {
        let load = |path: &PathBuf| Checkpoint::load(path).with_context(|| format!("cannot load {}", path.display()));
        let (start, aligned) = (load(start)?, load(aligned)?);
        let models = (ask_there(LoadedModel::new(&start)?)?, ask_there(LoadedModel::new(&aligned)?)?);
        Ok(Self { start, aligned, models })
    }

    /// Hands the subject of a plan to `ask`.
    pub(crate) fn with_subject<T>(&self, plan: &Plan, ask: impl FnOnce(&dyn Subject) -> Result<T>) -> Result<T> {
        match plan.by {
            Exploration::Realigned => ask(&Realigned::new(&self.models.0, &self.models.1, plan.lambda)?),
            Exploration::Interpolated => ask(&ask_there(interpolate(&self.start, &self.aligned, plan.lambda)?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn setting(name: &str, alignment: Alignment, values: &[(&str, &str)]) -> Setting {
        let values = values.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>();
        Setting { name: name.to_owned(), alignment, values }
    }

    #[test]
    fn the_weakest_held_of_those_alike_is_the_base() {
        let settings = [
            setting("a", Alignment::Rlhf, &[("rlhf.kl", "0.5"), ("rlhf.lr", "1")]),
            setting("b", Alignment::Rlhf, &[("rlhf.kl", "0.1"), ("rlhf.lr", "1")]),
            setting("c", Alignment::Rlhf, &[("rlhf.kl", "0.05"), ("rlhf.lr", "2")]),
            setting("d", Alignment::Dpo, &[("dpo.beta", "0.1")]),
            setting("e", Alignment::Rlhf, &[("rlhf.kl", "0"), ("rlhf.lr", "1")]),
        ];
        let plans = plan(&settings.iter().collect::<Vec<_>>());
        assert_eq!(plans.len(), 2, "{plans:?}");
        assert_eq!((plans[0].base.as_str(), plans[0].stands_for.as_str(), plans[0].lambda), ("b", "a", 0.2));
        assert_ne!(plans[0].name, plans[1].name);
    }

    #[test]
    fn settings_without_a_strength_are_not_explored() {
        let settings = [setting("a", Alignment::Dpo, &[]), setting("b", Alignment::Constitutional, &[("x", "1")])];
        assert!(plan(&settings.iter().collect::<Vec<_>>()).is_empty());
    }
}
