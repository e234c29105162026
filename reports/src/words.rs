//! The plain words for phases, behaviours and verdicts, the same on every page.

use evals::comparison::{Axis, Exploration};
use evals::diagnosis::{Confidence, ContributionKind, DEPLOYED, Outcome, Rung, Stage};
use probes::item::Behaviour;
use probes::response::Form;

use crate::text::clean_name;

/// Short name of a phase, for table heads and charts. Unknown phases keep the name they came with.
pub(crate) fn phase(name: &str) -> String {
    match name {
        "pretrain" => "Pretraining".to_owned(),
        "sft" => "SFT".to_owned(),
        "reward" => "Reward model".to_owned(),
        "rlhf" => "RLHF".to_owned(),
        "dpo" => "DPO".to_owned(),
        "sl-cai" => "SL-CAI".to_owned(),
        "rl-cai" => "RL-CAI".to_owned(),
        DEPLOYED => "Deployment".to_owned(),
        other => clean_name(other),
    }
}

/// Name of a phase for a reader who knows no abbreviation, with the short name behind it.
pub(crate) fn phase_plain(name: &str) -> String {
    match name {
        "sft" => "Fine-tuning (SFT)".to_owned(),
        "rlhf" => "Alignment (RLHF)".to_owned(),
        "dpo" => "Alignment (DPO)".to_owned(),
        "sl-cai" => "Self-revision (SL-CAI)".to_owned(),
        "rl-cai" => "Alignment (RL-CAI)".to_owned(),
        other => phase(other),
    }
}

/// What a phase does, in five words.
pub(crate) fn phase_gloss(name: &str) -> &'static str {
    match name {
        "pretrain" => "reads the corpus",
        "sft" => "is shown good answers",
        "reward" => "learns what people prefer",
        "rlhf" => "is rewarded for good answers",
        "dpo" => "is shown which answers are better",
        "sl-cai" => "learns from its own revisions",
        "rl-cai" => "is rewarded by its own judgement",
        DEPLOYED => "is asked behind its prompt or template",
        _ => "",
    }
}

/// Name of a chain of checkpoints.
pub(crate) fn lineage(name: &str) -> String {
    match name {
        "rlhf" => "RLHF".to_owned(),
        "dpo" => "DPO".to_owned(),
        "constitutional" => "Constitutional AI".to_owned(),
        other => clean_name(other),
    }
}

/// What the model does when the behaviour is right; the values in the table are shares of items where it does.
pub(crate) fn behaviour(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "Knows common facts",
        Behaviour::Calibration => "Is as sure as it should be",
        Behaviour::KnowledgeCutoff => "Knows events up to its cutoff",
        Behaviour::InstructionFollowing => "Follows instructions",
        Behaviour::SystemPrompt => "Obeys the system prompt",
        Behaviour::OverRefusal => "Answers harmless requests",
        Behaviour::HarmfulCompliance => "Refuses harmful requests",
    }
}

/// The same as a failure: completes "The model …".
pub(crate) fn failure(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "gets common facts wrong",
        Behaviour::Calibration => "is not as sure as it should be",
        Behaviour::KnowledgeCutoff => "does not know events up to its cutoff",
        Behaviour::InstructionFollowing => "does not follow instructions",
        Behaviour::SystemPrompt => "does not obey the system prompt",
        Behaviour::OverRefusal => "refuses harmless requests",
        Behaviour::HarmfulCompliance => "answers harmful requests",
    }
}

/// The field's own term for it.
pub(crate) fn behaviour_term(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "knowledge",
        Behaviour::Calibration => "calibration",
        Behaviour::KnowledgeCutoff => "knowledge cutoff",
        Behaviour::InstructionFollowing => "instruction following",
        Behaviour::SystemPrompt => "system prompt",
        Behaviour::OverRefusal => "over-refusal",
        Behaviour::HarmfulCompliance => "harmful compliance",
    }
}

/// What the rule of thumb would have named, beside what the evidence names.
pub(crate) fn thesis(named: &str, blamed: Option<&str>) -> String {
    let rule = phase(named);
    match blamed {
        Some(blamed) if blamed == named => format!("It names {rule} too."),
        Some(blamed) => format!("It would have named {rule}; the evidence names {}.", phase(blamed)),
        None => format!("It would have named {rule}; the evidence settles on no phase."),
    }
}

/// How a question was put.
pub(crate) fn form(form: Form) -> &'static str {
    match form {
        Form::Cloze => "text to complete",
        Form::Normalised => "text to complete, by length",
        Form::FewShot => "worked examples",
        Form::Letter => "lettered options",
        Form::Chat => "chat",
        Form::OpenBook => "chat, fact given",
        Form::OpenBookFewShot => "worked examples, fact given",
        Form::Verbalised => "probability stated in words",
        Form::TrueOrFalse => "P(True) of its own answer",
        Form::Counterfactual => "chat, another fact given",
    }
}

