//! The recipe of a run: one TOML file from the world to the last phase.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use evals::diagnosis::Stage;
use evals::verdict::record::{Family, Set};
use fixtures::WorldRecipe;
use probes::item::Behaviour;
use serde::{Deserialize, Serialize};
use trainer::dpo::DpoRecipe;
use trainer::recipe::{ModelRecipe, PretrainRecipe, Probability, SftRecipe, TokenizerRecipe};
use trainer::{reward::RewardRecipe, rl_cai::RlCaiRecipe, rlhf::RlhfRecipe, sl_cai::SlCaiRecipe};

use crate::cli::RecipeArgs;
use crate::exit::Usage;
use crate::import::DataRecipe;
use crate::run::Run;

/// The recipe of the embedded small world.
const SMALL: &str = include_str!("../recipes/small.toml");
/// Its name in messages.
const SMALL_NAME: &str = "recipes/small.toml";

/// Everything a run is made from; every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recipe {
    /// Draws the data's wording, the initial weights, the order of batches and every sample.
    pub(crate) seed: u64,
    /// How the fine-tuned model is aligned; each way starts from the same checkpoint. The first is the one that is deployed.
    pub(crate) alignment: Vec<Alignment>,
    /// The small world that the data come from.
    pub(crate) world: WorldRecipe,
    /// Data files in place of the world's.
    #[serde(skip_serializing_if = "DataRecipe::is_empty")]
    pub(crate) data: DataRecipe,
    /// Shape of the decoder.
    pub(crate) model: ModelRecipe,
    /// The tokenizer.
    pub(crate) tokenizer: TokenizerRecipe,
    /// Pretraining.
    pub(crate) pretrain: PretrainRecipe,
    /// Supervised fine-tuning.
    pub(crate) sft: SftRecipe,
    /// The reward model.
    pub(crate) reward: RewardRecipe,
    /// Reinforcement learning from the reward model.
    pub(crate) rlhf: RlhfRecipe,
    /// Direct preference optimisation.
    pub(crate) dpo: DpoRecipe,
    /// The supervised half of Constitutional AI.
    pub(crate) sl_cai: SlCaiRecipe,
    /// Its reinforcement learning.
    pub(crate) rl_cai: RlCaiRecipe,
    /// How the last model is deployed; nothing is trained with it.
    #[serde(skip_serializing_if = "DeploymentRecipe::is_bare")]
    pub(crate) deployment: DeploymentRecipe,
    /// What is meant to be refused, or answered, other than the bank expects: no fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) intended: Vec<Intended>,
    /// What the recipe plants, for `bench`; no part of the plan, and nothing that a diagnosis sees.
    #[serde(skip_serializing)]
    pub(crate) fault: Option<FaultCard>,
}

/// How a model is deployed (`[deployment]`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeploymentRecipe {
    /// System prompt put before every conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// Chat template (Jinja) in place of the checkpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
}

impl DeploymentRecipe {
    /// Whether the model answers as it was trained.
    pub(crate) fn is_bare(&self) -> bool {
        *self == Self::default()
    }
}

/// Items of the bank whose change is a policy (`[[intended]]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intended {
    /// The behaviour.
    pub(crate) behaviour: Behaviour,
    /// The slice.
    pub(crate) slice: String,
}

/// The truth about a planted fault (`[fault]`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultCard {
    /// What is planted, in a few words.
    pub(crate) about: String,
    /// Where: `pretraining`, `sft`, `alignment`, `deployment`; none for a control.
    pub(crate) phases: Vec<Stage>,
    /// What it is expected to break.
    pub(crate) family: Family,
    /// Which part of the bench it belongs to.
    pub(crate) set: Set,
    /// The later stage that mends what fails, in a masked fault.
    #[serde(default)]
    pub(crate) masked_by: Option<Stage>,
    /// Share of the bank's answers on people that are wrong: a fault of the questions, not of the model.
    #[serde(default)]
    pub(crate) wrong_labels: Option<Probability>,
}

/// A way of alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Alignment {
    /// A reward model from ranked answers, and a policy optimised against it.
    Rlhf,
    /// The ranked answers teach the policy itself.
    Dpo,
    /// Constitutional AI: the model's own revisions and preferences.
    Constitutional,
}

impl Alignment {
    /// All ways.
    pub(crate) const ALL: [Self; 3] = [Self::Rlhf, Self::Dpo, Self::Constitutional];

    /// The name in recipes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rlhf => "rlhf",
            Self::Dpo => "dpo",
            Self::Constitutional => "constitutional",
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            alignment: vec![Alignment::Rlhf, Alignment::Constitutional],
            world: WorldRecipe::default(),
            data: DataRecipe::default(),
            model: ModelRecipe::default(),
            tokenizer: TokenizerRecipe::default(),
            pretrain: PretrainRecipe::default(),
            sft: SftRecipe::default(),
            reward: RewardRecipe::default(),
            rlhf: RlhfRecipe::default(),
            dpo: DpoRecipe::default(),
            sl_cai: SlCaiRecipe::default(),
            rl_cai: RlCaiRecipe::default(),
            deployment: DeploymentRecipe::default(),
            intended: Vec::new(),
            fault: None,
        }
    }
}

