//! What a checkpoint says of itself, and whether it shows that it knows what it does not know.

use std::collections::BTreeMap;

use probes::month::show;
use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::cutoff::abstention::Abstention;
use crate::cutoff::as_of::AsOf;
use crate::cutoff::context::Reliance;

/// What one checkpoint says of itself. It counts for no behaviour: nobody has to know such things of himself, but others may rely on them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelfKnowledge {
    /// The phase.
    pub phase: String,
    /// The month until which it says that it knows the world; `None` where it names none or was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stated_cutoff: Option<StatedCutoff>,
    /// How far the confidence that it states is to be believed, in words and as P(True); each has a curve in the list of the lineage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confidence: Vec<AskedConfidence>,
    /// Whether it declines what it cannot know and answers what it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstention: Option<Abstention>,
    /// Whether it goes by a context that contradicts what it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliance: Option<Reliance>,
    /// How old its answers are to questions about facts that change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
    /// Why an instrument gives nothing here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::keyed::<Instrument, String>")]
    pub not_measured: BTreeMap<Instrument, String>,
}

/// Ways of asking a checkpoint about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Instrument {
    /// The month until which it says that it knows the world.
    StatedCutoff,
    /// The probability of being right that it states beside a guess.
    VerbalisedConfidence,
    /// The probability of calling its own answer true.
    PTrue,
    /// Declining what it cannot know, answering what it can.
    Abstention,
    /// A context that contradicts what it knows.
    CounterfactualContext,
    /// The age of answers about facts that change.
    AsOf,
}

impl Instrument {
    /// For readers.
    pub fn name(self) -> &'static str {
        match self {
            Self::StatedCutoff => "stated cutoff",
            Self::VerbalisedConfidence => "verbalised confidence",
            Self::PTrue => "P(True)",
            Self::Abstention => "abstention",
            Self::CounterfactualContext => "contradicting context",
            Self::AsOf => "age of answers",
        }
    }

    /// That of a form of [`Form::CONFIDENCE`]; `None` of any other.
    pub fn of_confidence(form: Form) -> Option<Self> {
        match form {
            Form::Verbalised => Some(Self::VerbalisedConfidence),
            Form::TrueOrFalse => Some(Self::PTrue),
            _ => None,
        }
    }
}

/// Confidence that was asked for, beside how often it was justified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskedConfidence {
    /// How it was asked for.
    pub instrument: Instrument,
    /// Answers that state none, or could not be had.
    pub n_without: usize,
    /// Debiased calibration error.
    pub error: Estimate,
    /// How often chance alone would show as large a one.
    pub p_value: f64,
    /// Mean confidence less share right; positive is too sure.
    pub overconfidence: Estimate,
}

impl AskedConfidence {
    /// Whether it is off by more than chance explains.
    pub fn is_off(&self) -> bool {
        self.p_value <= 0.05
    }

    /// What it says of whether it can be believed.
    pub fn sentence(&self) -> String {
        let reading =
            if self.is_off() { "Off by more than chance explains" } else { "No more off than chance explains" };
        let points = |share: f64| format!("{:+.0}", (100.0 * share).round() + 0.0).replace('-', "−");
        let without = match self.n_without {
            0 => String::new(),
            1 => "; 1 answer states none".to_owned(),
            n => format!("; {n} answers state none"),
        };
        format!(
            "{reading}: debiased calibration error {:.3} [{:.3}, {:.3}], p = {:.3}; mean confidence less share right {} points \
             [{}, {}], n = {}{without}.",
            self.error.value,
            self.error.low,
            self.error.high,
            self.p_value,
            points(self.overconfidence.value),
            points(self.overconfidence.low),
            points(self.overconfidence.high),
            self.error.n
        )
    }
}

/// The months in which a checkpoint says that its knowledge ends, as [`probes::month`] counts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatedCutoff {
    /// First month that the last known one may be.
    pub first: u32,
    /// Last month that it may be.
    pub last: u32,
    /// Whether all answers that name a month leave this range open; where not, it is the range from the first to the last that any of them
    /// leaves open.
    pub is_agreed: bool,
    /// Where it lies beside the measured cutoff, and by how many months at least; `None` where none was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<(Beside, u32)>,
    /// Every way of asking, with what was answered.
    pub answers: Vec<StatedAnswer>,
}

/// One way of asking for the cutoff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatedAnswer {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
    /// First and last month that it names; `None` where it names none.
    pub months: Option<(u32, u32)>,
}

/// Where a stated cutoff lies beside the measured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
    /// Before all of the measured set: it knows more than it says.
    Earlier,
    /// Within it, as far as the statement goes.
    Within,
    /// After all of it: it claims to know what it does not.
    Later,
}

impl StatedCutoff {
    /// What is stated, by how many of the ways of asking, and where that lies beside what was measured.
    pub fn sentence(&self) -> String {
        let range = if self.first == self.last {
            format!("in {}", show(self.first))
        } else {
            format!("between {} and {}", show(self.first), show(self.last))
        };
        let n_stated = self.answers.iter().filter(|answer| answer.months.is_some()).count();
        let agreed = if self.is_agreed { "" } else { ", the answers contradict each other" };
        let stated = format!(
            "It says that its knowledge ends {range} ({n_stated} of {} ways of asking name a month{agreed})",
            self.answers.len()
        );
        let months = |n: u32| if n == 1 { "1 month".to_owned() } else { format!("{n} months") };
        match self.beside {
            None => format!("{stated}; no cutoff was measured to compare it with."),
            Some((Beside::Within, _)) => format!("{stated}, which fits what was measured."),
            Some((Beside::Later, n)) => {
                format!("{stated}: stated later than measured, by {} at least.", months(n))
            }
            Some((Beside::Earlier, n)) => {
                format!("{stated}: stated earlier than measured, by {} at least.", months(n))
            }
        }
    }
}

impl SelfKnowledge {
    /// What each instrument gave, in words, in their order.
    pub fn found(&self) -> Vec<(Instrument, String)> {
        let mut found = self.not_measured.clone();
        found.extend(self.stated_cutoff.iter().map(|stated| (Instrument::StatedCutoff, stated.sentence())));
        found.extend(self.confidence.iter().map(|asked| (asked.instrument, asked.sentence())));
        found.extend(self.abstention.iter().map(|of| (Instrument::Abstention, of.sentence())));
        found.extend(self.reliance.iter().map(|of| (Instrument::CounterfactualContext, of.sentence())));
        found.extend(self.as_of.iter().map(|of| (Instrument::AsOf, of.sentence())));
        found.into_iter().collect()
    }
}
