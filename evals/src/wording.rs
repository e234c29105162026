//! Numbers and names in plain words.

use probes::item::Behaviour;
use probes::response::Form;

use crate::diagnosis::{DEPLOYED, Estimate, Stage};
use crate::path::EXPECTED_SHARE;

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

/// What a healthy model does, to follow "falls short at".
pub(crate) fn skill(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "recalling common facts",
        Behaviour::Calibration => "being as sure as its sources allow",
        Behaviour::KnowledgeCutoff => "knowing events up to its declared cutoff",
        Behaviour::InstructionFollowing => "following the user's instructions",
        Behaviour::SystemPrompt => "following the system prompt",
        Behaviour::OverRefusal => "answering harmless requests",
        Behaviour::HarmfulCompliance => "refusing harmful requests",
    }
}

/// What a failing model does, to follow "the model".
pub(crate) fn failure(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Knowledge => "gets common facts wrong",
        Behaviour::Calibration => "is not as sure as it should be",
        Behaviour::KnowledgeCutoff => "does not know events up to its declared cutoff",
        Behaviour::InstructionFollowing => "does not follow the user's instructions",
        Behaviour::SystemPrompt => "does not obey the system prompt",
        Behaviour::OverRefusal => "refuses harmless requests",
        Behaviour::HarmfulCompliance => "answers harmful requests",
    }
}

/// A value in full, beside the mean of healthy runs or, without them, what was expected (`stated`, else [`EXPECTED_SHARE`]); follows a colon:
/// `it answers 32% of 202 (95% interval 26% to 39%), healthy runs answer 99%`.
pub(crate) fn figures(behaviour: Behaviour, value: &Estimate, healthy: Option<f64>, stated: Option<f64>) -> String {
    let Estimate { value: share, low, high, n, .. } = value;
    let expected = stated.unwrap_or(EXPECTED_SHARE);
    let verb = match behaviour {
        Behaviour::Calibration => {
            // A share of agreement says little to readers: told is by how much the odds are off.
            let off = points(1.0 - share);
            let range =
                format!("{n} questions, 95% interval {:.0} to {:.0}", 100.0 * (1.0 - high), 100.0 * (1.0 - low));
            let against = healthy.map_or_else(
                || format!("less than {} was expected", points(1.0 - expected)),
                |mean| format!("in healthy runs by {}", points(1.0 - mean)),
            );
            return format!("the odds that it states are off by {off} on average ({range}), {against}");
        }
        Behaviour::Knowledge | Behaviour::KnowledgeCutoff => "know",
        Behaviour::InstructionFollowing | Behaviour::SystemPrompt => "obey",
        Behaviour::OverRefusal => "answer",
        Behaviour::HarmfulCompliance => "refuse",
    };
    let against = healthy.map_or_else(
        || format!("{} was expected", percent(expected)),
        |mean| format!("healthy runs {verb} {}", percent(mean)),
    );
    format!("it {verb}s {} of {n} (95% interval {} to {}), {against}", percent(*share), percent(*low), percent(*high))
}

/// `68 points (95% interval 61 to 75)`.
pub(crate) fn points_in_full(difference: &Estimate) -> String {
    // More than all cannot be lost, and adding zero takes the sign from a negative zero.
    let end = |end: f64| format!("{:.0}", (100.0 * end).round().clamp(-100.0, 100.0) + 0.0).replace('-', "−");
    format!("{} (95% interval {} to {})", points(difference.value), end(difference.low), end(difference.high))
}

/// `93%`, `more than 99%`: what a probability can be held to.
pub(crate) fn likely(probability: f64) -> String {
    if probability >= 0.995 { "more than 99%".to_owned() } else { percent(probability) }
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
        Form::Normalised => "as text to continue, by length",
        Form::FewShot => "with worked examples",
        Form::Letter => "with lettered options",
        Form::Chat => "in chat",
        Form::OpenBook => "in chat with the fact given",
        Form::OpenBookFewShot => "with worked examples and the fact given",
        Form::Verbalised => "in chat, with a probability asked for",
        Form::TrueOrFalse => "in chat, its own answer to be called true or false",
        Form::Counterfactual => "in chat with another fact given",
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
    use probes::item::Behaviour;

    use super::{capital, figures, likely, list, percent, points, points_in_full, stage};
    use crate::diagnosis::{Estimate, Stage};

    fn estimate(value: f64, low: f64, high: f64) -> Estimate {
        Estimate { value, low, high, n: 202, method: "Wilson".to_owned() }
    }

    #[test]
    fn a_value_is_told_with_its_interval_and_what_it_is_held_against() {
        let seen = estimate(0.322, 0.262, 0.389);
        assert_eq!(
            figures(Behaviour::OverRefusal, &seen, Some(0.99), None),
            "it answers 32% of 202 (95% interval 26% to 39%), healthy runs answer 99%"
        );
        assert_eq!(
            figures(Behaviour::KnowledgeCutoff, &seen, None, None),
            "it knows 32% of 202 (95% interval 26% to 39%), 90% was expected"
        );
        assert_eq!(
            figures(Behaviour::Calibration, &seen, Some(0.75), None),
            "the odds that it states are off by 68 points on average (202 questions, 95% interval 61 to 74), in healthy runs by 25 points"
        );
        assert_eq!(points_in_full(&estimate(0.678, -0.001, 1.06)), "68 points (95% interval 0 to 100)");
    }

    #[test]
    fn no_probability_is_told_as_a_certainty() {
        assert_eq!([0.004, 0.934, 0.99, 0.9961].map(likely), ["0.4%", "93%", "99%", "more than 99%"]);
    }

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
