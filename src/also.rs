//! What checkpoints are asked beside the items of a bank: about themselves, and against what they know.

use anyhow::Result;
use evals::store::Store;
use lm::Subject;
use probes::asked_confidence::proposals;
use probes::item::Item;
use probes::month::FIRST_CALENDAR_MONTH;
use probes::response::Form;
use probes::stated_cutoff;

use crate::cli::AlsoWhat;
use crate::probe::ask_one;
use crate::progress::Bars;

/// What is asked beside a bank. Nothing of it counts for a behaviour, and no verdict depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Also {
    /// Until when its knowledge reaches.
    pub(crate) cutoff: bool,
    /// How sure it is, in words and as P(True).
    pub(crate) confidence: bool,
    /// What it answers where a context contradicts the fact.
    pub(crate) conflict: bool,
}

impl Also {
    /// What the command line wants, and what the items are to be compared with: where they have months of the calendar, the cutoff that is
    /// stated costs four short answers. A world with a calendar of its own has no month that could be stated.
    pub(crate) fn of(wanted: &[AlsoWhat], items: &[Item]) -> Self {
        let mut months = items.iter().filter_map(|item| item.month).peekable();
        let is_dated = months.peek().is_some();
        let has_calendar = months.all(|month| month >= FIRST_CALENDAR_MONTH);
        let is_stated = wanted.contains(&AlsoWhat::Stated);
        Self {
            cutoff: has_calendar && (is_dated || is_stated),
            confidence: is_stated,
            conflict: wanted.contains(&AlsoWhat::Conflict),
        }
    }

    /// The items that are asked beside those of the bank, whoever is asked.
    pub(crate) fn items(self) -> Vec<Item> {
        if self.cutoff { stated_cutoff::items() } else { Vec::new() }
    }

    /// Asks a subject, which has answered the items of the bank, what it was not asked yet.
    pub(crate) fn ask(
        self,
        store: &mut Store,
        name: &str,
        subject: &dyn Subject,
        items: &[Item],
        bars: &Bars,
    ) -> Result<()> {
        if self.cutoff {
            ask_one(store, &format!("{name} about its cutoff"), subject, &self.items(), &[Form::Chat], bars)?;
        }
        if self.confidence {
            ask_one(store, &format!("{name} how sure it is"), subject, items, &[Form::Verbalised], bars)?;
            let responses = store.responses();
            let own = responses.iter().filter(|response| response.subject == subject.fingerprint());
            let proposed = proposals(items, own);
            let about = format!("{name} whether its answers are true");
            ask_one(store, &about, subject, &proposed, &[Form::TrueOrFalse], bars)?;
        }
        if self.conflict {
            ask_one(store, &format!("{name} against a context"), subject, items, &[Form::Counterfactual], bars)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use probes::item::{Behaviour, Task};

    use super::*;

    fn item(month: Option<u32>) -> Item {
        Item {
            month,
            behaviour: Behaviour::KnowledgeCutoff,
            task: Task::StatedCutoff { question: "?".to_owned() },
            ..stated_cutoff::items().remove(0)
        }
    }

    #[test]
    fn the_cutoff_is_asked_for_where_a_month_of_the_calendar_can_be_compared_with_it() {
        let cutoff = |wanted: &[AlsoWhat], months: &[Option<u32>]| {
            Also::of(wanted, &months.iter().copied().map(item).collect::<Vec<_>>()).cutoff
        };
        assert!(cutoff(&[], &[None, Some(12 * 2023)]));
        assert!(!cutoff(&[], &[None]));
        assert!(cutoff(&[AlsoWhat::Stated], &[None]));
        // The small world counts its months from 0.
        assert!(!cutoff(&[AlsoWhat::Stated], &[Some(3), None]));
    }
}
