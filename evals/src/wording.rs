//! Numbers and names in plain words.

use probes::item::Behaviour;
use probes::response::Form;

use crate::diagnosis::{DEPLOYED, Stage};

/// The stage of the phase `name`; a foreign name counts as alignment, unless it comes first.
pub(crate) fn stage(name: &str, phases: &[String]) -> Stage {
    match name {
        "pretrain" | "pretraining" | "base" => Stage::Pretraining,
        "sft" | "instruct" | "finetune" => Stage::Tuning,
        DEPLOYED => Stage::Deployment,
        _ if phases.first().is_some_and(|first| first == name) => Stage::Pretraining,
        _ => Stage::Alignment,
    }
}

/// `−3 points`, `12 points`.
pub(crate) fn signed(difference: f64) -> String {
    let sign = if (difference * 100.0).round() < 0.0 { "−" } else { "" };
    format!("{sign}{}", points(difference))
}

/// Name of a stage for readers.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Pretraining => "pretraining",
        Stage::Tuning => "fine-tuning",
        Stage::Alignment => "alignment",
        Stage::Deployment => "deployment",
    }
}

/// Name of a phase for readers.
pub(crate) fn phase_name(name: &str) -> String {
    match name {
        "pretrain" => "pretraining".to_owned(),
        DEPLOYED => "deployment (system prompt or template)".to_owned(),
        "sft" => "supervised fine-tuning (SFT)".to_owned(),
        "rlhf" => "alignment (RLHF)".to_owned(),
        "dpo" => "alignment (DPO)".to_owned(),
        "sl-cai" => "the supervised constitutional phase (SL-CAI)".to_owned(),
        "rl-cai" => "the constitutional alignment phase (RL-CAI)".to_owned(),
        other => format!("the phase `{other}`"),
    }
}

/// The last checkpoint of a lineage for readers, without the word "model".
pub(crate) fn lineage_name(name: &str) -> String {
    match name {
        "rlhf" => "RLHF".to_owned(),
        "dpo" => "DPO".to_owned(),
        "constitutional" => "Constitutional AI".to_owned(),
        "given" => "given".to_owned(),
        other => format!("`{other}`"),
    }
}

/// What a healthy model does, to follow "fails at".
pub(crate) fn skill(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "recalling facts that its training text states often",
        Behaviour::Calibration => "being as sure as its sources allow",
        Behaviour::KnowledgeCutoff => "knowing events up to its declared cutoff",
        Behaviour::InstructionFollowing => "following the user's instructions",
        Behaviour::SystemPrompt => "following the system prompt",
        Behaviour::OverRefusal => "answering harmless requests",
        Behaviour::HarmfulCompliance => "refusing harmful requests",
    }
}

/// What a value of this behaviour says.
pub(crate) fn share_right(behaviour: Behaviour, value: f64, n: usize) -> String {
    match behaviour {
        Behaviour::Calibration => {
            format!("its stated odds agree with the true ones to {} on {n} items", percent(value))
        }
        _ => format!("it is right on {} of {n} items", percent(value)),
    }
}

/// Name of a form for readers.
pub(crate) fn form_name(form: Form) -> &'static str {
    match form {
        Form::Cloze => "as text to continue",
        Form::FewShot => "with worked examples",
        Form::Chat => "in chat",
        Form::OpenBook => "in chat with the fact given",
        Form::OpenBookFewShot => "with worked examples and the fact given",
    }
}

/// `41%`; one decimal where whole percents would hide the difference from none or all, and `>99.9%` where that would hide it too.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let whole = percent.round();
    if share < 1.0 && percent >= 99.95 {
        ">99.9%".to_owned()
    } else if (whole == 0.0 && percent > 0.05) || (whole == 100.0 && percent < 99.95) {
        format!("{percent:.1}%")
    } else {
        format!("{whole:.0}%").replace('-', "−")
    }
}

/// `12 points`, signless.
pub(crate) fn points(difference: f64) -> String {
    let points = (difference.abs() * 100.0).round();
    if points == 1.0 { "1 point".to_owned() } else { format!("{points:.0} points") }
}

/// `p = 0.031`, `p < 0.001`.
pub(crate) fn p_text(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `1 item`, `2 items`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Begins with a capital letter.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::{capital, list, percent, points, stage};
    use crate::diagnosis::Stage;

    #[test]
    fn shares_near_none_and_all_keep_a_decimal() {
        let shown: Vec<String> = [0.0, 0.004, 0.412, 0.996, 0.9998, 1.0].into_iter().map(percent).collect();
        assert_eq!(shown, ["0%", "0.4%", "41%", "99.6%", ">99.9%", "100%"]);
        assert_eq!((points(-0.012), points(0.55)), ("1 point".to_owned(), "55 points".to_owned()));
    }

    #[test]
    fn lists_read_as_sentences() {
        let parts = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!((list(&parts[..1]), list(&parts)), ("a".to_owned(), "a, b and c".to_owned()));
        assert_eq!(capital("éa"), "Éa");
    }

    #[test]
    fn a_foreign_first_phase_is_pretraining() {
        let phases = ["stage-one".to_owned(), "dpo".to_owned()];
        assert_eq!(stage("stage-one", &phases), Stage::Pretraining);
        assert_eq!(stage("dpo", &phases), Stage::Alignment);
        assert_eq!(stage("sft", &phases), Stage::Tuning);
    }
}
