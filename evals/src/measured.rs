//! What each checkpoint showed of each behaviour in each form of asking, before anything is made of it.

use std::collections::BTreeMap;

use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};

use crate::board::{Answers, Board, counts, estimate, is_forecast};
use crate::calibration::{DebiasedError, debiased_error};
use crate::diagnosis::{Estimate, PhaseInfo};
use crate::error::Result;
use crate::random::stream;
use crate::stats::power::detectable_effect;

/// Share of items that is taken to change between two checkpoints where the smallest visible change is worked out.
pub const DISCORDANT: f64 = 0.1;

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The checkpoint's phase.
    pub phase: String,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// The form.
    pub form: Form,
    /// Mean score of the items that were scored; `None` where none was.
    pub value: Option<Estimate>,
    /// Number of items without a score.
    pub unscored: usize,
    /// The most frequent reason for that.
    pub reason: Option<String>,
    /// Smallest change of the share that as many items show with 80 % power at 5 %, [`DISCORDANT`] of them changing.
    pub detectable: Option<f64>,
}

/// All cells with an answer, checkpoint by checkpoint, behaviours and forms in the order of reports. Controls are not counted.
pub fn measure(phases: &[PhaseInfo], items: &[Item], responses: &[Response]) -> Vec<Measured> {
    let answers = Answers::index(responses);
    let mut cells = Vec::new();
    for (at, phase) in phases.iter().enumerate() {
        for behaviour in Behaviour::ALL {
            let own = items.iter().filter(|item| item.behaviour == behaviour && counts(item)).collect();
            let board = Board::new(own, phases, &answers);
            for form in Form::STANDARD {
                let given: Vec<&Response> = board.answers(form, at).into_iter().flatten().collect();
                if given.is_empty() {
                    continue;
                }
                let value = board.mean(form, at);
                cells.push(Measured {
                    phase: phase.name.clone(),
                    behaviour,
                    form,
                    unscored: given.len() - value.map_or(0, |value| value.n),
                    reason: usual(given.iter().filter_map(|response| response.unscored.as_deref())),
                    detectable: value.and_then(|value| detectable_effect(value.n_effective() as usize, DISCORDANT)),
                    value: value.map(|value| estimate(&value)),
                });
            }
        }
    }
    cells
}

/// How far a checkpoint's confidence is off.
#[derive(Debug, Clone, PartialEq)]
pub struct Confidence {
    /// The checkpoint's phase.
    pub phase: String,
    /// The form.
    pub form: Form,
    /// The debiased calibration error of its closed-set choices, with what it is said with.
    pub measured: DebiasedError,
}

/// Confidence of all checkpoints in all forms in which choices were scored, in the order of [`measure`].
///
/// # Errors
/// [`crate::Error::BadForecasts`] where a stored confidence is no number from 0 to 1.
pub fn measure_confidence(phases: &[PhaseInfo], items: &[Item], responses: &[Response]) -> Result<Vec<Confidence>> {
    let answers = Answers::index(responses);
    let board = Board::new(items.iter().filter(|item| is_forecast(item)).collect(), phases, &answers);
    let mut cells = Vec::new();
    for (at, phase) in phases.iter().enumerate() {
        for form in Form::STANDARD {
            let (forecasts, clusters) = board.forecasts(form, at);
            let mut rng = stream(0, &format!("{}/{}/confidence", phase.name, form.name()));
            let measured = debiased_error(&forecasts, &clusters, &mut rng)?;
            cells.extend(measured.map(|measured| Confidence { phase: phase.name.clone(), form, measured }));
        }
    }
    Ok(cells)
}

