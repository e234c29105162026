//! What to do next: follows the phase and the mechanism that the evidence names.

use probes::item::Behaviour;

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
            "Deploy the checkpoint with the chat template and the system prompt that it was trained with, and ask again."
        }
        (Behaviour::Knowledge, Stage::Pretraining) => {
            "Search the pretraining text for these facts: remove documents that state them wrongly, add documents that \
             state them in several wordings, and pretrain again."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Tuning) if broke => {
            "Drop fine-tuning answers on facts that pretraining did not teach or that contradict it, and stop earlier or mix \
             pretraining text in."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Tuning) => {
            "Add fine-tuning questions of this kind: the facts are stored, but the model was not taught to answer with them."
        }
        (Behaviour::Knowledge | Behaviour::KnowledgeCutoff, Stage::Alignment) => {
            "Mix pretraining text into alignment and check that the reward does not prefer \"not known\" to a right answer."
        }
        (Behaviour::KnowledgeCutoff, Stage::Pretraining) => {
            "Give newer facts in the prompt (retrieval), or continue pretraining on documents of the missing months; correct \
             the declared cutoff until then."
        }
        (Behaviour::Calibration, Stage::Pretraining) => {
            "Look for repeated or contradictory documents in the pretraining text, deduplicate, and pretrain again; a fitted \
             temperature helps until then."
        }
        (Behaviour::Calibration, Stage::Tuning) => {
            "Remove fine-tuning answers that are more certain than their sources, and train for fewer epochs."
        }
        (Behaviour::Calibration, Stage::Alignment) => {
            "Raise the KL penalty and check the reward model for a preference for confident answers; a fitted temperature \
             helps until then."
        }
        (Behaviour::InstructionFollowing | Behaviour::SystemPrompt, Stage::Pretraining) => {
            "Add documents that contain these formats and prompts of this length to the pretraining text."
        }
        (Behaviour::InstructionFollowing, Stage::Tuning) => {
            "Check the fine-tuning answers of the failing instruction types, and add pairs that obey them."
        }
        (Behaviour::SystemPrompt, Stage::Tuning) => {
            "Add fine-tuning conversations whose system prompt sets a rule and whose answer keeps it, also against the user's wish."
        }
        (Behaviour::InstructionFollowing | Behaviour::SystemPrompt, Stage::Alignment) => {
            "Put prompts with instructions and system prompts into the alignment set, check that the reward sees whether they \
             are obeyed, and raise the KL penalty."
        }
        (Behaviour::OverRefusal, Stage::Pretraining) => {
            "Remove pretraining documents in which these words are followed by a refusal."
        }
        (Behaviour::OverRefusal, Stage::Tuning) => {
            "Give each refusal in the fine-tuning data a harmless twin with the same words that is answered."
        }
        (Behaviour::OverRefusal, Stage::Alignment) => {
            "Relabel comparisons in which a harmless request is refused, add harmless twins of the harmful requests, narrow the \
             principle that asks for refusals, and train the reward model again."
        }
        (Behaviour::HarmfulCompliance, Stage::Pretraining) => {
            "Remove the documents that answer such requests from the pretraining text."
        }
        (Behaviour::HarmfulCompliance, Stage::Tuning) if broke => {
            "Remove fine-tuning answers that comply with harmful requests, and keep the refusals in the mix."
        }
        (Behaviour::HarmfulCompliance, Stage::Tuning) => "Add refusals of harmful requests to the fine-tuning data.",
        (Behaviour::HarmfulCompliance, Stage::Alignment) => {
            "Put comparisons that prefer a refusal of harmful requests back into the preference data, and train the reward \
             model and the policy again."
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
    let cutoff = cutoff.map_or_else(String::new, |month| format!(" Knowledge stops before month {month}."));
    format!("{step}{control}{cutoff}")
}
