//! Free answers: one generated, and two given whole answers compared by their likelihoods.

use lm::chat::Message;
use lm::subject::{GenerateRequest, Prompt, Score, ScoreRequest, Subject};

use crate::probe::Elicitation;
use crate::prompt::{END_OF_SHOT, QUESTION, flatten_few_shot};
use crate::response::Form;

/// Most tokens of an answer: several times the longest of the small world, so that a refusal followed by an answer is seen
/// whole.
pub(crate) const MAX_NEW_TOKENS: usize = 48;

/// A conversation with a right and a wrong answer.
pub(crate) struct Contrast<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) shots: &'a [(String, String)],
    pub(crate) good: &'a str,
    pub(crate) bad: &'a str,
}

/// Puts a conversation into a form: one answer to generate, and the two given ones to score, the right one first.
///
/// Scored answers carry their end (the line's end after worked examples, the end of turn in chat): without it `Lund` could
/// never be less likely than `Lund.`, which it begins. Where the subject names no end of turn and one answer begins the
/// other, there is nothing to compare and only the generated answer is asked for.
pub(crate) fn plan_contrast(contrast: &Contrast<'_>, form: Form, subject: &dyn Subject) -> Option<Elicitation> {
    let Contrast { messages, shots, good, bad } = contrast;
    let (prompt, end, stop) = match form {
        Form::FewShot => {
            let stop = vec![END_OF_SHOT.to_owned(), QUESTION.to_owned()];
            (Prompt::Text(flatten_few_shot(shots, messages)), Some(END_OF_SHOT), stop)
        }
        Form::Chat => (Prompt::Chat(messages.to_vec()), subject.end_of_turn(), Vec::new()),
        _ => return None,
    };
    let is_comparable = end.is_some() || !(good.starts_with(bad) || bad.starts_with(good));
    let score = if is_comparable {
        let request = |answer: &str| ScoreRequest {
            context: prompt.clone(),
            continuation: format!(" {}{}", answer.trim(), end.unwrap_or_default()),
        };
        vec![request(good), request(bad)]
    } else {
        Vec::new()
    };
    let generate = Some(GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop });
    Some(Elicitation { prompt, score, generate })
}

/// `ln p(good) - ln p(bad)` in nats, for whole answers. Differences of it between checkpoints telescope over phases.
pub(crate) fn measure_margin(scores: &[Score]) -> Option<f64> {
    let [good, bad] = scores else { return None };
    let margin_nats = good.log_prob_nats - bad.log_prob_nats;
    margin_nats.is_finite().then_some(margin_nats)
}
