//! Remedies tried on the diagnosed model itself: its failing items asked again in another way, without training.

use std::collections::BTreeMap;

use probes::item::{Behaviour, Item};
use probes::remedied::Remedy;
use probes::response::{Form, NOT_MEASURABLE, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::board::{counts, estimate, passes, score};
use crate::diagnosis::{Estimate, LineageDiagnosis};
use crate::stats::clustered::clustered_mean;
use crate::stats::normal::Z_95;
use crate::stats::paired::PairedCounts;
use crate::wording::{percent, points};

/// Most failing items, and most right ones, that a remedy is tried on.
pub const MOST_TRIED: usize = 50;

/// What a remedy did to a failing behaviour of the last checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriedRemedy {
    /// The remedy.
    pub remedy: Remedy,
    /// What was changed.
    pub how: String,
    /// Share of the items that fail in chat that are right with it.
    pub repaired: Estimate,
    /// By how much that exceeds the same share under a system prompt that says nothing of the matter: any change of the prompt turns
    /// some answers. Paired by item; `None` where the control was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond_control: Option<Estimate>,
    /// Share of the items that are right in chat that are wrong with it; `None` where none was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Estimate>,
}

/// The items of a failing behaviour that remedies are tried on, as the last checkpoint answers them in chat.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Items that fail, at most [`MOST_TRIED`], spread evenly over all that do.
    pub failing: Vec<&'a Item>,
    /// Items that are right, likewise.
    pub right: Vec<&'a Item>,
}

/// The failing behaviours of a lineage with the items to try remedies on; those without a failing item in chat are left out.
pub fn groups<'a>(lineage: &LineageDiagnosis, items: &'a [Item], responses: &[Response]) -> Vec<Group<'a>> {
    let Some(last) = lineage.phases.last() else { return Vec::new() };
    let scored = Scored::of(responses, &last.checkpoint, Form::Chat);
    let failing = lineage.behaviours.iter().filter(|row| row.fails());
    let group = |behaviour: Behaviour| {
        let own = items.iter().filter(|item| item.behaviour == behaviour && counts(item));
        let (right, failing): (Vec<_>, Vec<_>) =
            own.filter_map(|item| Some((item, scored.is_right(item)?))).partition(|(_, is_right)| *is_right);
        Group { behaviour, failing: spread(&failing), right: spread(&right) }
    };
    failing.map(|row| group(row.behaviour)).filter(|group| !group.failing.is_empty()).collect()
}

/// At most [`MOST_TRIED`] of them, at equal distances.
fn spread<'a>(items: &[(&'a Item, bool)]) -> Vec<&'a Item> {
    let n = items.len().min(MOST_TRIED);
    (0..n).map(|place| items[place * items.len() / n].0).collect()
}

/// Where the answers under a remedy are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked<'a> {
    /// Keys of the subject as it was asked: one, or one for each answer that was drawn, of which the best counts.
    pub subjects: &'a [String],
    /// In which form.
    pub form: Form,
    /// Key of the subject under the control.
    pub control: Option<&'a str>,
}

/// What came of trying a remedy; `None` where no failing item could be scored with it.
pub fn measure(
    group: &Group<'_>,
    (remedy, how): (Remedy, String),
    asked: Asked<'_>,
    responses: &[Response],
) -> Option<TriedRemedy> {
    let with: Vec<Scored> = asked.subjects.iter().map(|subject| Scored::of(responses, subject, asked.form)).collect();
    // An answer that cannot be scored is no repair, one that was never given says nothing.
    let is_right = |item: &Item| {
        let answers: Vec<bool> = with.iter().filter_map(|scored| scored.is_right(item)).collect();
        (!answers.is_empty()).then(|| answers.contains(&true))
    };
    let control = asked.control.map(|subject| Scored::of(responses, subject, Form::Chat));
    let beyond_control = control.and_then(|control| beyond(&group.failing, is_right, |item| control.is_right(item)));
    Some(TriedRemedy {
        remedy,
        how,
        repaired: share(&group.failing, is_right)?,
        beyond_control,
        broken: share(&group.right, |item| is_right(item).map(|is_right| !is_right)),
    })
}

/// Share of items for which something holds, of those for which it is known.
fn share(items: &[&Item], holds: impl Fn(&Item) -> Option<bool>) -> Option<Estimate> {
    let mut names = BTreeMap::new();
    let (values, clusters): (Vec<f64>, Vec<usize>) = items
        .iter()
        .filter_map(|item| {
            let next = names.len();
            let cluster = *names.entry(item.cluster.as_str()).or_insert(next);
            Some((f64::from(u8::from(holds(item)?)), cluster))
        })
        .unzip();
    Some(estimate(&clustered_mean(&values, &clusters)?))
}

