//! Settings: what distinguishes runs that are compared, and their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::recipe::{Alignment, Recipe};

/// Keys of a recipe with their values as text.
pub(crate) type Values = BTreeMap<String, String>;

/// One way of alignment of one recipe, without its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Short and unique among those that are compared.
    pub(crate) name: String,
    /// The way.
    pub(crate) alignment: Alignment,
    /// The keys in which those compared differ, as far as they matter to the way.
    pub(crate) values: Values,
}

/// The setting of each way of alignment of each recipe, in order; recipes that differ in their seed alone have equal ones.
pub(crate) fn name_settings(recipes: &[Recipe]) -> Result<Vec<Vec<Setting>>> {
    let mut all: Vec<Vec<(Alignment, Values)>> = Vec::new();
    for recipe in recipes {
        let mut values = Values::new();
        flatten("", &serde_json::to_value(recipe)?, &mut values);
        values.retain(|key, _| key != "seed" && !key.starts_with("alignment"));
        for (key, value) in &mut values {
            if key.starts_with("data.") {
                *value = file_name(value, recipes);
            }
        }
        all.push(recipe.alignment.iter().map(|&way| (way, relevant(way, &values))).collect());
    }
    for way in Alignment::ALL {
        fill_in(all.iter_mut().flatten().filter(|(own, _)| *own == way).map(|(_, values)| values).collect());
    }
    let mut named: Vec<Vec<Setting>> = Vec::new();
    let differing: BTreeMap<Alignment, BTreeSet<String>> = Alignment::ALL
        .into_iter()
        .map(|way| {
            let of_way: Vec<&Values> = all.iter().flatten().filter(|(own, _)| *own == way).map(|(_, v)| v).collect();
            (way, differing_keys(&of_way))
        })
        .collect();
    for ways in all {
        let name = |(alignment, values): (Alignment, Values)| {
            let keys = &differing[&alignment];
            let values: Values = values.into_iter().filter(|(key, _)| keys.contains(key)).collect();
            Setting { name: name_of(alignment, &values, keys), alignment, values }
        };
        named.push(ways.into_iter().map(name).collect());
    }
    Ok(named)
}

/// The last part of a data file's path, where no other recipe has another file of this name.
fn file_name(path: &str, recipes: &[Recipe]) -> String {
    let Some(name) = Path::new(path).file_name() else { return path.to_owned() };
    let mut files = recipes.iter().flat_map(|recipe| recipe.data.files());
    let is_shared = files.any(|(_, other)| other != Path::new(path) && other.file_name() == Some(name));
    if is_shared { path.to_owned() } else { name.to_string_lossy().into_owned() }
}

/// Sections that have no part in a way of alignment.
fn relevant(way: Alignment, values: &Values) -> Values {
    let foreign: &[&str] = match way {
        Alignment::Rlhf => &["dpo", "sl_cai", "rl_cai"],
        Alignment::Dpo => &["reward", "rlhf", "sl_cai", "rl_cai"],
        Alignment::Constitutional => &["reward", "rlhf", "dpo"],
    };
    let is_own = |key: &&String| !foreign.contains(&key.split('.').next().unwrap_or_default());
    values.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Writes `default` for a key that others have and that is left off where it has its default, so that it counts as a difference.
/// Not for what belongs to a choice (`rlhf.method.ppo.epochs`): where another was made it means nothing.
fn fill_in(mut all: Vec<&mut Values>) {
    let keys: BTreeSet<String> = all.iter().flat_map(|values| values.keys().cloned()).collect();
    let is_of_choice = |key: &String| keys.iter().any(|other| key.starts_with(&format!("{other}.")));
    for key in keys.iter().filter(|key| !is_of_choice(key)) {
        for values in &mut all {
            values.entry(key.clone()).or_insert_with(|| "default".to_owned());
        }
    }
}

/// Keys whose values differ; of those that not all have (a method's own), the ones that differ among those that have them.
fn differing_keys(all: &[&Values]) -> BTreeSet<String> {
    let keys: BTreeSet<&String> = all.iter().flat_map(|values| values.keys()).collect();
    let differs = |key: &&String| {
        let found: BTreeSet<&String> = all.iter().filter_map(|values| values.get(*key)).collect();
        found.len() > 1
    };
    keys.into_iter().filter(differs).cloned().collect()
}

/// `rlhf: kl 0.1, method ppo`; keys are shortened to their last part where that is unique.
fn name_of(alignment: Alignment, values: &Values, keys: &BTreeSet<String>) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let short = |key: &str| {
        let is_unique = keys.iter().filter(|other| last(other) == last(key)).count() == 1;
        if is_unique { last(key).replace('_', " ") } else { key.to_owned() }
    };
    let parts: Vec<String> = values.iter().map(|(key, value)| format!("{} {value}", short(key))).collect();
    let way = alignment.name();
    if parts.is_empty() { way.to_owned() } else { format!("{way}: {}", parts.join(", ")) }
}

