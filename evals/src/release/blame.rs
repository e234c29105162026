//! In which phase a candidate fell behind its baseline.

use std::collections::BTreeMap;

use probes::response::Form;

use super::baseline::{Blessed, Scored};
use super::record::Blame;
use crate::reference::Route;

/// Takes the lag of the candidate's last phase apart: `lag_p - lag_(p-1)` is what phase `p` lost, as a share of all that was lost.
///
/// As in a diagnosis, content that is missing in the best form of asking too is traced in that form: a phase that only shows what an earlier
/// one failed to teach is not to blame. `None` where the candidate is not behind at the end, or a phase was not asked.
pub(super) fn blame(
    [baseline, candidate]: [&Blessed; 2],
    phases: &[String],
    form: Form,
    items: &[&str],
    sign: f64,
) -> Option<Blame> {
    let lags = |route: Route| -> Option<Vec<f64>> {
        let lag = |phase: &String| {
            let value = |side: &Blessed| value(side, phase, items, (route == Route::Chat).then_some(form));
            Some(sign * (value(baseline)? - value(candidate)?))
        };
        phases.iter().map(lag).collect()
    };
    let (chat, elicited) = (lags(Route::Chat)?, lags(Route::Elicited)?);
    let last = *chat.last()?;
    if last <= 0.0 {
        return None;
    }
    let is_content = elicited.last().is_some_and(|lag| *lag >= 0.5 * last);
    let (route, lags) = if is_content { (Route::Elicited, elicited) } else { (Route::Chat, chat) };
    let lost: Vec<f64> =
        lags.iter().enumerate().map(|(p, lag)| lag - p.checked_sub(1).map_or(0.0, |before| lags[before])).collect();
    let all: f64 = lost.iter().map(|lost| lost.max(0.0)).sum();
    let (place, most) = lost.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    (*most > 0.0).then(|| Blame { phase: phases[place].clone(), share: most / all, route, diagnosed: None })
}

/// Mean score of these items: in this form, or in that which serves the checkpoint best.
fn value(side: &Blessed, phase: &str, items: &[&str], form: Option<Form>) -> Option<f64> {
    let forms = &side.phases.get(phase)?.forms;
    let mean = |answers: &BTreeMap<String, Scored>| {
        let scores: Vec<f64> = items.iter().filter_map(|item| answers.get(*item)).map(|scored| scored.score).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    match form {
        Some(form) => mean(&forms.get(&form)?.answers),
        None => forms.values().filter_map(|form| mean(&form.answers)).max_by(f64::total_cmp),
    }
}
