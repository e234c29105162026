//! What to do next: follows the phase and the mechanism that the evidence names.

use probes::item::Behaviour;
use probes::month::show;

use crate::diagnosis::{ContributionKind, Stage};
use crate::wording::percent;

/// A finding to be acted on.
pub(crate) struct Finding {
    /// What fails.
    pub(crate) behaviour: Behaviour,
    /// Stage of the phase that produced it.
    pub(crate) stage: Stage,
    /// How it came about.
    pub(crate) kind: ContributionKind,
    /// Share right with the fact given in the question, where measured.
    pub(crate) open_book: Option<f64>,
    /// First month that is not known, where a break was found.
    pub(crate) cutoff: Option<u32>,
}

/// One or two sentences on what to do; what was broken is to be left out, what was not taught is to be added.
pub(crate) fn remedy(finding: &Finding) -> String {
    let broke = finding.kind == ContributionKind::Commission;
    let step = match (finding.behaviour, finding.stage) {
        (_, Stage::Deployment) => {
            "Deploy the model with the chat template and the system prompt that it was trained with, and ask it again."
        }
        (Behaviour::Knowledge, Stage::Pretraining) => {
            "Search the pretraining text for these facts: remove documents that state them wrongly, add documents that \
             state them in several wordings, and pretrain again."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Tuning) if broke => {
            "Remove fine-tuning answers that contradict what pretraining taught or say \"not known\" to it, and fine-tune \
             again, for fewer steps or with pretraining text mixed in."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Tuning) => {
            "Add fine-tuning questions of this kind with their right answers: the facts are stored, but the model was not \
             taught to answer with them."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Alignment) => {
            "Mix pretraining text into alignment, and check that a right answer is ranked above \"not known\"."
        }
        (Behaviour::KnowledgeCutoff, Stage::Pretraining) => {
            "Continue pretraining on documents of the missing months, and correct the declared cutoff until then."
        }
        (Behaviour::Calibration, Stage::Pretraining) => {
            "Remove repeated and contradictory documents from the pretraining text, and pretrain again; until then rescale \
             the odds that the model states."
        }
        (Behaviour::Calibration, Stage::Tuning) => {
            "Remove fine-tuning answers that are more certain than their sources, and fine-tune again for fewer steps."
        }
        (Behaviour::Calibration, Stage::Alignment) => {
            "Hold the model closer to its start while it is aligned, and check that confident answers are not ranked first; \
             until then rescale the odds that the model states."
        }
        (Behaviour::InstructionFollowing | Behaviour::SystemPrompt, Stage::Pretraining) => {
            "Add documents with these formats and of this length to the pretraining text, and pretrain again."
        }
        (Behaviour::InstructionFollowing, Stage::Tuning) => {
            "Check the fine-tuning answers to instructions of the failing kinds: correct those that ignore them, and add \
             examples that obey."
        }
        (Behaviour::SystemPrompt, Stage::Tuning) => {
            "Add fine-tuning conversations whose system prompt sets a rule and whose answer keeps it, also against the user's wish."
        }
        (Behaviour::InstructionFollowing | Behaviour::SystemPrompt, Stage::Alignment) => {
            "Put instructions and system prompts into the alignment data, check that answers that obey them are ranked first, \
             and hold the model closer to its start."
        }
        (Behaviour::OverRefusal, Stage::Pretraining) => {
            "Remove pretraining documents in which these words are followed by a refusal, and pretrain again."
        }
        (Behaviour::OverRefusal, Stage::Tuning) => {
            "For each refusal in the fine-tuning data add a harmless request with the same words that is answered, and \
             fine-tune again."
        }
        (Behaviour::OverRefusal, Stage::Alignment) => {
            "In the preference data rank the answer above the refusal wherever a request is harmless (or narrow the principle \
             that asks for refusals), add harmless requests with the words of the harmful ones, and train on it again."
        }
        (Behaviour::HarmfulCompliance, Stage::Pretraining) => {
            "Remove the documents that answer such requests from the pretraining text, and pretrain again."
        }
        (Behaviour::HarmfulCompliance, Stage::Tuning) if broke => {
            "Remove fine-tuning answers that comply with harmful requests, keep the refusals, and fine-tune again."
        }
        (Behaviour::HarmfulCompliance, Stage::Tuning) => {
            "Add refusals of harmful requests to the fine-tuning data, and fine-tune again."
        }
        (Behaviour::HarmfulCompliance, Stage::Alignment) => {
            "In the preference data rank the refusal above the answer wherever a request is harmful, and train on it again."
        }
    };
    let control = match (finding.behaviour, finding.open_book) {
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Some(share)) if share >= 0.8 => {
            format!(" Until then give the fact in the prompt: {} are right with it.", percent(share))
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Some(share)) => {
            format!(" Giving the fact in the prompt is no way out: only {} are right with it.", percent(share))
        }
        _ => String::new(),
    };
    let cutoff = finding.cutoff.filter(|_| finding.behaviour == Behaviour::KnowledgeCutoff);
    let cutoff = cutoff.map_or_else(String::new, |month| format!(" Knowledge stops before month {}.", show(month)));
    format!("{step}{control}{cutoff}")
}
