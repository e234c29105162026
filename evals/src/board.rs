//! The answers of one chain of checkpoints to a set of items, laid out by form and phase.

use std::collections::BTreeMap;

use probes::item::{Behaviour, Item, Task};
use probes::response::{Form, Response};

use crate::diagnosis::{Estimate, PhaseInfo};
use crate::stats::calibration::Forecast;
use crate::stats::clustered::{ClusteredMean, clustered_mean};

/// Forms in which the subject has only its own knowledge to go by, nearest to deployment first.
pub(crate) const CLOSED_BOOK: [Form; 5] = [Form::Chat, Form::Letter, Form::FewShot, Form::Normalised, Form::Cloze];

/// A checkpoint whose chat answers are this much worse than its best cannot be asked in chat.
const UNREADABLE: f64 = 0.10;

/// A probability within this of the ideal one counts as calibrated where an item must pass or fail.
const CALIBRATED_WITHIN: f64 = 0.15;

/// Answers by subject, item and form.
pub(crate) struct Answers<'a>(BTreeMap<(&'a str, &'a str, Form), &'a Response>);

impl<'a> Answers<'a> {
    pub(crate) fn index(responses: &'a [Response]) -> Self {
        Self(responses.iter().map(|r| ((r.subject.as_str(), r.item.as_str(), r.form), r)).collect())
    }

    /// The answer of a subject to an item in a form.
    pub(crate) fn get(&self, subject: &'a str, item: &'a str, form: Form) -> Option<&'a Response> {
        self.0.get(&(subject, item, form)).copied()
    }
}

/// Items of one behaviour with every phase's answers.
pub(crate) struct Board<'a> {
    /// The items, by name.
    pub(crate) items: Vec<&'a Item>,
    /// Cluster number per item.
    pub(crate) clusters: Vec<usize>,
    /// Number of clusters.
    pub(crate) n_clusters: usize,
    n_phases: usize,
    grid: BTreeMap<(Form, usize), Vec<Option<&'a Response>>>,
}

impl<'a> Board<'a> {
    /// Lays out the answers of `phases` to `items`.
    pub(crate) fn new(mut items: Vec<&'a Item>, phases: &[PhaseInfo], answers: &Answers<'a>) -> Self {
        items.sort_by(|a, b| a.id.cmp(&b.id));
        let mut numbers = BTreeMap::new();
        let clusters = items
            .iter()
            .map(|item| {
                let next = numbers.len();
                *numbers.entry(item.cluster.as_str()).or_insert(next)
            })
            .collect();
        let mut grid = BTreeMap::new();
        for form in Form::ALL {
            for (phase, info) in phases.iter().enumerate() {
                let row: Vec<Option<&Response>> = items
                    .iter()
                    .map(|item| answers.0.get(&(info.checkpoint.as_str(), item.id.as_str(), form)).copied())
                    .collect();
                if row.iter().any(Option::is_some) {
                    grid.insert((form, phase), row);
                }
            }
        }
        let n_clusters = numbers.len();
        Self { items, clusters, n_clusters, n_phases: phases.len(), grid }
    }

    /// Number of phases.
    pub(crate) fn n_phases(&self) -> usize {
        self.n_phases
    }