/// The most frequent of some texts; of equals the first in alphabetical order.
pub(crate) fn usual<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let best = counts.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(text, _)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use probes::item::Task;

    use super::*;

    fn item(at: usize) -> Item {
        Item {
            id: at.to_string(),
            behaviour: Behaviour::Knowledge,
            slice: String::new(),
            cluster: at.to_string(),
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

    fn response(at: usize, score: Option<f64>) -> Response {
        Response {
            subject: "key".to_owned(),
            item: at.to_string(),
            form: Form::Chat,
            score,
            unscored: score.is_none().then(|| if at == 0 { "too long" } else { "no answer" }.to_owned()),
            p_right: None,
            confidence: None,
            margin_nats: None,
            label: None,
            answer: String::new(),
            prompt: String::new(),
        }
    }

    #[test]
    fn a_cell_has_its_interval_n_and_smallest_visible_change_and_says_what_has_no_score() {
        let items: Vec<Item> = (0..103).map(item).collect();
        let score = |at: usize| (at >= 3).then(|| f64::from(u8::from(at % 2 == 1)));
        let responses: Vec<Response> = (0..103).map(|at| response(at, score(at))).collect();
        let phases = [PhaseInfo { name: "sft".to_owned(), checkpoint: "key".to_owned(), ..PhaseInfo::default() }];
        let cells = measure(&phases, &items, &responses);
        assert_eq!(cells.len(), 1);
        let value = cells[0].value.as_ref().unwrap();
        assert_eq!((value.value, value.n, cells[0].form), (0.5, 100, Form::Chat));
        assert!((value.low - 0.404).abs() < 0.002 && (value.high - 0.596).abs() < 0.002, "{value:?}");
        assert_eq!((cells[0].unscored, cells[0].reason.as_deref()), (3, Some("no answer")));
        assert!((cells[0].detectable.unwrap() - detectable_effect(100, DISCORDANT).unwrap()).abs() < 0.01);
    }

    #[test]
    fn a_model_that_is_too_sure_is_told_from_one_that_is_not() {
        let items: Vec<Item> = (0..400).map(item).collect();
        let answered = |key: &str, confidence: f64| -> Vec<Response> {
            let given = |at: usize| Response {
                subject: key.to_owned(),
                confidence: Some(confidence),
                ..response(at, Some(f64::from(u8::from(at % 10 < 7))))
            };
            (0..400).map(given).collect()
        };
        let phase =
            |name: &str| PhaseInfo { name: name.to_owned(), checkpoint: name.to_owned(), ..PhaseInfo::default() };
        let responses = [answered("sft", 0.7), answered("rlhf", 0.9)].concat();
        let cells = measure_confidence(&[phase("sft"), phase("rlhf")], &items, &responses).unwrap();
        assert_eq!(cells.len(), 2);
        let [sft, rlhf] = [&cells[0].measured, &cells[1].measured];
        assert_eq!((sft.error.value, sft.error.low, sft.error.n), (0.0, 0.0, 400));
        assert!(sft.p_value > 0.5 && rlhf.p_value < 0.01, "{sft:?} {rlhf:?}");
        assert!((rlhf.error.value - 0.2).abs() < 0.01 && rlhf.error.low > 0.1, "{rlhf:?}");
        assert!(sft.detectable.is_some_and(|error| error > 0.03 && error < 0.1), "{sft:?}");
        let broken = Response { confidence: Some(f64::NAN), ..response(0, Some(1.0)) };
        let phases = [PhaseInfo { checkpoint: "key".to_owned(), ..PhaseInfo::default() }];
        let error = measure_confidence(&phases, &items, &[broken]).unwrap_err().to_string();
        assert_eq!(error, "forecast 0: confidence = NaN, expected a number from 0 to 1");
    }

    #[test]
    fn what_was_never_scored_has_no_value() {
        let phases = [PhaseInfo { name: "sft".to_owned(), checkpoint: "key".to_owned(), ..PhaseInfo::default() }];
        let cells = measure(&phases, &[item(0)], &[response(0, None)]);
        assert_eq!((&cells[0].value, cells[0].unscored, cells[0].detectable), (&None, 1, None));
        assert!(measure(&phases, &[item(0)], &[]).is_empty());
    }
}