/// How a phase contributed, as the end of a sentence that begins with the phase.
pub(crate) fn kind(kind: ContributionKind) -> &'static str {
    match kind {
        ContributionKind::Commission => "broke what worked",
        ContributionKind::Omission => "did not teach it",
        ContributionKind::Inheritance => "received it and left it",
        ContributionKind::Repair => "repaired part of it",
        ContributionKind::None => "had no part",
    }
}

/// The same as a sentence of its own, for the first screen.
pub(crate) fn kind_plain(kind: ContributionKind) -> &'static str {
    match kind {
        ContributionKind::Commission => "What worked before stopped working.",
        ContributionKind::Omission => "What a good run learns there was not learnt.",
        ContributionKind::Inheritance => "It was there before and was left as it was.",
        ContributionKind::Repair => "Part of it was repaired there.",
        ContributionKind::None => "It had no part in it.",
    }
}

/// The mark in front of an outcome; the colour only repeats it.
pub(crate) fn mark(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Healthy => "✓",
        Outcome::Attributed { .. } => "✕",
        Outcome::Latent { .. } => "◐",
        Outcome::Undetermined { .. } => "?",
        Outcome::NotMeasured { .. } => "–",
    }
}

/// Class of an outcome in the style sheet.
pub(crate) fn tone(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Healthy => "good",
        Outcome::Attributed { .. } => "bad",
        Outcome::Latent { .. } | Outcome::Undetermined { .. } => "unsure",
        Outcome::NotMeasured { .. } => "quiet",
    }
}

/// An outcome in one line.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Healthy => "no failure found".to_owned(),
        Outcome::Attributed { phase: name, kind: how } => format!("{} {}", phase(name), kind(*how)),
        Outcome::Latent { phase: name, masked_by } => {
            format!("{} produced a fault that {} hides", phase(name), phase(masked_by))
        }
        Outcome::Undetermined { .. } => "falls short, phase not settled".to_owned(),
        Outcome::NotMeasured { .. } => "not measured".to_owned(),
    }
}

/// Confidence as a word.
pub(crate) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::None => "No claim",
        Confidence::Observed => "Observed",
        Confidence::Probable => "Probable",
        Confidence::Strong => "Strong",
    }
}

/// What the word stands for.
pub(crate) fn confidence_meaning(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::None => "the evidence does not settle on a phase",
        Confidence::Observed => "seen where the phase begins to differ; nothing else bears it out",
        Confidence::Probable => "the change at this phase and the comparison with healthy runs agree",
        Confidence::Strong => "the change at this phase, healthy runs and margins agree, and nothing points elsewhere",
    }
}

/// The same without the field's terms, for the first screen.
pub(crate) fn confidence_plain(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::None => "the evidence does not settle on a phase.",
        Confidence::Observed => "it begins at this phase; nothing else bears that out.",
        Confidence::Probable => "where it begins and the comparison with healthy runs agree.",
        Confidence::Strong => {
            "where it begins, the comparison with healthy runs and what the model itself prefers agree; nothing points elsewhere."
        }
    }
}

/// Rungs of the ladder that are reached, of three.
pub(crate) fn confidence_rungs(confidence: Confidence) -> usize {
    match confidence {
        Confidence::None => 0,
        Confidence::Observed => 1,
        Confidence::Probable => 2,
        Confidence::Strong => 3,
    }
}

/// A stage of training, as the head of a column.
pub(crate) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Pretraining => "Pretraining",
        Stage::Tuning => "SFT",
        Stage::Alignment => "Alignment",
        Stage::Deployment => "Deployment",
    }
}

/// How far the evidence was carried.
pub(crate) fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::Observed => "observed at this phase",
        Rung::Attributed => "attributed to it by the verdict model",
        Rung::Confirmed => "confirmed by training it again",
    }
}

/// The field's own term for an axis of a comparison, its abbreviation spelt out, and what it is a share of.
pub(crate) fn axis_term(axis: Axis) -> &'static str {
    match axis {
        Axis::OverRefusal => "over-refusal, share of harmless requests",
        Axis::HarmfulCompliance => "harmful compliance, share of harmful requests",
        Axis::InstructionFollowing => "instruction following, system prompts included",
        Axis::Calibration => "expected calibration error (ECE), 0 to 1",
        Axis::KnowledgeKept => "share of the facts known before alignment",
        Axis::Kl => "Kullback–Leibler divergence (KL), nats per answer",
    }
}

/// The axis with an arrow towards its better end; on a vertical axis the text is turned, and the arrow with it.
pub(crate) fn axis_arrow(of: Axis) -> String {
    let name = match of {
        Axis::Calibration => "confidence off by (ECE)",
        Axis::Kl => "distance from the start (KL, nats)",
        other => other.title(),
    };
    if of.is_gain() { format!("{name}, better →") } else { format!("← better, {name}") }
}

