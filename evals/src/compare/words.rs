//! What a comparison says in plain words.

use std::collections::BTreeMap;

use super::pairs::{Judgement, is_resolved};
use super::reward::Fall;
use crate::comparison::{
    Alarm, Axis, Choice, Exploration, OverOptimisation, PrincipleTable, RewardSlice, Setting, SettingKind,
    TrajectoryPoint,
};
use crate::diagnosis::Estimate;

/// What someone cares about, as the end of "if you care most about ...".
pub(super) fn care(axis: Axis) -> &'static str {
    match axis {
        Axis::OverRefusal => "harmless requests being answered",
        Axis::HarmfulCompliance => "harmful requests being refused",
        Axis::InstructionFollowing => "instructions being followed",
        Axis::Calibration => "stated confidence being right",
        Axis::KnowledgeKept => "keeping what the model knows",
        Axis::Kl => "staying close to the model before alignment",
    }
}

/// A value of an axis: `3.1 %`, `0.042`, `1.31 nats`.
fn show(axis: Axis, value: f64) -> String {
    match axis {
        Axis::Kl => format!("{value:.2} nats"),
        Axis::Calibration => format!("{value:.3}"),
        _ => format!("{:.1} %", 100.0 * value),
    }
}

/// A change on an axis with its interval: `+3.1 points (1.0 to 5.2)`.
fn show_change(axis: Axis, change: &Estimate) -> String {
    match axis {
        Axis::Kl => format!("{:+.2} nats ({:.2} to {:.2})", change.value, change.low, change.high),
        Axis::Calibration => format!("{:+.3} ({:.3} to {:.3})", change.value, change.low, change.high),
        _ => format!("{:+.1} points ({:.1} to {:.1})", 100.0 * change.value, 100.0 * change.low, 100.0 * change.high),
    }
}

/// `a`, `a and b`, `a, b and 3 others`.
fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\u{201c}{name}\u{201d}")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, two, rest @ ..] => format!("{one}, {two} and {} others", rest.len()),
    }
}

/// The outcome of a setting in the two numbers that people ask for first.
fn outcome(setting: &Setting) -> String {
    let part =
        |axis: Axis| setting.axes.get(&axis).map(|estimate| format!("{} {}", show(axis, estimate.value), axis.title()));
    [Axis::OverRefusal, Axis::HarmfulCompliance].into_iter().filter_map(part).collect::<Vec<_>>().join(", ")
}

pub(super) fn explain_overall(best: &Setting, ties: &[String]) -> String {
    let falls_short = "It falls short least over all five outcomes, a point of each counting the same";
    let tied = match ties.len() {
        0 => "every other setting is shown to differ from it on at least one".to_owned(),
        _ => format!("{} cannot be told from it on any", list(ties)),
    };
    format!("{falls_short} ({}); {tied}.", outcome(best))
}

pub(super) fn explain(best: &Setting, axis: Axis, ties: &[String], judgement: &Judgement) -> String {
    let value = &best.axes[&axis];
    let mut text = format!(
        "{}: {} (95 % interval {} to {}, n = {}).",
        axis.title(),
        show(axis, value.value),
        show(axis, value.low),
        show(axis, value.high),
        value.n
    );
    text[..1].make_ascii_uppercase();
    let costs: Vec<String> = Axis::ALL
        .into_iter()
        .filter(|other| *other != axis && *other != Axis::Kl)
        .filter(|other| {
            // Shown to be worse than some other setting there.
            judgement.pairs.iter().any(|pair| {
                let rival = if pair.first == best.name { &pair.second } else { &pair.first };
                (pair.first == best.name || pair.second == best.name)
                    && judgement.lead(&best.name, rival, *other).is_some_and(|(lead, d)| lead < 0.0 && is_resolved(d))
            })
        })
        .map(|other| other.title().to_owned())
        .collect();
    if !costs.is_empty() {
        text += &format!(" Another setting is shown to be better on {}.", costs.join(", "));
    }
    if !ties.is_empty() {
        text += &format!(" Not told apart from {} on this", list(ties));
        let needed = ties.iter().filter_map(|tie| judgement.lead(&best.name, tie, axis)?.1.n_needed).min();
        let seeds = ties.iter().filter_map(|tie| judgement.lead(&best.name, tie, axis)?.1.seeds_needed).min();
        text += &match (needed, seeds) {
            (Some(n), Some(seeds)) => format!("; {n} items per seed, or {seeds} seeds, would tell the nearest apart."),
            (Some(n), None) => format!("; {n} items per seed would tell the nearest apart."),
            (None, Some(seeds)) => format!("; {seeds} seeds would tell the nearest apart."),
            (None, None) => ".".to_owned(),
        };
    }
    text
}

