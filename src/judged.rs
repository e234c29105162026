//! Puts free answers to requests before a judge, and keeps them with its labels.

use anyhow::{Context, Result};
use evals::store::Store;
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

/// Labels the answers of every phase by the judge that was asked for, if any; the phases go by the key of their judged answers from then on.
/// What was judged before is not judged again.
pub(crate) fn judge_all(
    folder: &Path,
    (asked, servers): (&QuestionArgs, &ServerArgs),
    questions: &Questions<'_>,
    answered: &mut Answered,
    bars: &Bars,
) -> Result<()> {
    let Some(text) = &asked.judge else { return Ok(()) };
    let place = Place::parse(text, servers).with_context(|| format!("--judge {text}"))?;
    let judge = place.open(questions.items, folder)?;
    let items: BTreeMap<&str, &Item> = questions.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let mut store = Store::open(folder, questions.key())?;
    for phase in &mut answered.phases {
        let key = fingerprint(&phase.checkpoint, judge.as_ref());
        let known = store.known(&key);
        let own = answered.responses.iter().filter(|response| response.subject == phase.checkpoint);
        let open: Vec<(&Item, &Response)> = own
            .filter(|response| !known.contains(&(response.item.clone(), response.form)))
            .filter_map(|response| Some((*items.get(response.item.as_str())?, response)))
            .collect();
        let n_judged = open.iter().filter(|(item, _)| matches!(item.task, Task::OpenRequest { .. })).count();
        bars.say(&format!("judge {}: {n_judged} answers to requests by {}", phase.name, place.name()));
        for chunk in open.chunks(CHUNK) {
            store.append(relabel(judge.as_ref(), chunk)?)?;
        }
        phase.checkpoint = key;
    }
    store.finish()?;
    answered.responses = store.responses();
    Ok(())
}
