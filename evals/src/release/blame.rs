//! In which phase a candidate fell behind its baseline.

use std::collections::BTreeMap;

use probes::response::Form;

use super::baseline::{Blessed, BlessedForm, Scored};
use super::policy::{Metric, Rule};
use super::record::Blame;
use crate::reference::Route;
use crate::stats::calibration::{Forecast, ece_of};

/// Takes the lag of the candidate's last phase apart: `lag_p - lag_(p-1)` is what phase `p` lost, as a share of all that was lost.
///
/// As in a diagnosis, content that is missing in the best form of asking too is traced in that form: a phase that only shows what an earlier
/// one failed to teach is not to blame. How sure a model is belongs to a form of asking, so that a calibration error is traced in the rule's
/// own. `None` where the candidate is not behind at the end, or a phase was not asked.
pub(super) fn blame(
    [baseline, candidate]: [&Blessed; 2],
    phases: &[String],
    rule: &Rule,
    items: &[&str],
) -> Option<Blame> {
    let lags = |route: Route| -> Option<Vec<f64>> {
        let lag = |phase: &String| {
            let of = |side: &Blessed| {
                let forms = &side.phases.get(phase)?.forms;
                if route == Route::Elicited {
                    return most(forms, items);
                }
                value(forms.get(&rule.form)?, items, rule.metric)
            };
            Some(rule.sign() * (of(baseline)? - of(candidate)?))
        };
        phases.iter().map(lag).collect()
    };
    let chat = lags(Route::Chat)?;
    let last = *chat.last()?;
    if last <= 0.0 {
        return None;
    }
    let elicited = if rule.metric == Metric::Score { lags(Route::Elicited) } else { None };
    let is_missing = |lags: &Vec<f64>| lags.last().is_some_and(|lag| *lag >= 0.5 * last);
    let (route, lags) = match elicited.filter(is_missing) {
        Some(lags) => (Route::Elicited, lags),
        None => (Route::Chat, chat),
    };
    let lost: Vec<f64> =
        lags.iter().enumerate().map(|(p, lag)| lag - p.checked_sub(1).map_or(0.0, |before| lags[before])).collect();
    let all: f64 = lost.iter().map(|lost| lost.max(0.0)).sum();
    let (place, most) = lost.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    (*most > 0.0).then(|| Blame { phase: phases[place].clone(), share: most / all, route, diagnosed: None })
}

/// What a rule compares, of these items.
fn value(form: &BlessedForm, items: &[&str], metric: Metric) -> Option<f64> {
    let answers: Vec<&Scored> = items.iter().filter_map(|item| form.answers.get(*item)).collect();
    match metric {
        Metric::Score if answers.is_empty() => None,
        Metric::Score => Some(answers.iter().map(|scored| scored.score).sum::<f64>() / answers.len() as f64),
        Metric::Ece => ece_of(&answers.into_iter().filter_map(Scored::forecast).collect::<Vec<Forecast>>()),
    }
}

/// Mean score of these items in the form that serves the checkpoint best.
fn most(forms: &BTreeMap<Form, BlessedForm>, items: &[&str]) -> Option<f64> {
    forms.values().filter_map(|form| value(form, items, Metric::Score)).max_by(f64::total_cmp)
}