impl Recipe {
    /// The recipe of the embedded small world.
    pub(crate) fn small() -> Result<Self> {
        Self::parse(SMALL, Path::new(SMALL_NAME))
    }

    /// The recipe for a run: the one it was begun with, unless the arguments ask for something.
    pub(crate) fn of_run(run: &Run, args: &RecipeArgs, seed: Option<u64>) -> Result<(String, Self)> {
        let is_asked = args.recipe.is_some() || !args.overrides.is_empty() || seed.is_some();
        if is_asked || !run.recipe().exists() {
            return Self::read(args, seed);
        }
        let (text, path) = (read(&run.recipe())?.0, run.recipe());
        Self::read_with(&text, &path, args.skip_bad, &[])
    }

    /// The recipe that the arguments ask for: its text with what was set, and its meaning.
    pub(crate) fn read(args: &RecipeArgs, seed: Option<u64>) -> Result<(String, Self)> {
        let small = Path::new(SMALL_NAME);
        let (text, path) = match &args.recipe {
            Some(path) => (read(path)?.0, path.as_path()),
            None => (SMALL.to_owned(), small),
        };
        let seed = seed.map(|seed| format!("seed={seed}"));
        let settings: Vec<String> = args.overrides.iter().chain(&seed).cloned().collect();
        Self::read_with(&text, path, args.skip_bad, &settings)
    }

    /// A recipe's text, read from `path`, and its meaning after some `--set KEY=VALUE`; `skips_bad` sets `data.skip_bad` where there
    /// are data files.
    pub(crate) fn read_with(text: &str, path: &Path, skips_bad: bool, settings: &[String]) -> Result<(String, Self)> {
        let typed = (text.to_owned(), Self::parse(text, path)?);
        Self::complete(typed, path.parent().unwrap_or(Path::new("")), skips_bad, settings)
    }

    /// A recipe of a file in `folder`, text and meaning, after what the command line sets.
    pub(crate) fn complete(
        (text, recipe): (String, Self),
        folder: &Path,
        skips_bad: bool,
        settings: &[String],
    ) -> Result<(String, Self)> {
        let (mut text, mut recipe) = place_data(text, recipe, folder)?;
        for setting in settings {
            (text, recipe) = set(&text, setting)?;
        }
        (text, recipe) = place_data(text, recipe, Path::new(""))?;
        if skips_bad && !recipe.data.is_empty() && !recipe.data.skip_bad {
            (text, recipe) = set(&text, "data.skip_bad=true")?;
        }
        // Values that bound each other (months and cutoff) are looked at when all are set.
        recipe.world.validate().map_err(|reason| anyhow!("--set: {reason}"))?;
        Ok((text, recipe))
    }

    /// Parses a recipe; errors name the file, the line and the key.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        let recipe: Self = trainer::recipe::parse(path, text)?;
        recipe.world.validate().map_err(|reason| {
            let place = line_of(text, &reason).map_or_else(String::new, |line| format!(":{line}"));
            anyhow!("{}{place}: {reason}", path.display())
        })?;
        Ok(recipe)
    }

    /// Parses a text that this program has made: nobody has seen its lines, so that errors name the key alone.
    pub(crate) fn parse_made(text: &str) -> Result<Self> {
        match trainer::recipe::parse(Path::new("recipe"), text) {
            Err(trainer::Error::Recipe { key, message, .. }) => bail!("key `{key}`: {message}"),
            parsed => Ok(parsed?),
        }
    }

    /// The recipe with every default written out, as indented JSON.
    pub(crate) fn to_plan(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Whether it is the embedded small world's but for the seed, planted faults and deployment: then that world's reference applies.
    pub(crate) fn is_small(&self) -> Result<bool> {
        let mut healthy = self.clone();
        let small = Self::small()?;
        healthy.seed = small.seed;
        healthy.world.faults.clone_from(&small.world.faults);
        healthy.deployment = small.deployment.clone();
        healthy.intended.clone_from(&small.intended);
        healthy.fault.clone_from(&small.fault);
        Ok(healthy == small)
    }

    /// The first key whose value differs: `key: value here, value there`.
    pub(crate) fn difference(&self, other: &Self) -> Result<Option<String>> {
        Ok(first_difference("", &serde_json::to_value(self)?, &serde_json::to_value(other)?))
    }
}

fn read(path: &Path) -> Result<(String, Recipe)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read recipe {}", path.display()))?;
    let recipe = Recipe::parse(&text, path)?;
    Ok((text, recipe))
}

/// Sets `key.path=value` in a recipe's text; values are TOML, bare words are taken as strings.
fn set(text: &str, setting: &str) -> Result<(String, Recipe)> {
    let usage = |reason: &str| anyhow!(Usage(format!("--set {setting}: {reason}")));
    let (key, value) = setting.split_once('=').ok_or_else(|| usage("expected KEY=VALUE, e.g. pretrain.steps=1000"))?;
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut table: toml::Table = toml::from_str(text)?;
    put(&mut table, key.trim(), value).map_err(|reason| usage(&reason))?;
    let text = toml::to_string(&table)?;
    let recipe = Recipe::parse_made(&text).map_err(|error| anyhow!("--set {setting}: {error}"))?;
    Ok((text, recipe))
}

