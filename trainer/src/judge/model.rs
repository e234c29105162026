//! A judge that is a model of ours: it repeats the better answer.

use super::{Bench, Opinion, Question};
use crate::batch::Example;
use crate::constitution::{ask_critique, ask_preference};
use crate::error::Result;
use crate::reward::encode_answer;
use crate::rollout::reply;
use crate::sequence::{encode_prompt, sum_log_probs};
use lm::chat::Message;
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::random::stream;

/// A model that repeats the better answer.
pub(super) struct ModelJudge<'a> {
    pub(super) model: &'a Checkpoint,
    pub(super) at: &'a Bench<'a>,
}

impl ModelJudge<'_> {
    /// Asks each question in both orders of its answers; `None` where it is too long, or where a reason does not end or says nothing.
    ///
    /// An opinion is `p(a) / (p(a) + p(b))`, where the model is asked to repeat the better answer. Its reasons are a critique of each
    /// answer, which stands behind the answer when the model is asked for the better one.
    pub(super) fn ask(&self, questions: &[Question<'_>]) -> Result<Vec<Option<Opinion>>> {
        let decoder = self.at.folder.decoder(self.model)?;
        let reasons: Vec<Option<Vec<String>>> = if self.at.with_reasons {
            self.reason(&decoder, questions)?
        } else {
            vec![Some(Vec::new()); questions.len()]
        };
        let context = self.model.config.max_position_embeddings;
        let mut examples = Vec::new();
        let mut is_asked = Vec::with_capacity(questions.len());
        for (question, reasons) in questions.iter().zip(&reasons) {
            let of_question = match reasons {
                Some(reasons) => self.examples(question, reasons)?,
                None => Vec::new(),
            };
            let fits = !of_question.is_empty() && of_question.iter().all(|example| example.ids.len() <= context);
            is_asked.push(fits);
            if fits {
                examples.extend(of_question);
            }
        }
        let log_probs = sum_log_probs(&decoder, &examples, context)?;
        let mut of_questions = log_probs.chunks(4);
        let opinions = is_asked.into_iter().zip(reasons).map(|(asked, reasons)| {
            let log_probs = if asked { of_questions.next() } else { None }?;
            let prefer_first = |a: f64, b: f64| 1.0 / (1.0 + (b - a).exp());
            let p_a = 0.5 * (prefer_first(log_probs[0], log_probs[1]) + prefer_first(log_probs[2], log_probs[3]));
            Some(Opinion { p_a, reasons: reasons? })
        });
        Ok(opinions.collect())
    }

    /// A critique of each of a question's two answers.
    fn reason(&self, decoder: &Decoder, questions: &[Question<'_>]) -> Result<Vec<Option<Vec<String>>>> {
        let requests =
            questions.iter().flat_map(|q| [q.a, q.b].map(|answer| ask_critique(q.prompt, answer, q.principle)));
        let random = &mut stream(self.at.seed, "rl-cai/reasons", 0);
        let critiques = reply(decoder, self.model, &requests.collect::<Vec<_>>(), &self.at.sampling, random)?;
        Ok(critiques.chunks(2).map(|of_question| of_question.iter().cloned().collect()).collect())
    }

    /// Either answer after either order of both: what the preference is computed from.
    fn examples(&self, question: &Question<'_>, reasons: &[String]) -> Result<Vec<Example>> {
        let Question { prompt, principle, a, b } = *question;
        let shown = match reasons {
            [of_a, of_b] => [format!("{a} {of_a}"), format!("{b} {of_b}")],
            _ => [a.to_owned(), b.to_owned()],
        };
        let mut examples = Vec::with_capacity(4);
        for (first, second) in [(&shown[0], &shown[1]), (&shown[1], &shown[0])] {
            let asked = ask_preference(prompt, first, second, principle);
            for answer in [a, b] {
                examples.push(self.answer(&asked, answer)?);
            }
        }
        Ok(examples)
    }

    /// The question with an answer, of which only the answer counts.
    fn answer(&self, question: &[Message], answer: &str) -> Result<Example> {
        let n_prompt = encode_prompt(&self.model.tokenizer, question)?.len();
        let ids = encode_answer(&self.model.tokenizer, question, answer)?;
        let is_target = (0..ids.len()).map(|t| t >= n_prompt).collect();
        Ok(Example { ids, is_target })
    }
}
