//! Which number and which mark each setting has, the same in every chart and table.

use std::collections::BTreeMap;

use evals::comparison::{Comparison, Setting, SettingKind};

use super::Reference;
use crate::chart::plane::Mark;
use crate::text::clean_name;

/// The settings of a comparison, numbered.
pub(crate) struct Roster<'a> {
    settings: &'a [Setting],
    labels: Vec<String>,
    indices: BTreeMap<&'a str, usize>,
}

impl<'a> Roster<'a> {
    /// Numbers the trained settings in their order; explored ones have no number, the start is called so.
    pub(crate) fn over(comparison: &'a Comparison) -> Self {
        let mut n = 0;
        let labels = comparison
            .settings
            .iter()
            .map(|setting| match setting.kind {
                SettingKind::Start => "start".to_owned(),
                SettingKind::Trained => {
                    n += 1;
                    n.to_string()
                }
                SettingKind::Explored { .. } => String::new(),
            })
            .collect();
        let indices = comparison.settings.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
        Self { settings: &comparison.settings, labels, indices }
    }

    /// The settings with their indices.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (usize, &'a Setting)> + use<'a> {
        self.settings.iter().enumerate()
    }

    /// The settings that pairs are made of: the start and the trained ones.
    pub(crate) fn measured(&self) -> Vec<(usize, &'a Setting)> {
        self.settings().filter(|(_, s)| !super::is_explored(s)).collect()
    }

    /// Position of the setting with this name.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.indices.get(name).copied()
    }

    /// `3`, `start`, or nothing for an explored setting.
    pub(crate) fn label(&self, index: usize) -> &str {
        &self.labels[index]
    }

    /// `3 rloo, kl 0.1`; the start and explored settings have their name alone.
    pub(crate) fn title(&self, index: usize) -> String {
        let name = clean_name(&self.settings[index].name);
        match self.settings[index].kind {
            SettingKind::Trained => format!("{} {name}", self.labels[index]),
            _ => name,
        }
    }

    /// How it is drawn.
    pub(crate) fn mark(&self, index: usize) -> Mark {
        match &self.settings[index].kind {
            SettingKind::Start => Mark::Start,
            SettingKind::Trained if self.settings[index].is_non_dominated => Mark::Best,
            SettingKind::Trained => Mark::Dominated,
            SettingKind::Explored { by, .. } => Mark::Explored(*by),
        }
    }

    /// A setting that a text names, whether or not the comparison has it.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        let index = self.index(name);
        let number = match index.map(|i| (i, &self.settings[i].kind)) {
            Some((i, SettingKind::Trained)) => self.labels[i].clone(),
            _ => String::new(),
        };
        let anchor = index.map(anchor);
        Reference { number, name: clean_name(name), anchor }
    }

    /// `rloo, kl 0.1 (3)`, for running text.
    pub(crate) fn numbered(&self, name: &str) -> String {
        self.index(name).map_or_else(|| clean_name(name), |i| self.title(i))
    }
}

/// Where a setting's row stands. Names may hold anything, so anchors count.
pub(crate) fn anchor(index: usize) -> String {
    format!("setting-{index}")
}
