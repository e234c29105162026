//! The recipe of a run: one TOML file from the world to the last phase.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use fixtures::WorldRecipe;
use serde::{Deserialize, Serialize};
use trainer::recipe::{ModelRecipe, PretrainRecipe, SftRecipe, TokenizerRecipe};
use trainer::{constitution::ConstitutionRecipe, reward::RewardRecipe, rlhf::RlhfRecipe};

use crate::cli::RecipeArgs;

/// The recipe of the embedded small world.
pub(crate) const SMALL: &str = include_str!("../recipes/small.toml");

/// Everything a run is made from; every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recipe {
    /// Draws the data's wording, the initial weights, the order of batches and every sample.
    pub(crate) seed: u64,
    /// The small world that the data come from.
    pub(crate) world: WorldRecipe,
    /// Shape of the decoder.
    pub(crate) model: ModelRecipe,
    /// The tokenizer.
    pub(crate) tokenizer: TokenizerRecipe,
    /// Pretraining.
    pub(crate) pretrain: PretrainRecipe,
    /// Supervised fine-tuning.
    pub(crate) sft: SftRecipe,
    /// Reward model.
    pub(crate) reward: RewardRecipe,
    /// Reinforcement learning from the reward model.
    pub(crate) rlhf: RlhfRecipe,
    /// Constitutional AI.
    pub(crate) constitution: ConstitutionRecipe,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            world: WorldRecipe::default(),
            model: ModelRecipe::default(),
            tokenizer: TokenizerRecipe::default(),
            pretrain: PretrainRecipe::default(),
            sft: SftRecipe::default(),
            reward: RewardRecipe::default(),
            rlhf: RlhfRecipe::default(),
            constitution: ConstitutionRecipe::default(),
        }
    }
}

impl Recipe {
    /// Reads the recipe that the arguments ask for: its text with overrides applied, and its meaning.
    pub(crate) fn read(args: &RecipeArgs) -> Result<(String, Self)> {
        let (name, text) = match &args.recipe {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read recipe {}", path.display()))?;
                (path.display().to_string(), text)
            }
            None => ("the embedded recipe".to_owned(), SMALL.to_owned()),
        };
        // The text as typed is parsed first, so that its own mistakes are shown at their own lines.
        let recipe = Self::parse(&text, &name)?;
        if args.overrides.is_empty() && args.seed.is_none() {
            return Ok((text, recipe));
        }
        let text = apply_overrides(&text, &args.overrides, args.seed)?;
        let recipe = Self::parse(&text, &format!("{name} with --set"))?;
        Ok((text, recipe))
    }

    /// Reads the recipe kept in a run folder.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read recipe {}", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The recipe with every default written out, as indented JSON.
    pub(crate) fn to_plan(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Parses a recipe; errors name the file, the line and the key.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|error| anyhow!("{name}: {error}"))?;
        recipe.world.validate().map_err(|reason| anyhow!("{name}: {reason}"))?;
        Ok(recipe)
    }
}

/// Sets `key.path=value` in the recipe's text; values are TOML, bare words are taken as strings.
fn apply_overrides(text: &str, overrides: &[String], seed: Option<u64>) -> Result<String> {
    let mut table: toml::Table = toml::from_str(text)?;
    let seed = seed.map(|seed| format!("seed={seed}"));
    for setting in overrides.iter().chain(&seed) {
        let Some((key, value)) = setting.split_once('=') else {
            bail!("--set {setting}: expected KEY=VALUE, e.g. --set pretrain.steps=1000");
        };
        let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        let mut parts: Vec<&str> = key.trim().split('.').collect();
        let last = parts.pop().unwrap_or_default();
        let mut place = &mut table;
        for part in parts {
            place = place
                .entry(part)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .ok_or_else(|| anyhow!("--set {setting}: {part} is not a table of the recipe"))?;
        }
        place.insert(last.to_owned(), value);
    }
    Ok(toml::to_string(&table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_recipe_parses() {
        Recipe::parse(SMALL, "small").unwrap();
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = Recipe::parse("seed = 1\n[pretrain]\nstepps = 3\n", "r.toml").unwrap_err().to_string();
        assert!(error.contains("r.toml") && error.contains("line 3") && error.contains("stepps"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_key() {
        let error = Recipe::parse("[world]\ncutoff_month = 99\n", "r.toml").unwrap_err().to_string();
        assert!(error.contains("world.cutoff_month = 99") && error.contains("6 to"), "{error}");
    }

    #[test]
    fn overrides_reach_nested_keys() {
        let text = apply_overrides("seed = 1\n", &["pretrain.steps=7".to_owned()], Some(5)).unwrap();
        let recipe = Recipe::parse(&text, "test").unwrap();
        assert_eq!((recipe.seed, recipe.pretrain.steps.get()), (5, 7));
    }
}