/// Leaves of a value by dotted key. A choice between tables (`method = { ppo = {...} }`) is a leaf of its own, the name chosen.
fn flatten(key: &str, value: &Value, into: &mut Values) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Object(table) => {
            if let (1, Some((name, chosen @ Value::Object(_)))) = (table.len(), table.iter().next()) {
                into.insert(key.to_owned(), name.clone());
                flatten(&below(name), chosen, into);
                return;
            }
            for (name, value) in table {
                flatten(&below(name), value, into);
            }
        }
        Value::String(text) => {
            into.insert(key.to_owned(), text.clone());
        }
        other => {
            into.insert(key.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Vec<String>> {
        let recipes: Vec<Recipe> = texts.iter().map(|text| Recipe::parse(text, Path::new("r")).unwrap()).collect();
        let settings = name_settings(&recipes).unwrap();
        settings.into_iter().map(|ways| ways.into_iter().map(|setting| setting.name).collect()).collect()
    }

    #[test]
    fn settings_are_named_after_what_differs_and_matters() {
        let found = names(&[
            "alignment = [\"rlhf\"]\nrlhf.kl = 0.1\n",
            "seed = 9\nalignment = [\"rlhf\", \"constitutional\"]\nrlhf.kl = 0.5\n[rlhf.method.ppo]\n",
            "alignment = [\"dpo\"]\nrlhf.kl = 7.0\n",
        ]);
        assert_eq!(
            found,
            [vec!["rlhf: kl 0.1, method rloo"], vec!["rlhf: kl 0.5, method ppo", "constitutional"], vec!["dpo"],]
        );
    }

    #[test]
    fn what_is_left_off_by_default_makes_a_difference_where_another_sets_it() {
        let found = names(&[
            "alignment = [\"constitutional\"]\n",
            "alignment = [\"constitutional\"]\nworld.broad_principle = true\n",
        ]);
        assert_eq!(found, [["constitutional: broad principle default"], ["constitutional: broad principle true"]]);
    }

    #[test]
    fn seeds_make_no_difference_and_ambiguous_keys_are_whole() {
        let found = names(&[
            "alignment = [\"rlhf\"]\nrlhf.lr = 1e-4\nreward.lr = 1e-4\n",
            "seed = 5\nalignment = [\"rlhf\"]\nrlhf.lr = 1e-4\nreward.lr = 2e-4\n",
            "seed = 6\nalignment = [\"rlhf\"]\nrlhf.lr = 2e-4\nreward.lr = 2e-4\n",
        ]);
        assert_eq!(found[0], ["rlhf: reward.lr 0.0001, rlhf.lr 0.0001"]);
        assert_ne!(found[1], found[2]);
        assert_eq!(names(&["seed = 1\n", "seed = 2\n"]), [["rlhf", "constitutional"], ["rlhf", "constitutional"]]);
    }
}