    /// Answers in `form` at `phase`, one per item.
    pub(crate) fn answers(&self, form: Form, phase: usize) -> Vec<Option<&'a Response>> {
        self.grid.get(&(form, phase)).cloned().unwrap_or_else(|| vec![None; self.items.len()])
    }

    /// Scores in `form` at `phase`, one per item.
    pub(crate) fn scores(&self, form: Form, phase: usize) -> Vec<Option<f64>> {
        self.answers(form, phase).iter().zip(&self.items).map(|(r, item)| score(item, (*r)?)).collect()
    }

    /// Contrast margins in `form` at `phase`, nats, one per item.
    pub(crate) fn margins(&self, form: Form, phase: usize) -> Vec<Option<f64>> {
        self.answers(form, phase).iter().map(|r| (*r)?.margin_nats).collect()
    }

    /// How sure each choice in `form` at `phase` was and whether that was justified, with the cluster of each.
    ///
    /// Where only the odds are known (conflicting sources), a choice counts as right to the share of those odds: `ideal` if it is
    /// the item's answer, `1 - ideal` if not.
    pub(crate) fn forecasts(&self, form: Form, phase: usize) -> (Vec<Forecast>, Vec<usize>) {
        let answers = self.answers(form, phase);
        let given = answers.iter().zip(&self.items).zip(&self.clusters);
        given
            .filter_map(|((response, item), cluster)| {
                let (right, confidence) = response.and_then(|r| Some((r.score? > 0.5, r.confidence?)))?;
                let ideal = ideal(item).unwrap_or(1.0);
                Some((Forecast { confidence, outcome: if right { ideal } else { 1.0 - ideal } }, *cluster))
            })
            .unzip()
    }

    /// Mean score in `form` at `phase`.
    pub(crate) fn mean(&self, form: Form, phase: usize) -> Option<ClusteredMean> {
        self.mean_of(&self.scores(form, phase))
    }

    /// Mean of the scores there are.
    pub(crate) fn mean_of(&self, scores: &[Option<f64>]) -> Option<ClusteredMean> {
        let (values, clusters): (Vec<f64>, Vec<usize>) =
            scores.iter().zip(&self.clusters).filter_map(|(s, c)| Some(((*s)?, *c))).unzip();
        clustered_mean(&values, &clusters)
    }

    /// The closed-book form that serves this checkpoint best; of equals the one nearest to deployment.
    ///
    /// A form in which fewer than half as many items could be scored as in another is not considered.
    pub(crate) fn best_form(&self, phase: usize) -> Option<Form> {
        let means: Vec<(Form, ClusteredMean)> =
            CLOSED_BOOK.into_iter().filter_map(|form| Some((form, self.mean(form, phase)?))).collect();
        let most = means.iter().map(|(_, mean)| mean.n).max()?;
        means
            .into_iter()
            .filter(|(_, mean)| 2 * mean.n >= most)
            .reduce(|best, next| if next.1.mean > best.1.mean { next } else { best })
            .map(|(form, _)| form)
    }

    /// The form whose answers are worth reading: chat, as deployed, unless the checkpoint cannot be asked so.
    pub(crate) fn readable_form(&self, phase: usize) -> Option<Form> {
        let best = self.best_form(phase)?;
        let chat = self.mean(Form::Chat, phase);
        let reads_chat = phase + 1 == self.n_phases
            || chat.zip(self.mean(best, phase)).is_some_and(|(chat, best)| chat.mean >= best.mean - UNREADABLE);
        Some(if chat.is_some() && reads_chat { Form::Chat } else { best })
    }
}

/// Whether an item counts towards its behaviour's value; controls do not.
pub(crate) fn counts(item: &Item) -> bool {
    item.expected || (item.behaviour == Behaviour::Calibration && ideal(item).is_some())
}

/// Whether an item is a closed-set choice by which calibration is measured.
pub(crate) fn is_forecast(item: &Item) -> bool {
    matches!(item.behaviour, Behaviour::Knowledge | Behaviour::Calibration)
        && matches!(item.task, Task::Choice { .. } | Task::Quiz { .. })
        && counts(item)
}

/// Probability that an ideal reader of the corpus gives to the right option.
pub(crate) fn ideal(item: &Item) -> Option<f64> {
    match &item.task {
        Task::Choice { ideal, .. } => *ideal,
        _ => None,
    }
}

/// Score of a response: the probe's, but for calibration `1 - |p(right) - ideal|`.
pub(crate) fn score(item: &Item, response: &Response) -> Option<f64> {
    if item.behaviour == Behaviour::Calibration {
        return response.p_right.map(|p| 1.0 - (p - ideal(item).unwrap_or(1.0)).abs());
    }
    response.score
}

/// Whether a score is a pass. Half right (a partial refusal) is not.
pub(crate) fn passes(behaviour: Behaviour, score: f64) -> bool {
    if behaviour == Behaviour::Calibration { score >= 1.0 - CALIBRATED_WITHIN } else { score > 0.5 }
}

/// A mean as shown in a table.
pub(crate) fn estimate(mean: &ClusteredMean) -> Estimate {
    let (low, high) = mean.interval();
    let method = if mean.n_clusters < mean.n { "Wilson, clustered" } else { "Wilson" };
    Estimate { value: mean.mean, low, high, n: mean.n, method: method.to_owned() }
}
