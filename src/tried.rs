//! Tries remedies that need no training on what a diagnosis says fails, and puts what they did into it.

use anyhow::Result;
use evals::diagnosis::{LineageDiagnosis, PhaseInfo};
use evals::store::Store;
use evals::tried::{Asked, Group, groups, measure};
use lm::Subject;
use probes::item::Item;
use probes::remedied::{Change, Remedied, Remedy};
use probes::response::Form;

use crate::judged::Judge;
use crate::probe::ask_one;
use crate::progress::Bars;

/// Asks the failing items of the last checkpoint of a lineage again, changed by each remedy, beside as many right ones.
///
/// `open` gives the subject of a checkpoint; `None` where it cannot be asked any more. Where a judge labelled the answers so far, it labels
/// these too: else remedies would seem to repair where judge and rules differ.
pub(crate) fn try_remedies<'a>(
    lineage: &mut LineageDiagnosis,
    open: impl FnOnce(&PhaseInfo) -> Result<Option<Box<dyn Subject + 'a>>>,
    judge: Option<&Judge>,
    items: &[Item],
    store: &mut Store,
    bars: &Bars,
) -> Result<()> {
    let groups = groups(lineage, items, &store.responses());
    let Some(last) = lineage.phases.last().filter(|_| !groups.is_empty()) else { return Ok(()) };
    let Some(subject) = open(last)? else { return Ok(()) };
    for group in &groups {
        let row = lineage.behaviours.iter_mut().find(|row| row.behaviour == group.behaviour);
        let row = row.expect("groups are made of the rows");
        let mut ask = |change: Change| ask_changed(subject.as_ref(), change, judge, group, store, bars);
        let control = ask(Change::control())?;
        let mut tried = Vec::new();
        for remedy in Remedy::ALL {
            let Some(changes) = remedy.changes(group.behaviour) else { continue };
            let how = describe(remedy, &changes);
            let mut subjects = changes.into_iter().map(&mut ask).collect::<Result<Vec<String>>>()?;
            if subjects.is_empty() {
                // Another form of the same question, which the checkpoint has been asked already.
                subjects.push(last.checkpoint.clone());
            }
            tried.push((remedy, how, subjects));
        }
        let responses = store.responses();
        row.tried = tried
            .into_iter()
            .filter_map(|(remedy, how, subjects)| {
                let asked = Asked { subjects: &subjects, form: remedy.form(), control: Some(&control) };
                measure(group, (remedy, how), asked, &responses)
            })
            .collect();
    }
    Ok(())
}

/// Asks a group's items under a change, and gives the key of their answers.
fn ask_changed(
    subject: &dyn Subject,
    change: Change,
    judge: Option<&Judge>,
    group: &Group<'_>,
    store: &mut Store,
    bars: &Bars,
) -> Result<String> {
    let items: Vec<Item> = group.failing.iter().chain(&group.right).map(|&item| item.clone()).collect();
    let name = format!("{} with {}", group.behaviour.name(), change.describe());
    let changed = Remedied::new(subject, change);
    ask_one(store, &name, &changed, &items, &[Form::Chat], bars)?;
    match judge {
        Some(judge) => judge.label(store, &items, (&name, changed.fingerprint()), bars),
        None => Ok(changed.fingerprint().to_owned()),
    }
}

fn describe(remedy: Remedy, changes: &[Change]) -> String {
    match (remedy, changes) {
        (Remedy::MoreAnswers, [Change::Drawn(drawn), ..]) => {
            format!("{} answers drawn at temperature {}", changes.len(), drawn.temperature)
        }
        (_, [change, ..]) => change.describe(),
        (Remedy::Fact, []) => "the fact before the question, in chat".to_owned(),
        (_, []) => "worked examples before the question, without the chat template".to_owned(),
    }
}