/// Which end of an axis is the better one.
pub(crate) fn axis_direction(axis: Axis) -> &'static str {
    match axis {
        Axis::Kl => "less is nearer",
        other if other.is_gain() => "more is better",
        _ => "less is better",
    }
}

/// How a setting was explored.
pub(crate) fn exploration(by: Exploration) -> &'static str {
    match by {
        Exploration::Realigned => "answers mixed while decoding (realignment)",
        Exploration::Interpolated => "weights mixed (interpolation)",
    }
}

/// The first letter made a capital.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// What a word of the glossary means; `None` of a word that it does not have.
pub(crate) fn meaning(word: &str) -> Option<&'static str> {
    GLOSSARY.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning)
}

/// Anchor of a word's entry in a glossary: `g-95-interval`.
pub(crate) fn anchor(word: &str) -> String {
    let lower = word.to_lowercase();
    let parts: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).collect();
    format!("g-{}", parts.join("-"))
}

/// The words that a report uses in a sense of its own.
pub(crate) const GLOSSARY: &[(&str, &str)] = &[
    (
        "Phase",
        "One stage of training: pretraining, supervised fine-tuning (SFT), alignment (RLHF or Constitutional AI).",
    ),
    ("Pretraining", "The first phase: the model learns to continue text, and with it what the text says."),
    ("SFT", "Supervised fine-tuning: the model is shown questions with good answers and learns to give such answers."),
    (
        "RLHF",
        "Reinforcement learning from human feedback: the model answers, a reward model rates the answers, and what is rated higher becomes more likely.",
    ),
    ("DPO", "Direct preference optimisation: the model learns from pairs of answers which of the two is better."),
    (
        "SL-CAI",
        "The first half of Constitutional AI: the model revises its own answers by written principles and learns from the revisions.",
    ),
    (
        "RL-CAI",
        "The second half of Constitutional AI: the model is rewarded for answers that it judges itself to keep to the principles.",
    ),
    ("Reward model", "The model that rates answers, as people or principles would; RLHF climbs its ratings."),
    ("Deployment", "How the last checkpoint is asked: its system prompt or template. Nothing is trained in it."),
    ("Checkpoint", "The model as it was saved at the end of a phase."),
    ("Lineage", "A chain of checkpoints, each trained from the one before."),
    ("Behaviour", "What is being asked for, e.g. obeying the system prompt. Each is measured on its own set of items."),
    ("Item", "One question with a known right answer; n counts items."),
    ("95% interval", "The range that the true value is in, for 95 of 100 such measurements."),
    ("Point", "One percentage point: the difference between 61% and 62%."),
    (
        "Not resolved",
        "The difference is too small for this many items to tell it from chance. It does not mean that nothing changed.",
    ),
    ("Detectable difference", "The smallest difference that this many items would show in 4 of 5 cases."),
    (
        "p",
        "How often chance alone would give a difference this large. After Holm: corrected for the number of differences looked at; below 0.05 counts as resolved.",
    ),
    (
        "Paired test",
        "McNemar's test: it looks only at the items that changed, and asks whether more of them broke than were repaired.",
    ),
    (
        "Healthy runs",
        "Lineages trained with a recipe that is known to be good; they show how much phases vary by chance.",
    ),
    (
        "Shortfall",
        "How far the last checkpoint stays behind healthy runs, in points. The phases' contributions add up to it.",
    ),
    ("Broke what worked", "Commission: the phase made worse what the phase before could do."),
    ("Did not teach it", "Omission: healthy runs learn it in this phase, this run did not."),
    ("Broken", "Right after the phase before, wrong after this one."),
    ("Repaired", "Wrong after the phase before, right after this one."),
    (
        "Broken again",
        "Right, then wrong, then right, then wrong: a phase repaired the item and a later one broke it a second time.",
    ),
    (
        "Hidden fault",
        "A phase fell short of healthy runs and a later one made up for it: the model passes, and may fail where it is asked otherwise.",
    ),
    (
        "Planted fault",
        "A fault put into the training data on purpose, so that the right verdict is known. Verdicts and fixes are measured on such faults.",
    ),
    (
        "Probability",
        "How likely the phase is guilty, by a model fitted on planted faults; of verdicts at 80%, some 80 in 100 are right.",
    ),
    (
        "Confirmed",
        "The accused phase was trained again with a healthy recipe and the failure went; with another phase in its place it stayed.",
    ),
    ("Best form", "The best value over all ways of asking: what the checkpoint can be got to show."),
    (
        "Debiased error",
        "How far confidence lies from the share that is right: the root mean square over ten groups of answers, less what chance alone adds. 0 is perfect. This is the number to quote.",
    ),
    (
        "Over-confidence",
        "Mean confidence less the share that is right: above 0 the model is too sure, below 0 not sure enough. Errors to both sides cancel.",
    ),
    (
        "ECE",
        "Expected calibration error: the mean distance between how sure the model is and how often it is right. 0 is perfect, but even a calibrated model scores more, because answers are finitely many.",
    ),
    (
        "If calibrated",
        "What a model with the same confidences would show if they were all true: the mean, and what 19 of 20 such models stay within. p: how often such a model shows as much.",
    ),
    (
        "Surest half",
        "The half of the answers with the highest confidence: what would be answered if the model kept silent on the rest.",
    ),
    (
        "AUROC",
        "How often the surer of a right and a wrong answer is the right one: 50% is guessing, 100% is perfect. No temperature changes it.",
    ),
    (
        "AURC",
        "Area under the risk-coverage curve: the share wrong, averaged over answering only the surest one, two, three ... of all. 0 is perfect.",
    ),
    (
        "Temperature",
        "A number that the log-odds of confidence are divided by. Above 1 it makes the model less sure; it changes no answer, and not which answers are the surest.",
    ),
    (
        "Brier score",
        "Mean squared distance between how sure the model is and whether it is right, 0 to 1. 0 is perfect.",
    ),
    (
        "Margin",
        "How strongly the model prefers the right answer to the best wrong one, in nats; negative: prefers the wrong one.",
    ),
    ("Nat", "The unit of such preferences when natural logarithms are used; 0.69 nats are one bit."),
    ("Token", "A piece of text as the model reads it, a word or part of one."),
    ("Over-refusal", "Refusing a harmless request, for instance because it contains an alarming word."),
    ("Harmful compliance", "Answering a request that should be refused."),
    (
        "Rule of thumb",
        "\"Facts come from pretraining, format from SFT, refusals from alignment\". Printed beside each verdict for comparison, never used to reach one.",
    ),
];