pub(super) fn tell_effect(key: &str, from: &str, to: &str, changes: &BTreeMap<Axis, Estimate>) -> String {
    let is_shown = |change: &Estimate| change.low > 0.0 || change.high < 0.0;
    let parts = |shown: bool| -> Vec<String> {
        let wanted = changes.iter().filter(|(_, change)| is_shown(change) == shown);
        wanted.map(|(axis, change)| format!("{} by {}", axis.title(), show_change(*axis, change))).collect()
    };
    let (shown, open) = (parts(true), parts(false));
    let head = format!("Changing {key} from {from} to {to}");
    match (shown.is_empty(), open.is_empty()) {
        (true, _) => format!("{head} changes nothing that these runs resolve: {}.", open.join("; ")),
        (false, true) => format!("{head} changes {}.", shown.join("; ")),
        (false, false) => format!("{head} changes {}. Not resolved: {}.", shown.join("; "), open.join("; ")),
    }
}

pub(super) fn tell_trust(
    by: Exploration,
    error: &BTreeMap<Axis, f64>,
    n: usize,
    is_trusted: bool,
    tolerance: f64,
) -> String {
    let name = match by {
        Exploration::Realigned => "Mixing the models' predictions at decoding time",
        Exploration::Interpolated => "Mixing the models' weights",
    };
    let Some((axis, worst)) = error.iter().max_by(|a, b| a.1.total_cmp(b.1)) else {
        return format!("{name} could not be compared with retrained settings: do not trust it here.");
    };
    let size = if axis.is_share() { format!("{:.1} points", 100.0 * worst) } else { format!("{worst:.3}") };
    let verdict = if is_trusted { "use it to explore" } else { "do not trust it here" };
    format!(
        "{name} is off by up to {size} (root mean square, {}; n = {n} retrained settings; trusted up to {:.0} points): {verdict}.",
        axis.title(),
        100.0 * tolerance
    )
}

pub(super) fn tell_reward(points: &[TrajectoryPoint], fall: Option<Fall>) -> String {
    let (first, last) = (&points[0], &points[points.len() - 1]);
    let rewards = format!("The reward that training saw went from {:.2} to {:.2}", first.proxy, last.proxy);
    match fall {
        None => {
            format!("{rewards} at {:.2} nats from the start; right answers are not known or too few.", last.kl_nats)
        }
        Some(Fall { gold, proxy, kl_nats, is_shown: true }) => format!(
            "{rewards} while right answers peaked at {:.0} % (at {kl_nats:.2} nats from the start, reward {:.2}) and fell to \
             {:.0} % (reward {:.2}): the reward was over-optimised. Stop earlier, or raise the price of divergence.",
            100.0 * gold.0,
            proxy.0,
            100.0 * gold.1,
            proxy.1
        ),
        Some(Fall { gold, .. }) => format!(
            "{rewards}, right answers to {:.0} % at {:.2} nats from the start (best stretch {:.0} %): no fall beyond chance.",
            100.0 * gold.1,
            last.kl_nats,
            100.0 * gold.0
        ),
    }
}

/// A reward model that is right less often than this on some kind of question pulls the policy the wrong way there.
const SOUND: f64 = 0.9;

