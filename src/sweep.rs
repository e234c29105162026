//! A sweep: one recipe that stands for many, by lists of values for any of its keys.
//!
//! ```toml
//! [[sweep]]                       # every combination of the values below
//! alignment = [["rlhf"]]
//! rlhf.kl = [0.02, 0.1, 0.5]
//! rlhf.method = [{ rloo = {} }, { ppo = {} }]
//!
//! [[sweep]]                       # and of these
//! alignment = [["dpo"]]
//! dpo.beta = [0.1, 0.5]
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::RecipeArgs;
use crate::recipe::{Recipe, put};

/// The recipes that a recipe with `[sweep]` or several `[[sweep]]` stands for, each with its text.
///
/// Recipes that come out alike are given once. A recipe without a sweep stands for itself.
pub(crate) fn expand(args: &RecipeArgs) -> Result<Vec<(String, Recipe)>> {
    let path = args.recipe.as_deref().unwrap_or(Path::new("recipe"));
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read recipe {}", path.display()))?;
    let mut base: toml::Table = trainer::recipe::parse(path, &text)?;
    let grids = match base.remove("sweep") {
        None => vec![toml::Table::new()],
        Some(toml::Value::Table(grid)) => vec![grid],
        Some(toml::Value::Array(grids)) => grids
            .into_iter()
            .map(|grid| match grid {
                toml::Value::Table(grid) => Ok(grid),
                other => bail!("{}: key `sweep`: expected tables, found {other}", path.display()),
            })
            .collect::<Result<_>>()?,
        Some(other) => bail!("{}: key `sweep`: expected a table, found {other}", path.display()),
    };
    let mut recipes: Vec<(String, Recipe)> = Vec::new();
    for grid in grids {
        let mut axes = Vec::new();
        collect_axes("", &grid, path, &mut axes)?;
        for chosen in combine(&axes) {
            let mut table = base.clone();
            for (key, value) in &chosen {
                put(&mut table, key, value.clone())
                    .map_err(|reason| anyhow::anyhow!("{}: key `sweep.{key}`: {reason}", path.display()))?;
            }
            let name = chosen.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
            let (text, recipe) = recipe_of(&table, path, args)
                .with_context(|| format!("{}: the setting {name} makes no recipe", path.display()))?;
            if !recipes.iter().any(|(_, known)| *known == recipe) {
                recipes.push((text, recipe));
            }
        }
    }
    Ok(recipes)
}

/// The recipe of one setting: a text that nobody has seen.
fn recipe_of(table: &toml::Table, path: &Path, args: &RecipeArgs) -> Result<(String, Recipe)> {
    let text = toml::to_string(table)?;
    let recipe = Recipe::parse_made(&text)?;
    recipe.world.validate().map_err(anyhow::Error::msg)?;
    Recipe::complete((text, recipe), path.parent().unwrap_or(Path::new("")), args.skip_bad, &args.overrides)
}

/// One key of a sweep and the values it takes.
type SweptKey = (String, Vec<toml::Value>);

/// The keys of a grid with their lists; tables are gone into, so that `rlhf.kl = [...]` may be written with or without quotes.
fn collect_axes(above: &str, grid: &toml::Table, path: &Path, axes: &mut Vec<SweptKey>) -> Result<()> {
    for (key, value) in grid {
        let key = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(below) => collect_axes(&key, below, path, axes)?,
            toml::Value::Array(values) if !values.is_empty() => axes.push((key, values.clone())),
            other => bail!("{}: key `sweep.{key}`: expected a list of values, found {other}", path.display()),
        }
    }
    Ok(())
}

/// Every choice of one value for each key; the last key changes fastest.
fn combine(axes: &[SweptKey]) -> Vec<Vec<(String, toml::Value)>> {
    axes.iter().fold(vec![Vec::new()], |chosen, (key, values)| {
        let extend = |so_far: &Vec<(String, toml::Value)>| -> Vec<Vec<(String, toml::Value)>> {
            values.iter().map(|value| [so_far.as_slice(), &[(key.clone(), value.clone())]].concat()).collect()
        };
        chosen.iter().flat_map(extend).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_text(text: &str) -> Result<Vec<(String, Recipe)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweep.toml");
        std::fs::write(&path, text).unwrap();
        let args = RecipeArgs { recipe: Some(path), ..RecipeArgs::default() };
        expand(&args).map_err(|error| format!("{error:#}").replace(&dir.path().display().to_string(), "DIR"))
    }

    #[test]
    fn a_grid_stands_for_every_combination_and_grids_are_joined() {
        let recipes = expand_text(
            "seed = 4\n[[sweep]]\nalignment = [[\"rlhf\"]]\nrlhf.kl = [0.1, 0.5]\n\"rlhf.rounds\" = [10, 20]\n\
             [[sweep]]\nalignment = [[\"dpo\"], [\"rlhf\"]]\nrlhf.kl = [0.1]\nrlhf.rounds = [20]\n",
        )
        .unwrap();
        let found: Vec<_> =
            recipes.iter().map(|(_, r)| (r.alignment.len(), r.rlhf.kl.get(), r.rlhf.rounds.get(), r.seed)).collect();
        // The last setting of the second grid is the second of the first.
        assert_eq!(found, [(1, 0.1, 10, 4), (1, 0.1, 20, 4), (1, 0.5, 10, 4), (1, 0.5, 20, 4), (1, 0.1, 20, 4)]);
        for (text, recipe) in &recipes {
            assert_eq!(Recipe::parse(text, Path::new("r")).unwrap(), *recipe);
        }
    }

    #[test]
    fn a_method_is_swept_by_its_table() {
        let recipes = expand_text("[sweep]\nrlhf.method = [{ rloo = {} }, { ppo = { epochs = 2 } }]\n").unwrap();
        assert_eq!(recipes.len(), 2);
    }

    #[test]
    fn faults_of_a_sweep_are_named() {
        let error = expand_text("[sweep]\nrlhf.kl = 3\n").unwrap_err();
        assert_eq!(error, "DIR/sweep.toml: key `sweep.rlhf.kl`: expected a list of values, found 3");
        let error = expand_text("[sweep]\nrlhf.kll = [3]\n").unwrap_err();
        let expected = "DIR/sweep.toml: the setting rlhf.kll = 3 makes no recipe: key `rlhf.kll`: unknown field";
        assert!(error.starts_with(expected), "{error}");
        let error = expand_text("[sweep]\nworld.people = [3]\n").unwrap_err();
        assert!(error.contains("the setting world.people = 3 makes no recipe: world.people = 3 is out of"), "{error}");
        let error = expand_text("seed = 3\n[sweep]\nseed.x = [3]\n").unwrap_err();
        assert!(error.contains("key `sweep.seed.x`: `seed` is no table of the recipe"), "{error}");
        let error = expand_text("sweep = 3\n").unwrap_err();
        assert_eq!(error, "DIR/sweep.toml: key `sweep`: expected a table, found 3");
    }
}
