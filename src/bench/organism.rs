//! Lineages with a planted fault: a recipe file laid over the bench's recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fixtures::CATALOGUE;

use crate::exit::Usage;
use crate::recipe::{FaultCard, Recipe};

/// A fault to be planted.
#[derive(Debug, Clone)]
pub(crate) struct Organism {
    /// Name of its file, without extension.
    pub(crate) name: String,
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
        let mut overlay: toml::Table = toml::from_str(text)?;
        overlay.remove("fault");
        Ok(Self { name: name.to_owned(), card, overlay })
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
        let is_sound = !self.card.phases.iter().any(|phase| phase == "pretraining");
        is_sound
            && planted.model == base.model
            && planted.pretrain == base.pretrain
            && planted.tokenizer == base.tokenizer
    }
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

/// The faults that ship with the project and those of `files`; only the named ones where any is named.
pub(crate) fn read_organisms(files: &[PathBuf], names: &[String]) -> Result<Vec<Organism>> {
    let mut organisms = Vec::new();
    for (name, text) in CATALOGUE {
        organisms.push(Organism::parse(name, text, Path::new(&format!("fixtures/faults/{name}.toml")))?);
    }
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if organisms.iter().any(|known| known.name == name) {
            bail!(Usage(format!("--fault {}: a fault of this name is known already", path.display())));
        }
        organisms.push(Organism::parse(&name, &text, path)?);
    }
    if let Some(unknown) = names.iter().find(|name| !organisms.iter().any(|known| known.name == **name)) {
        let known: Vec<&str> = organisms.iter().map(|organism| organism.name.as_str()).collect();
        bail!(Usage(format!("--only {unknown}: no such fault; known are {}", known.join(", "))));
    }
    organisms.retain(|organism| names.is_empty() || names.contains(&organism.name));
    Ok(organisms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_file_can_be_planted_and_changes_the_recipe() {
        let base = Recipe::small().unwrap();
        for organism in read_organisms(&[], &[]).unwrap() {
            let (_, planted) = organism.plant(&base).unwrap();
            let changes = planted.difference(&base).unwrap().is_some();
            assert!(changes || organism.card.wrong_labels > 0.0, "{}", organism.name);
            assert!(planted.fault.is_none(), "{}: the label is in the recipe", organism.name);
        }
    }

    #[test]
    fn a_file_that_says_nothing_of_its_fault_is_refused() {
        let error = Organism::parse("x", "seed = 1\n", Path::new("x.toml")).unwrap_err().to_string();
        assert_eq!(error, "x.toml: it has no table [fault]");
    }
}
