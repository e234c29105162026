//! What sampled answers look like to someone who reads them: right, refusing, repeating themselves.

use crate::data::Prompt;
use crate::sl_cai::is_among;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What is looked for in sampled answers, beside their reward (`[rlhf.watch]`); nothing is learnt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchRecipe {
    /// Kinds of prompt that nobody should refuse; empty for all. Default `benign`, `qa` and `instruction`.
    pub neutral_kinds: Vec<String>,
    /// Beginnings of an answer that refuses, in any case of letters.
    pub refusal_openings: Vec<String>,
}

impl Default for WatchRecipe {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            neutral_kinds: names(&["benign", "qa", "instruction"]),
            refusal_openings: names(&[
                "sorry",
                "i'm sorry",
                "i can't",
                "i cannot",
                "i won't",
                "i am unable",
                "as an ai",
            ]),
        }
    }
}

/// One answer, looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Look {
    /// Whether it is one of the prompt's right answers; `None` where these are not known.
    pub(crate) is_right: Option<bool>,
    /// Whether it refuses a prompt that nobody should refuse; `None` for other prompts.
    pub(crate) refuses_neutral: Option<bool>,
    /// Share of its runs of three tokens that occurred in it before; 0 where it is shorter.
    pub(crate) repetition: f64,
}

impl WatchRecipe {
    /// Looks at the answer `text` of `ids` to a prompt.
    pub(crate) fn look(&self, prompt: &Prompt, text: &str, ids: &[u32]) -> Look {
        let text = text.trim();
        let is_right = prompt.find_right(text);
        let refuses_neutral = is_among(&self.neutral_kinds, &prompt.kind).then(|| self.is_refusal(text));
        Look { is_right, refuses_neutral, repetition: repetition(ids) }
    }

    /// Whether an answer begins as refusals do.
    pub(crate) fn is_refusal(&self, text: &str) -> bool {
        let text = text.to_lowercase().replace('\u{2019}', "'");
        self.refusal_openings.iter().any(|opening| text.starts_with(&opening.to_lowercase()))
    }
}

/// Share of the runs of three tokens that are repeated.
fn repetition(ids: &[u32]) -> f64 {
    let runs: Vec<&[u32]> = ids.windows(3).collect();
    let distinct: HashSet<&[u32]> = runs.iter().copied().collect();
    if runs.is_empty() { 0.0 } else { 1.0 - distinct.len() as f64 / runs.len() as f64 }
}

/// Share of the answers for which `of` says true, among those for which it says anything.
pub(crate) fn share(looks: &[Look], of: impl Fn(&Look) -> Option<bool>) -> Option<f64> {
    let known: Vec<bool> = looks.iter().filter_map(of).collect();
    (!known.is_empty()).then(|| known.iter().filter(|&&yes| yes).count() as f64 / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::{WatchRecipe, repetition, share};
    use crate::data::Prompt;
    use lm::chat::{Message, Role};

    fn prompt(kind: &str, right: &[&str]) -> Prompt {
        let prompt = vec![Message { role: Role::User, content: "Who?".to_owned() }];
        Prompt { prompt, kind: kind.to_owned(), right: right.iter().map(|&text| text.to_owned()).collect() }
    }

    #[test]
    fn an_answer_is_right_or_refuses_only_where_that_can_be_known() {
        let watch = WatchRecipe::default();
        let looks = [
            watch.look(&prompt("qa", &["Ada.", "Ada"]), " Ada.", &[1, 2]),
            watch.look(&prompt("qa", &["Ada."]), "Sorry, I can\u{2019}t help with that.", &[1, 2]),
            watch.look(&prompt("harmful", &[]), "I can\u{2019}t help.", &[1, 2]),
        ];
        assert_eq!(looks.map(|look| look.is_right), [Some(true), Some(false), None]);
        assert_eq!(looks.map(|look| look.refuses_neutral), [Some(false), Some(true), None]);
        assert_eq!(share(&looks, |look| look.refuses_neutral), Some(0.5));
        assert_eq!(share(&looks[2..], |look| look.is_right), None);
    }

    #[test]
    fn repetition_counts_runs_of_three_that_were_there_before() {
        assert_eq!(repetition(&[1, 2]), 0.0);
        assert_eq!(repetition(&[1, 2, 3, 4, 5]), 0.0);
        // 123 231 312 123: one of four.
        assert_eq!(repetition(&[1, 2, 3, 1, 2, 3]), 0.25);
        assert_eq!(repetition(&[7; 6]), 0.75);
    }
}