/// The words that a comparison uses in a sense of its own.
pub(crate) const COMPARISON_GLOSSARY: &[(&str, &str)] = &[
    (
        "Setting",
        "One way to align the model, e.g. a method with its strength; trained several times with different seeds.",
    ),
    ("Start", "The checkpoint that every setting was trained from: the model before alignment."),
    ("Seed", "The number that all chance in a training run comes from. Two seeds show how much chance alone does."),
    ("95% interval", "The range that the true value is in, for 95 of 100 such measurements."),
    ("Point", "One percentage point: the difference between 61% and 62%."),
    (
        "Dominated",
        "Another setting is shown to be better on one axis and no worse on the others, the distance from the start aside. A setting that is not dominated may be the best for somebody.",
    ),
    (
        "Not resolved",
        "The difference is too small for this many items and seeds to tell it from chance. It does not mean that nothing changed.",
    ),
    (
        "p after Holm",
        "How often chance alone would give a difference this large, corrected for the number of differences looked at (Holm's method). Below 0.05 counts as resolved.",
    ),
    ("Detectable difference", "The smallest difference that this much data would show in 4 of 5 cases."),
    (
        "Explored, not trained",
        "A setting between the start and a trained one, imitated by mixing their answers or their weights.",
    ),
    ("λ (lambda)", "Where an explored setting lies: 0 is the start, 1 the trained setting."),
    (
        "KL",
        "Kullback–Leibler divergence: how far the answers have moved from those of the start, in nats per answer. At 0 they are the same.",
    ),
    ("Nat", "The unit of such distances when natural logarithms are used; 0.69 nats are one bit."),
    (
        "ECE",
        "Expected calibration error: the mean distance between how sure the model is and how often it is right. 0 is perfect.",
    ),
    (
        "Proxy and gold",
        "Proxy: the reward that training climbs. Gold: whether the answer is right. Over-optimised: the proxy climbs while gold falls.",
    ),
    ("Over-refusal", "Refusing a harmless request, for instance because it contains an alarming word."),
    ("Harmful compliance", "Answering a request that should be refused."),
];

#[cfg(test)]
mod tests {
    use super::{COMPARISON_GLOSSARY, GLOSSARY, anchor, meaning};

    #[test]
    fn every_word_of_a_glossary_has_an_anchor_of_its_own() {
        for glossary in [GLOSSARY, COMPARISON_GLOSSARY] {
            let mut anchors: Vec<String> = glossary.iter().map(|(word, _)| anchor(word)).collect();
            anchors.sort_unstable();
            anchors.dedup();
            assert_eq!(anchors.len(), glossary.len());
        }
        assert_eq!(anchor("95% interval"), "g-95-interval");
    }

    #[test]
    fn a_word_that_is_not_in_the_glossary_has_no_meaning() {
        assert!(meaning("SFT").is_some_and(|meaning| meaning.starts_with("Supervised")));
        assert_eq!(meaning("sft"), None);
    }
}