/// By how much the share of items that are right with a remedy exceeds that under the control, of items scored under both.
fn beyond(
    items: &[&Item],
    with: impl Fn(&Item) -> Option<bool>,
    control: impl Fn(&Item) -> Option<bool>,
) -> Option<Estimate> {
    let pairs: Vec<(bool, bool)> = items.iter().filter_map(|item| Some((control(item)?, with(item)?))).collect();
    let count = |pair: (bool, bool)| pairs.iter().filter(|other| **other == pair).count() as f64;
    let counts = PairedCounts { n: pairs.len() as f64, worse: count((true, false)), better: count((false, true)) };
    (!pairs.is_empty()).then(|| Estimate {
        value: -counts.difference(),
        low: -counts.upper(Z_95),
        high: -counts.lower(Z_95),
        n: pairs.len(),
        method: "Tango, paired".to_owned(),
    })
}

/// Answers of one subject in one form, by item.
struct Scored<'a>(BTreeMap<&'a str, &'a Response>);

impl<'a> Scored<'a> {
    fn of(responses: &'a [Response], subject: &str, form: Form) -> Self {
        let own = responses.iter().filter(|response| response.subject == subject && response.form == form);
        Self(own.map(|response| (response.item.as_str(), response)).collect())
    }

    /// Whether an item was answered rightly; not where it has no score. `None` where it was not asked, or cannot be asked so of this subject:
    /// stored answers know no other question.
    fn is_right(&self, item: &Item) -> Option<bool> {
        let response = self.0.get(item.id.as_str())?;
        if response.unscored.as_deref().is_some_and(|reason| reason.starts_with(NOT_MEASURABLE)) {
            return None;
        }
        Some(score(item, response).is_some_and(|score| passes(item.behaviour, score)))
    }
}

/// What trying came to, in a sentence; `None` where nothing was tried.
///
/// A remedy counts as helping where the interval of what it repairs beyond the control lies above 0.
pub fn sentence(tried: &[TriedRemedy]) -> Option<String> {
    let gain = |tried: &TriedRemedy| tried.beyond_control.as_ref().map_or(0.0, |gain| gain.low);
    let best = tried.iter().filter(|tried| gain(tried) > 0.0).max_by(|a, b| {
        let value = |tried: &TriedRemedy| tried.repaired.value;
        value(a).total_cmp(&value(b))
    });
    let Some(best) = best else {
        let n = tried.iter().map(|tried| tried.repaired.n).max()?;
        return Some(format!(
            "Tried on this model without training: none of {} remedies was seen to repair more of {n} failing answers than a neutral system prompt does.",
            tried.len()
        ));
    };
    let Estimate { value, low, high, n, .. } = &best.repaired;
    let cost = best.broken.as_ref().filter(|broken| broken.low > 0.0);
    let cost = cost.map_or_else(String::new, |broken| {
        format!(", but breaks {} of {} right ones", percent(broken.value), broken.n)
    });
    let gain = best.beyond_control.as_ref().map_or(0.0, |gain| gain.value);
    Some(format!(
        "Tried on this model without training: {} repairs {} of {n} failing answers (95% interval {} to {}; {} more than a neutral system prompt){cost}.",
        what(best.remedy),
        percent(*value),
        percent(*low),
        percent(*high),
        points(gain)
    ))
}

/// What a remedy does, as the subject of a sentence.
pub fn what(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Fact => "giving the fact with the question",
        Remedy::Examples => "asking after worked examples, without the chat template",
        Remedy::SystemPrompt => "a system prompt that asks for it",
        Remedy::Rephrasing => "putting the request in other words",
        Remedy::MoreAnswers => "drawing several answers and keeping the one that passes the check",
    }
}

#[cfg(test)]
mod tests {
    use probes::item::Task;

    use super::*;

    fn item(name: &str) -> Item {
        Item {
            id: name.to_owned(),
            behaviour: Behaviour::Knowledge,
            slice: String::new(),
            cluster: name.to_owned(),
            month: None,
            expected: true,
            task: Task::Choice {
                cloze: String::new(),
                shots: Vec::new(),
                question: String::new(),
                context: String::new(),
                options: Vec::new(),
                answer: 0,
                declines: Vec::new(),
                ideal: None,
            },
        }
    }

    fn response(subject: &str, item: &str, form: Form, score: Option<f64>) -> Response {
        Response {
            subject: subject.to_owned(),
            item: item.to_owned(),
            form,
            score,
            unscored: None,
            p_right: None,
            confidence: None,
            margin_nats: None,
            label: None,
            answer: String::new(),
            prompt: String::new(),
        }
    }