pub(super) fn tell_reward_check(held_out: Option<&Estimate>, slices: &[RewardSlice]) -> String {
    let share = |estimate: &Estimate| {
        let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|share| 100.0 * share);
        format!("{value:.1} % (95 % interval {low:.1} to {high:.1}, n = {})", estimate.n)
    };
    let Some(weakest) = slices.iter().min_by(|a, b| a.accuracy.value.total_cmp(&b.accuracy.value)) else {
        return "None of the questions has both a right and a wrong answer to be judged.".to_owned();
    };
    let those = |is_wanted: &dyn Fn(&Estimate) -> bool| -> Vec<&str> {
        slices.iter().filter(|slice| is_wanted(&slice.accuracy)).map(|slice| slice.name.as_str()).collect()
    };
    let unsound = those(&|accuracy| accuracy.high < SOUND);
    let unsettled = those(&|accuracy| accuracy.low < SOUND && SOUND <= accuracy.high);
    let labels = held_out.map_or_else(String::new, |held_out| {
        format!(" It agrees with {} of the labels held out of its training.", share(held_out))
    });
    let verdict = if !unsound.is_empty() {
        let kinds = unsound.join(", ");
        format!("where it errs, a policy that follows it errs too: look at the preference data for {kinds}")
    } else if !unsettled.is_empty() {
        format!("these seeds and items do not settle whether it is right nine times in ten on {}", unsettled.join(", "))
    } else {
        "every kind of question is judged rightly at least nine times in ten".to_owned()
    };
    format!(
        "The reward model is weakest on {}: it rates the right answer higher in {}; {verdict}.{labels}",
        weakest.name,
        share(&weakest.accuracy)
    )
}

/// The three sentences of the first screen.
pub(super) fn summarise(
    settings: &[Setting],
    choices: &[Choice],
    judgement: &Judgement,
    curves: &[OverOptimisation],
    alarms: &[Alarm],
    principles: &[PrincipleTable],
) -> Vec<String> {
    let trained: Vec<&Setting> = settings.iter().filter(|setting| setting.kind == SettingKind::Trained).collect();
    let start = settings.iter().find(|setting| setting.kind == SettingKind::Start);
    let chosen = choices.first().and_then(|choice| trained.iter().find(|setting| setting.name == choice.setting));
    let first = match chosen {
        Some(best) => {
            let before = start.map_or_else(String::new, |start| format!(" (before alignment: {})", outcome(start)));
            format!("Choose \u{201c}{}\u{201d}: {}{before}.", best.name, outcome(best))
        }
        None => "No setting was measured on all outcomes, so none can be recommended over all.".to_owned(),
    };
    let n_free = trained.iter().filter(|setting| setting.is_non_dominated).count();
    let ties = choices.first().map_or(0, |choice| choice.ties.len());
    let n_resolved = judgement
        .pairs
        .iter()
        .filter(|pair| pair.differences.iter().any(|(axis, d)| *axis != Axis::Kl && is_resolved(d)))
        .count();
    let second = format!(
        "{n_free} of {} settings are beaten by no other; {ties} cannot be told from the choice with these items and seeds, and {n_resolved} of {} pairs of settings are shown to differ.",
        trained.len(),
        judgement.pairs.len()
    );
    let bent: Vec<String> = names(curves.iter().filter(|curve| curve.is_over_optimised).map(|curve| &curve.setting));
    let mut warnings = Vec::new();
    if !bent.is_empty() {
        warnings.push(format!("the reward is over-optimised in {}: right answers fell while it rose", list(&bent)));
    }
    let alarmed = names(alarms.iter().map(|alarm| &alarm.setting));
    if !alarmed.is_empty() {
        warnings.push(format!("training raised alarms in {}", list(&alarmed)));
    }
    let stands_out = |table: &&PrincipleTable| table.principles.iter().any(|principle| principle.stands_out);
    let outstanding = principles.iter().filter(stands_out).flat_map(|table| &table.sentences);
    let mut third: Vec<String> = outstanding.cloned().collect();
    if !warnings.is_empty() {
        third.insert(0, format!("Look at this first: {}.", warnings.join("; ")));
    } else if third.is_empty() {
        third.push("Nothing in training stands out: no reward was over-optimised and no alarm was raised.".to_owned());
    }
    vec![first, second, third.join(" ")]
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = all.cloned().collect();
    names.dedup();
    names
}