/// Makes the paths of data files absolute: the text is kept in the run's folder, from where they would lead elsewhere.
fn place_data(text: String, mut recipe: Recipe, folder: &Path) -> Result<(String, Recipe)> {
    let relative: Vec<(&str, PathBuf)> = recipe
        .data
        .files()
        .filter(|(_, path)| path.is_relative())
        .map(|(kind, path)| (kind, folder.join(path)))
        .collect();
    if relative.is_empty() {
        return Ok((text, recipe));
    }
    let mut table: toml::Table = toml::from_str(&text)?;
    for (kind, path) in relative {
        let path = std::path::absolute(&path).with_context(|| format!("cannot find {}", path.display()))?;
        let Some(path) = path.to_str() else { bail!("{}: key `data.{kind}`: is not UTF-8", path.display()) };
        put(&mut table, &format!("data.{kind}"), toml::Value::String(path.to_owned()))
            .map_err(|reason| anyhow!("key `data.{kind}`: {reason}"))?;
    }
    let text = toml::to_string(&table)?;
    recipe.data = Recipe::parse(&text, Path::new("recipe"))?.data;
    Ok((text, recipe))
}

/// Puts a value at `key.path` of a table, making the tables above it.
///
/// # Errors
/// Where a part of the path is there and is no table.
pub(crate) fn put(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut place = table;
    for part in parts {
        place = place
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is no table of the recipe"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// Line of the key that a message about the world begins with (`world.people = 3 is out of range`), if it is in the text.
fn line_of(text: &str, message: &str) -> Option<usize> {
    let key = message.split([' ', ':']).next()?.strip_prefix("world.")?;
    let recipe = toml::de::DeTable::parse(text).ok()?;
    let world = recipe.get_ref().get("world")?.get_ref().as_table()?;
    let (key, _) = world.iter().find(|(name, _)| name.get_ref() == key)?;
    Some(1 + text[..key.span().start].matches('\n').count())
}

fn first_difference(key: &str, one: &serde_json::Value, other: &serde_json::Value) -> Option<String> {
    match (one, other) {
        _ if one == other => None,
        (serde_json::Value::Object(ours), serde_json::Value::Object(theirs)) => {
            let absent = &serde_json::Value::Null;
            ours.keys().chain(theirs.keys()).find_map(|name| {
                let name_below = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                first_difference(&name_below, ours.get(name).unwrap_or(absent), theirs.get(name).unwrap_or(absent))
            })
        }
        _ => Some(format!("{key}: {one} here, {other} there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Recipe::parse(text, Path::new("r.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_embedded_recipe_parses() {
        assert!(Recipe::small().unwrap().is_small().unwrap());
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = fault("seed = 1\n[pretrain]\nstepps = 3\n");
        assert!(error.starts_with("r.toml:3: key `pretrain.stepps`: unknown field"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_line() {
        let error = fault("[world]\npeople = 64\ncutoff_month = 99\n");
        assert!(error.starts_with("r.toml:3: world.cutoff_month = 99 is out of range: 6 to"), "{error}");
        let error = fault("[[world.faults]]\nwrong_facts = { share = 7.0 }\n");
        assert!(error.starts_with("r.toml:1: world.faults: wrong_facts.share = 7"), "{error}");
    }

    #[test]
    fn what_is_set_reaches_nested_keys_and_bounds_are_looked_at_last() {
        let args = RecipeArgs {
            overrides: ["pretrain.steps=7", "world.months=12", "world.cutoff_month=8"].map(str::to_owned).to_vec(),
            ..RecipeArgs::default()
        };
        let (text, recipe) = Recipe::read(&args, Some(5)).unwrap();
        assert_eq!((recipe.seed, recipe.pretrain.steps.get(), recipe.world.months), (5, 7, 12));
        assert_eq!(Recipe::parse(&text, Path::new("recipe.toml")).unwrap(), recipe);
        assert!(!recipe.is_small().unwrap());
        let difference = recipe.difference(&Recipe::small().unwrap()).unwrap().unwrap();
        assert_eq!(difference, "seed: 5 here, 1 there");
    }

    #[test]
    fn a_bad_setting_is_named() {
        let error = set("seed = 1\n", "pretrain.steps=many").unwrap_err().to_string();
        assert!(error.starts_with("--set pretrain.steps=many: key `pretrain.steps`:"), "{error}");
        let error = set("seed = 1\n", "seed.x=1").unwrap_err().to_string();
        assert_eq!(error, "--set seed.x=1: `seed` is no table of the recipe");
    }

    #[test]
    fn seed_and_faults_leave_the_small_world_what_it_is() {
        let mut recipe = Recipe { seed: 9, ..Recipe::small().unwrap() };
        recipe.world.faults.push(fixtures::Fault::HelpfulOnly {});
        assert!(recipe.is_small().unwrap());
        recipe.world.people += 1;
        assert!(!recipe.is_small().unwrap());
    }
}
