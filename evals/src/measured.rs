//! What each checkpoint showed of each behaviour in each form of asking, before anything is made of it.

use std::collections::BTreeMap;

use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};

use crate::board::{Answers, Board, counts, estimate};
use crate::diagnosis::{Estimate, PhaseInfo};
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
            for form in Form::ALL {
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

/// The most frequent of some texts; of equals the first in alphabetical order.
fn usual<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
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
    fn what_was_never_scored_has_no_value() {
        let phases = [PhaseInfo { name: "sft".to_owned(), checkpoint: "key".to_owned(), ..PhaseInfo::default() }];
        let cells = measure(&phases, &[item(0)], &[response(0, None)]);
        assert_eq!((&cells[0].value, cells[0].unscored, cells[0].detectable), (&None, 1, None));
        assert!(measure(&phases, &[item(0)], &[]).is_empty());
    }
}