    /// Twenty failing items of which `repaired` are right with the remedy and `by_control` under the control; four right ones, one of
    /// which breaks.
    fn tried(repaired: usize, by_control: usize) -> TriedRemedy {
        let names: Vec<String> = (0..24).map(|at| format!("{at:02}")).collect();
        let items: Vec<Item> = names.iter().map(|name| item(name)).collect();
        let (failing, right) = items.split_at(20);
        let group =
            Group { behaviour: Behaviour::Knowledge, failing: failing.iter().collect(), right: right.iter().collect() };
        let of = |subject: &'static str, n_right: usize| {
            let score = move |at: usize| if at < 20 { at < n_right } else { at != 20 };
            (0..24)
                .map(move |at| response(subject, &format!("{at:02}"), Form::Chat, Some(f64::from(u8::from(score(at))))))
        };
        let responses: Vec<Response> = of("with", repaired).chain(of("control", by_control)).collect();
        let asked = Asked { subjects: &["with".to_owned()], form: Form::Chat, control: Some("control") };
        measure(&group, (Remedy::SystemPrompt, "a prompt".to_owned()), asked, &responses).unwrap()
    }

    #[test]
    fn a_remedy_is_measured_on_failing_items_beside_a_control_and_on_right_ones() {
        let tried = tried(15, 2);
        assert_eq!((tried.repaired.value, tried.repaired.n), (0.75, 20));
        let beyond = tried.beyond_control.clone().unwrap();
        assert!((beyond.value - 0.65).abs() < 1e-12 && beyond.low > 0.3 && beyond.high < 0.9, "{beyond:?}");
        assert_eq!(tried.broken.clone().map(|broken| (broken.value, broken.n)), Some((0.25, 4)));
        let said = sentence(&[tried]).unwrap();
        assert!(said.contains("a system prompt that asks for it repairs 75% of 20 failing answers"), "{said}");
        assert!(said.contains("65 points more than a neutral system prompt"), "{said}");
        assert!(said.contains("but breaks 25% of 4 right ones"), "{said}");
    }

    #[test]
    fn what_any_change_of_the_prompt_does_is_no_remedy() {
        let said = sentence(&[tried(8, 8)]).unwrap();
        assert!(said.contains("none of 1 remedies was seen to repair more of 20 failing answers"), "{said}");
        assert_eq!(sentence(&[]), None);
    }

    #[test]
    fn of_several_answers_the_best_counts_and_an_item_that_was_not_asked_says_nothing() {
        let (one, other, silent) = (item("one"), item("other"), item("silent"));
        let group = Group { behaviour: Behaviour::Knowledge, failing: vec![&one, &other, &silent], right: Vec::new() };
        let responses = [
            response("a", "one", Form::Chat, Some(0.0)),
            response("b", "one", Form::Chat, Some(1.0)),
            response("a", "other", Form::Chat, None),
            response("b", "other", Form::Chat, Some(0.0)),
        ];
        let subjects = ["a".to_owned(), "b".to_owned()];
        let asked = Asked { subjects: &subjects, form: Form::Chat, control: None };
        let tried = measure(&group, (Remedy::MoreAnswers, String::new()), asked, &responses).unwrap();
        assert_eq!((tried.repaired.value, tried.repaired.n), (0.5, 2));
        assert_eq!((tried.beyond_control, tried.broken), (None, None));
        assert_eq!(measure(&group, (Remedy::Fact, String::new()), asked, &[]), None);
    }

    #[test]
    fn what_cannot_be_asked_of_a_subject_is_no_failed_remedy() {
        let only = item("only");
        let group = Group { behaviour: Behaviour::Knowledge, failing: vec![&only], right: Vec::new() };
        let mut silent = response("stored", "only", Form::Chat, None);
        silent.unscored = Some(format!("{NOT_MEASURABLE}: no answer to this is stored"));
        let asked = Asked { subjects: &["stored".to_owned()], form: Form::Chat, control: None };
        assert_eq!(measure(&group, (Remedy::Rephrasing, String::new()), asked, &[silent.clone()]), None);
        silent.unscored = Some("incoherent answer".to_owned());
        let tried = measure(&group, (Remedy::Rephrasing, String::new()), asked, &[silent]).unwrap();
        assert_eq!((tried.repaired.value, tried.repaired.n), (0.0, 1));
    }

    #[test]
    fn items_are_taken_from_all_over_the_bank() {
        let items: Vec<Item> = (0..120).map(|at| item(&at.to_string())).collect();
        let listed: Vec<(&Item, bool)> = items.iter().map(|item| (item, false)).collect();
        let taken = spread(&listed);
        assert_eq!((taken.len(), taken[0].id.as_str(), taken[49].id.as_str()), (MOST_TRIED, "0", "117"));
        assert_eq!(spread(&listed[..3]).len(), 3);
        assert!(spread(&[]).is_empty());
    }
}
