//! What a probe is: a way to put an item to a subject and a way to score what comes back.

use std::fmt;

use lm::subject::{GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};

use crate::item::{Behaviour, Item};
use crate::response::{Form, Label, Response};

/// One family of questions. Its documentation is the head of its source file, under the fixed headings of [`Heading`].
#[derive(Clone, Copy)]
pub struct Probe {
    /// Name, as given to `--tasks`.
    pub name: &'static str,
    /// What its items are about.
    pub behaviours: &'static [Behaviour],
    pub(crate) source: &'static str,
    pub(crate) plan: PlanFn,
    pub(crate) judge: fn(&Item, Form, &Reply<'_>) -> Judgement,
}

pub(crate) type PlanFn = fn(&Item, Form, &dyn Subject) -> Option<Elicitation>;

impl fmt::Debug for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Probe {
    /// Puts an item into a form; `None` where the form does not apply to it.
    pub fn plan(&self, item: &Item, form: Form, subject: &dyn Subject) -> Option<Elicitation> {
        (self.plan)(item, form, subject)
    }

    /// Scores what came back. A pure function of its arguments.
    pub fn judge(&self, item: &Item, form: Form, reply: &Reply<'_>) -> Judgement {
        (self.judge)(item, form, reply)
    }

    /// The text under one heading of the probe's documentation, as Markdown.
    pub fn section(&self, heading: Heading) -> String {
        let mut lines = self.source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
        let title = format!("# {}", heading.title());
        lines.by_ref().find(|line| *line == title);
        lines.take_while(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

/// The headings under which each probe is documented, in code and in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// The failure in one sentence.
    WhatItLooksFor,
    /// Whom it hurts.
    WhyItMatters,
    /// Questions, forms and scores.
    HowItIsMeasured,
    /// Known ways to be wrong.
    WhatWouldFoolIt,
    /// Papers, and where we differ from them.
    References,
}

impl Heading {
    /// All headings, in order.
    pub const ALL: [Self; 5] =
        [Self::WhatItLooksFor, Self::WhyItMatters, Self::HowItIsMeasured, Self::WhatWouldFoolIt, Self::References];

    /// As printed.
    pub fn title(self) -> &'static str {
        match self {
            Self::WhatItLooksFor => "What it looks for",
            Self::WhyItMatters => "Why it matters",
            Self::HowItIsMeasured => "How it is measured",
            Self::WhatWouldFoolIt => "What would fool it",
            Self::References => "References",
        }
    }
}

/// An item in one form: what the subject sees and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elicitation {
    /// What stands before the answer.
    pub prompt: Prompt,
    /// Answers whose likelihood is asked for.
    pub score: Vec<ScoreRequest>,
    /// The answer that is asked for, if any.
    pub generate: Option<GenerateRequest>,
}

/// What came back for an [`Elicitation`].
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// One per score request, in order.
    pub scores: &'a [Score],
    /// The answer, where one was asked for.
    pub generation: Option<&'a Generation>,
}

/// An item's score: the fields of a [`Response`] that depend on the answer. Units and ranges are given there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judgement {
    /// Score in [0, 1].
    pub score: Option<f64>,
    /// Why there is no score.
    pub unscored: Option<String>,
    /// Probability of the right option.
    pub p_right: Option<f64>,
    /// Probability of the chosen option.
    pub confidence: Option<f64>,
    /// Right over best wrong, nats.
    pub margin_nats: Option<f64>,
    /// How a request was met.
    pub label: Option<Label>,
    /// The chosen option or generated text.
    pub answer: String,
}

impl Judgement {
    /// No score, for a reason.
    pub fn unscored(reason: impl Into<String>) -> Self {
        Self { unscored: Some(reason.into()), ..Self::default() }
    }

    /// The record of this judgement.
    pub fn into_response(self, subject: &str, item: &Item, form: Form, prompt: String) -> Response {
        let Self { score, unscored, p_right, confidence, margin_nats, label, answer } = self;
        Response {
            subject: subject.to_owned(),
            item: item.id.clone(),
            form,
            score,
            unscored,
            p_right,
            confidence,
            margin_nats,
            label,
            answer,
            prompt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_is_documented_under_every_heading() {
        for probe in crate::PROBES {
            for heading in Heading::ALL {
                let section = probe.section(heading);
                assert!(section.len() > 40, "{probe:?} {heading:?}: {section}");
                assert!(!section.contains("//!") && !section.contains("\n# "));
            }
        }
    }
}
