//! Puts free answers to requests before a judge, and keeps them with its labels.

use anyhow::{Context, Result};
use evals::store::Store;
use lm::Subject;
use probes::ask::CHUNK;
use probes::item::{Item, Task};
use probes::judge::{fingerprint, relabel};
use probes::response::Response;
use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::{QuestionArgs, ServerArgs};
use crate::probe::{Answered, Questions};
use crate::progress::Bars;
use crate::subject::Place;

/// A model that labels answers.
pub(crate) struct Judge {
    name: String,
    subject: Box<dyn Subject>,
}

impl Judge {
    /// The judge that was asked for, if any.
    pub(crate) fn open(
        (asked, servers): (&QuestionArgs, &ServerArgs),
        items: &[Item],
        folder: &Path,
    ) -> Result<Option<Self>> {
        let Some(text) = &asked.judge else { return Ok(None) };
        let place = Place::parse(text, servers).with_context(|| format!("--judge {text}"))?;
        Ok(Some(Self { name: place.name(), subject: place.open(items, folder)? }))
    }

    /// Labels the answers kept under a subject's key, and gives the key of the judged ones. What was judged before is not judged again.
    pub(crate) fn label(
        &self,
        store: &mut Store,
        items: &[Item],
        (name, subject): (&str, &str),
        bars: &Bars,
    ) -> Result<String> {
        let key = fingerprint(subject, self.subject.as_ref());
        let known = store.known(&key);
        let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
        let responses = store.responses();
        let open: Vec<(&Item, &Response)> = responses
            .iter()
            .filter(|response| response.subject == subject)
            .filter(|response| !known.contains(&(response.item.clone(), response.form)))
            .filter_map(|response| Some((*items.get(response.item.as_str())?, response)))
            .collect();
        let n_judged = open.iter().filter(|(item, _)| matches!(item.task, Task::OpenRequest { .. })).count();
        bars.say(&format!("judge {name}: {n_judged} answers to requests by {}", self.name));
        for chunk in open.chunks(CHUNK) {
            store.append(relabel(self.subject.as_ref(), chunk)?)?;
        }
        Ok(key)
    }
}

/// Labels the answers of every phase; the phases go by the key of their judged answers from then on.
pub(crate) fn judge_all(
    judge: &Judge,
    folder: &Path,
    questions: &Questions<'_>,
    answered: &mut Answered,
    bars: &Bars,
) -> Result<()> {
    let mut store = Store::open(folder, questions.key())?;
    let items: Vec<Item> = questions.items.iter().cloned().chain(questions.also.items()).collect();
    for phase in &mut answered.phases {
        phase.checkpoint = judge.label(&mut store, &items, (&phase.name, &phase.checkpoint), bars)?;
    }
    store.finish()?;
    answered.responses = store.responses();
    Ok(())
}
