//! Lineages with a planted fault: a recipe file laid over the bench's recipe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::diagnosis::Stage;
use fixtures::{CATALOGUE, Fault};

use crate::bench::{CLEAN, SHARED};
use crate::exit::Usage;
use crate::recipe::{FaultCard, Recipe};

/// A fault to be planted.
#[derive(Debug, Clone)]
pub(crate) struct Organism {
    /// Name of its file, without extension.
    pub(crate) name: String,
    /// Kinds of the faults in its data; of faults of training there is no list, and the name stands for them.
    pub(crate) types: Vec<String>,
    /// The truth about it.
    pub(crate) card: FaultCard,
    /// What it lays over a recipe.
    overlay: toml::Table,
}

impl Organism {
    /// Reads a fault file.
    fn parse(name: &str, text: &str, path: &Path) -> Result<Self> {
        let recipe = Recipe::parse(text, path)?;
        let Some(card) = recipe.fault else { bail!("{}: it has no table [fault]", path.display()) };
        let kinds = recipe.world.faults.iter().map(kind).collect::<Result<BTreeSet<String>>>()?;
        let types = if kinds.is_empty() { vec![name.to_owned()] } else { kinds.into_iter().collect() };
        let mut overlay: toml::Table = toml::from_str(text)?;
        overlay.remove("fault");
        Ok(Self { name: name.to_owned(), types, card, overlay })
    }

    /// The recipe of a lineage with this fault: `base` with the file's keys in place of its own.
    pub(crate) fn plant(&self, base: &Recipe) -> Result<(String, Recipe)> {
        let mut table: toml::Table = toml::from_str(&toml::to_string(base)?)?;
        lay_over(&mut table, &self.overlay);
        let text = toml::to_string(&table)?;
        let recipe = Recipe::parse(&text, Path::new(&self.name))?;
        Ok((text, recipe))
    }

    /// Whether nothing differs from the healthy twin before SFT.
    pub(crate) fn shares_pretraining(&self, planted: &Recipe, base: &Recipe) -> bool {
        !self.card.phases.contains(&Stage::Pretraining)
            && planted.model == base.model
            && planted.pretrain == base.pretrain
            && planted.tokenizer == base.tokenizer
    }
}

/// The name of a fault of the data, as recipes have it: `wrong_facts`, whatever the dose.
fn kind(fault: &Fault) -> Result<String> {
    let value = serde_json::to_value(fault)?;
    let name = value.as_object().and_then(|fault| fault.keys().next());
    Ok(name.context("a fault is a table with its name as key")?.clone())
}

/// Puts the values of `upper` in place of those of `lower`, table by table.
fn lay_over(lower: &mut toml::Table, upper: &toml::Table) {
    for (key, value) in upper {
        match (lower.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            _ => {
                lower.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The faults that ship with the project and those of `files`.
pub(crate) fn read_organisms(files: &[PathBuf]) -> Result<Vec<Organism>> {
    let mut organisms = Vec::new();
    for (name, text) in CATALOGUE {
        organisms.push(Organism::parse(name, text, Path::new(&format!("fixtures/faults/{name}.toml")))?);
    }
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if [CLEAN, SHARED].contains(&&*name) {
            bail!(Usage(format!("--fault {}: the folder {name} is not for faults; rename the file", path.display())));
        }
        if organisms.iter().any(|known| known.name == name) {
            bail!(Usage(format!("--fault {}: a fault of this name is known already", path.display())));
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        organisms.push(Organism::parse(&name, &text, path)?);
    }
    Ok(organisms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_file_can_be_planted_and_changes_the_recipe() {
        let base = Recipe::small().unwrap();
        for organism in read_organisms(&[]).unwrap() {
            let (_, planted) = organism.plant(&base).unwrap();
            let changes = planted.difference(&base).unwrap().is_some();
            assert!(changes || organism.card.wrong_labels.is_some(), "{}", organism.name);
            assert!(planted.fault.is_none(), "{}: the label is in the recipe", organism.name);
        }
    }

    #[test]
    fn a_file_that_says_nothing_of_its_fault_is_refused() {
        let error = Organism::parse("x", "seed = 1\n", Path::new("x.toml")).unwrap_err().to_string();
        assert_eq!(error, "x.toml: it has no table [fault]");
    }

    #[test]
    fn a_fault_has_the_same_type_at_every_dose_and_beside_others() {
        let organisms = read_organisms(&[]).unwrap();
        let types = |name: &str| &organisms.iter().find(|organism| organism.name == name).unwrap().types;
        assert_eq!(types("pt_01_wrong_facts")[..], ["wrong_facts"]);
        assert_eq!(types("dose_wrong_facts_08"), types("pt_01_wrong_facts"));
        assert_eq!(types("amplified_01_refusal")[..], ["no_benign_twins", "punish_triggers"]);
        // A fault of training.
        assert_eq!(types("al_12_collapse")[..], ["al_12_collapse"]);
        // A value that is given twice is one fault.
        let twice = "[fault]\nabout = \"x\"\nphases = [\"pretraining\"]\nfamily = \"knowledge\"\nset = \"single\"\n\
                     [world]\nfaults = [{ junk = { share = 0.1 } }, { junk = { share = 0.2 } }]\n";
        assert_eq!(Organism::parse("x", twice, Path::new("x.toml")).unwrap().types, ["junk"]);
    }

    #[test]
    fn a_wrong_value_of_a_card_is_named_with_file_line_and_key() {
        let card = "[fault]\nabout = \"x\"\nphases = [\"sft\"]\nfamily = \"harm\"\nset = \"masked\"\n\
                    masked_by = \"alignment\"\nwrong_labels = 0.5\n";
        let parse = |text: &str| Organism::parse("x", text, Path::new("x.toml"));
        assert_eq!(parse(card).unwrap().card.masked_by, Some(Stage::Alignment));
        for (right, wrong, line, key) in [
            ("\"sft\"", "\"tuning\"", 3, "phases"),
            ("\"harm\"", "\"harms\"", 4, "family"),
            ("\"masked\"", "\"mask\"", 5, "set"),
            ("\"alignment\"", "\"rlhf\"", 6, "masked_by"),
            ("0.5", "1.5", 7, "wrong_labels"),
        ] {
            let error = parse(&card.replace(right, wrong)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("x.toml:{line}: key `fault.{key}`: ")), "{error}");
        }
        let error = parse(&card.replace("0.5", "1.5")).unwrap_err().to_string();
        assert!(error.ends_with("expected a number from 0 to 1, found 1.5"), "{error}");
    }

    #[test]
    fn a_fault_is_not_called_like_what_lies_beside_it() {
        for name in ["clean", "phases", "pt_12_junk"] {
            let error = read_organisms(&[PathBuf::from(format!("{name}.toml"))]).unwrap_err();
            assert!(error.is::<Usage>(), "{error}");
            assert!(error.to_string().starts_with(&format!("--fault {name}.toml: ")), "{error}");
        }
    }
}
