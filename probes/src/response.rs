//! What came back: one record per subject, item and form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the reason begins where a subject cannot do what a score needs, whatever it is asked.
pub const NOT_MEASURABLE: &str = "not measurable here";

/// How an item was put to the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Text to be continued.
    Cloze,
    /// Text to be continued; likelihoods divided by the length of the option.
    Normalised,
    /// Worked examples, then the question.
    FewShot,
    /// Lettered options in plain text; the letter is the answer.
    Letter,
    /// The chat template.
    Chat,
    /// The chat template, with the fact given in the question (control).
    OpenBook,
    /// Worked examples with the fact given before the question (control for base models).
    OpenBookFewShot,
    /// The chat template; an answer is asked for together with the probability that it is right.
    Verbalised,
    /// The chat template; the subject's own answer in chat is put to it again, to be called true or false: `confidence` is P(True), and
    /// `score` that of the answer.
    TrueOrFalse,
    /// The chat template, with a text given that says something else than the fact (control): `score` is 1 where the text is followed.
    Counterfactual,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 10] = [
        Self::Cloze,
        Self::Normalised,
        Self::FewShot,
        Self::Letter,
        Self::Chat,
        Self::OpenBook,
        Self::OpenBookFewShot,
        Self::Verbalised,
        Self::TrueOrFalse,
        Self::Counterfactual,
    ];

    /// Those in which every item is asked, closed-book first. What they show is what verdicts are made of; the others are asked where
    /// somebody wants to know, and count for no behaviour.
    pub const STANDARD: [Self; 7] =
        [Self::Cloze, Self::Normalised, Self::FewShot, Self::Letter, Self::Chat, Self::OpenBook, Self::OpenBookFewShot];

    /// Those in which the subject is asked how sure it is.
    pub const CONFIDENCE: [Self; 2] = [Self::Verbalised, Self::TrueOrFalse];

    /// As in files: `few_shot`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cloze => "cloze",
            Self::Normalised => "normalised",
            Self::FewShot => "few_shot",
            Self::Letter => "letter",
            Self::Chat => "chat",
            Self::OpenBook => "open_book",
            Self::OpenBookFewShot => "open_book_few_shot",
            Self::Verbalised => "verbalised",
            Self::TrueOrFalse => "true_or_false",
            Self::Counterfactual => "counterfactual",
        }
    }

    /// Whether it is put in the chat template.
    pub fn is_chat(self) -> bool {
        matches!(self, Self::Chat | Self::OpenBook | Self::Verbalised | Self::TrueOrFalse | Self::Counterfactual)
    }

    /// Whether the fact is given with the question: a control, which says nothing about what the subject knows.
    pub fn is_open_book(self) -> bool {
        matches!(self, Self::OpenBook | Self::OpenBookFewShot)
    }
}

impl Label {
    /// All labels.
    pub const ALL: [Self; 5] = [Self::Comply, Self::Refuse, Self::Partial, Self::Abstain, Self::Incoherent];

    /// As in files: `comply`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Comply => "comply",
            Self::Refuse => "refuse",
            Self::Partial => "partial",
            Self::Abstain => "abstain",
            Self::Incoherent => "incoherent",
        }
    }
}

/// How a request was met, by the closed grammar of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Answered.
    Comply,
    /// Refused.
    Refuse,
    /// Refused and answered, or answered in part.
    Partial,
    /// Said not to know.
    Abstain,
    /// None of these.
    Incoherent,
}

/// One answer and its score: a row of `results.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Fingerprint of the subject.
    pub subject: String,
    /// Item name.
    pub item: String,
    /// How it was asked.
    pub form: Form,
    /// Score in [0, 1], 1 is right; `None` where the item could not be scored (see `unscored`).
    pub score: Option<f64>,
    /// Why there is no score.
    pub unscored: Option<String>,
    /// Probability given to the right answer among the closed set (choices), else `None`.
    pub p_right: Option<f64>,
    /// Probability given to the chosen answer among the closed set, else `None`.
    pub confidence: Option<f64>,
    /// `ln p(good) - ln p(best bad)` in nats: positive where the subject prefers the right answer.
    pub margin_nats: Option<f64>,
    /// How a request was met, else `None`.
    pub label: Option<Label>,
    /// The chosen option or generated text.
    pub answer: String,
    /// The text the subject saw.
    pub prompt: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_asked_in_the_forms_that_count_and_the_others_are_beside_them() {
        let [standard, confidence, conflict] = [&Form::STANDARD[..], &Form::CONFIDENCE, &[Form::Counterfactual]];
        assert_eq!([standard, confidence, conflict].concat(), Form::ALL);
    }

    #[test]
    fn names_of_forms_and_labels_are_those_of_the_files() {
        for form in Form::ALL {
            assert_eq!(serde_json::to_string(&form).unwrap(), format!("\"{}\"", form.name()));
        }
        for label in Label::ALL {
            assert_eq!(serde_json::to_string(&label).unwrap(), format!("\"{}\"", label.name()));
        }
    }
}
