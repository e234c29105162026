//! What a gate decided: for people as text and Markdown, for machines as JUnit, SARIF and GitHub's annotations.
//!
//! The words are made here, cleaned but not escaped; each form escapes them for its own reader.

pub(crate) mod annotations;
pub(crate) mod junit;
pub(crate) mod link;
pub(crate) mod markdown;
pub(crate) mod sarif;
pub(crate) mod table;

use evals::reference::Route;
use evals::release::policy::{Against, Metric, Tier};
use evals::release::record::{Blame, Decision, Flip, Judgement, Measured, Outcome, Ruling, Side};

use crate::number::{MISSING, count, decimal, fine_percent, p_value, percent, plural};
use crate::text::{clean_line, clean_name};
use crate::words;

/// Broken items that people are shown of one rule.
const FLIPS_SHOWN: usize = 20;
/// Longest question, path or reason shown, in characters.
const LINE_LIMIT: usize = 300;
/// Columns of the table.
const N_COLUMNS: usize = 10;

/// How loudly a ruling is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// A critical rule is broken or was not measured.
    Error,
    /// A critical rule is undecided, or a supporting one is not shown to hold.
    Warning,
    /// An advisory rule is not shown to hold.
    Note,
    /// The rule holds.
    Silent,
}

impl Level {
    fn of(ruling: &Ruling) -> Self {
        match (&ruling.outcome, ruling.tier) {
            (Outcome::Held, _) => Self::Silent,
            (Outcome::Broken | Outcome::NotMeasured(_), Tier::Critical) => Self::Error,
            (_, Tier::Critical | Tier::Supporting) => Self::Warning,
            (_, Tier::Advisory) => Self::Note,
        }
    }

    /// As annotations and SARIF spell it.
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Silent => "none",
        }
    }
}

/// The rulings, what blocks first and what holds last; otherwise in the order of the policy.
fn worst_first(judgement: &Judgement) -> Vec<&Ruling> {
    let mut rulings: Vec<&Ruling> = judgement.rulings.iter().collect();
    rulings.sort_by_key(|ruling| (Level::of(ruling), ruling.tier));
    rulings
}

/// The decision in one line: `BLOCK: 1 of 7 critical rules is broken`.
fn headline(judgement: &Judgement) -> String {
    let word = match judgement.decision {
        Decision::Pass => "PASS",
        Decision::Warn => "WARN",
        Decision::Inconclusive => "INCONCLUSIVE",
        Decision::Block => "BLOCK",
    };
    let why = match judgement.decision {
        Decision::Pass => match judgement.rulings.iter().filter(|ruling| ruling.tier != Tier::Advisory).count() {
            0 => "no rule is critical or supporting".to_owned(),
            1 => "the one critical or supporting rule is shown to hold".to_owned(),
            n => format!("all {} critical and supporting rules are shown to hold", count(n)),
        },
        Decision::Warn => {
            let short = tally(judgement, Tier::Supporting).unwrap_or_else(|| "a supporting one is not".to_owned());
            format!("every critical rule is shown to hold; {short}")
        }
        Decision::Inconclusive | Decision::Block => {
            tally(judgement, Tier::Critical).unwrap_or_else(|| "a critical rule is not shown to hold".to_owned())
        }
    };
    format!("{word}: {why}")
}

/// `1 of 7 critical rules is broken, 2 are undecided`; `None` where all of the tier hold.
fn tally(judgement: &Judgement, tier: Tier) -> Option<String> {
    let of_tier = judgement.rulings.iter().filter(|ruling| ruling.tier == tier);
    let outcomes: Vec<&str> = of_tier.map(|ruling| outcome_word(&ruling.outcome)).collect();
    let mut parts: Vec<String> = Vec::new();
    for word in ["broken", "not measured", "undecided"] {
        let n = outcomes.iter().filter(|outcome| **outcome == word).count();
        if n == 0 {
            continue;
        }
        let verb = if n == 1 { "is" } else { "are" };
        let of = if parts.is_empty() {
            format!(" of {}", plural(outcomes.len(), &format!("{} rule", tier_word(tier))))
        } else {
            String::new()
        };
        parts.push(format!("{}{of} {verb} {word}", count(n)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Who is compared with whom.
fn sides(judgement: &Judgement) -> String {
    let name = |side: &Side| format!("{} ({})", clean_name(&side.run), clean_line(&side.path, LINE_LIMIT));
    format!("Candidate {} against baseline {}", name(&judgement.candidate), name(&judgement.baseline))
}

/// Heads of the table's columns.
fn heads(judgement: &Judgement) -> [String; N_COLUMNS] {
    let detectable = format!("could detect ({})", percent(judgement.power));
    [
        "outcome",
        "tier",
        "rule",
        "chain / phase",
        "against",
        "before -> after",
        "harm (one-sided limits)",
        "allowed",
        "n",
        detectable.as_str(),
    ]
    .map(str::to_owned)
}

/// A ruling as a row of the table.
fn cells(ruling: &Ruling) -> [String; N_COLUMNS] {
    let metric = ruling.metric;
    let missing = || MISSING.to_owned();
    let numbers = ruling.measured.as_ref().map(|m| {
        let detectable = m.detectable.map_or_else(missing, |effect| format!(">= {}", amount(metric, effect)));
        [change(metric, m), harm(metric, m), amount(metric, m.allowed), count(m.n), detectable]
    });
    let [change, harm, allowed, n, detectable] = numbers.unwrap_or_else(|| std::array::from_fn(|_| missing()));
    [
        outcome_word(&ruling.outcome).to_owned(),
        tier_word(ruling.tier).to_owned(),
        clean_name(&ruling.name),
        place(ruling),
        against_word(ruling.against).to_owned(),
        change,
        harm,
        allowed,
        n,
        detectable,
    ]
}

/// A ruling by its name: `broken, critical: facts are kept (RLHF / SFT)`.
fn heading(ruling: &Ruling) -> String {
    let (outcome, tier) = (outcome_word(&ruling.outcome), tier_word(ruling.tier));
    format!("{outcome}, {tier}: {} ({})", clean_name(&ruling.name), place(ruling))
}

/// A ruling by its numbers, in one line without a full stop.
fn summary(ruling: &Ruling) -> String {
    let (what, metric) = (compared(ruling), ruling.metric);
    match (&ruling.outcome, &ruling.measured) {
        (Outcome::NotMeasured(reason), _) => {
            format!("{what}: not measured, {}", clean_line(reason, LINE_LIMIT).trim_end_matches('.'))
        }
        (_, None) => format!("{what}: no numbers"),
        (_, Some(measured)) => format!(
            "{what}: {} against the {}, harm {}, allowed {}, n = {}",
            change(metric, measured),
            against_word(ruling.against),
            harm(metric, measured),
            amount(metric, measured.allowed),
            count(measured.n)
        ),
    }
}

/// [`explanation`], and where the report speaks of it as text, for formats without links.
fn plain_explanation(judgement: &Judgement, ruling: &Ruling) -> Vec<String> {
    let mut lines = explanation(judgement, ruling);
    lines.extend(link::path(judgement, ruling).map(|path| format!("In the report: {path}")));
    lines
}

/// Why a rule is not shown to hold, what would decide it, and where it was lost; a sentence each.
fn explanation(judgement: &Judgement, ruling: &Ruling) -> Vec<String> {
    let measured = match (&ruling.outcome, &ruling.measured) {
        (Outcome::NotMeasured(_), _) | (_, None) => return vec![format!("{}.", summary(ruling))],
        (_, Some(measured)) => measured,
    };
    let mut lines = vec![format!(
        "{}: {} in {}, {}; p-value {} before Holm.",
        compared(ruling),
        plural(measured.n, "item"),
        plural(measured.n_clusters, "cluster"),
        clean_name(&measured.method),
        p_value(measured.p_broken)
    )];
    lines.extend(changed(measured));
    lines.extend(deciding(judgement, ruling, measured));
    lines.extend(measured.blame.as_ref().map(blamed));
    lines.extend(measured.blame.as_ref().and_then(diagnosed));
    lines
}

fn changed(measured: &Measured) -> Option<String> {
    let (n_broken, n_repaired) = (measured.broken.len(), measured.n_repaired);
    let verbs = |n: usize| if n == 1 { ("was", "is") } else { ("were", "are") };
    let ((was, is), (had_been, has_become)) = (verbs(n_broken), verbs(n_repaired));
    (n_broken + n_repaired > 0).then(|| {
        format!(
            "{} {was} right and {is} wrong; {} {had_been} wrong and {has_become} right.",
            plural(n_broken, "item"),
            count(n_repaired)
        )
    })
}

/// What would decide an undecided rule, and what the numbers do not cover.
fn deciding(judgement: &Judgement, ruling: &Ruling, measured: &Measured) -> Vec<String> {
    let noise = measured.seed_noise.map(|sd| amount(ruling.metric, sd));
    let is_open = ruling.outcome == Outcome::Undecided;
    let mut lines = Vec::new();
    if is_open {
        lines.push(match (measured.n_to_decide, &noise) {
            (Some(n), _) => format!(
                "About {} would decide it in {} of cases; it has {}.",
                plural(n, "item"),
                percent(judgement.power),
                count(measured.n)
            ),
            (None, Some(sd)) => {
                format!(
                    "More items would not decide it: it is at the edge, or within seed noise (standard deviation {sd})."
                )
            }
            (None, None) => "More items would not decide it: it is at the edge of what is allowed.".to_owned(),
        });
    }
    if let Some(effect) = measured.detectable {
        lines.push(format!("It could detect >= {} ({}).", amount(ruling.metric, effect), percent(judgement.power)));
    }
    match noise {
        Some(sd) if !is_open => lines.push(format!("The limits include seed noise (standard deviation {sd}).")),
        None if is_single_run(ruling) => lines.push("Single run, seed noise unknown.".to_owned()),
        _ => {}
    }
    lines
}

/// Whether chance between training seeds may add to a difference and its limits do not know it.
fn is_single_run(ruling: &Ruling) -> bool {
    ruling.against == Against::Baseline && ruling.measured.as_ref().is_some_and(|m| m.seed_noise.is_none())
}

fn blamed(blame: &Blame) -> String {
    let route = match blame.route {
        Route::Chat => "in this form of asking",
        Route::Elicited => "in every form of asking",
        Route::Margin => "by the margins in chat",
        Route::Reward => "as the reward model rates the answers",
    };
    format!(
        "The candidate fell behind in {}: {} of the loss arises there, {route}.",
        words::phase(&blame.phase),
        percent(blame.share)
    )
}

fn diagnosed(blame: &Blame) -> Option<String> {
    let diagnosed = blame.diagnosed.as_ref()?;
    let agrees = if diagnosed.phase == blame.phase { "too" } else { "instead" };
    let probability = diagnosed.probability.map(|p| format!("probability {}", percent(p)));
    let rung = diagnosed.rung.map(|rung| words::rung(rung).to_owned());
    let how: Vec<String> = probability.into_iter().chain(rung).collect();
    let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
    let phase = words::phase(&diagnosed.phase);
    Some(format!("Its own diagnosis names {phase} {agrees}{how}."))
}

/// What holds for all rules.
fn closing(judgement: &Judgement) -> Vec<String> {
    let mut lines = vec![format!(
        "At most {} of harmless candidates are blocked by chance; a detectable harm is found in {} of cases.",
        fine_percent(judgement.alpha),
        percent(judgement.power)
    )];
    let n_single = judgement.rulings.iter().filter(|ruling| is_single_run(ruling)).count();
    if n_single > 0 {
        lines.push(format!(
            "Single run, seed noise unknown for {}: the limits hold for these checkpoints, not for other seeds.",
            plural(n_single, "rule")
        ));
    }
    if !judgement.allowed.is_empty() {
        lines.push(format!("Allowed to differ: {}.", clean_line(&judgement.allowed.join(", "), LINE_LIMIT)));
    }
    let bank: String = judgement.bank_hash.chars().take(12).collect();
    lines.push(format!("Bank {}, phasetrace {}.", clean_name(&bank), clean_name(&judgement.phasetrace_version)));
    lines
}

/// The items that were right and are wrong.
fn flips(ruling: &Ruling) -> &[Flip] {
    match &ruling.measured {
        Some(measured) => &measured.broken,
        None => &[],
    }
}

/// What is compared: `Knows common facts (score, chat; RLHF / SFT)`.
fn compared(ruling: &Ruling) -> String {
    let (behaviour, form) = (words::behaviour(ruling.behaviour), words::form(ruling.form));
    format!("{behaviour} ({}, {form}; {})", metric_word(ruling.metric), place(ruling))
}

/// Chain and phase for people. What a policy requires of a run as a whole has neither.
fn place(ruling: &Ruling) -> String {
    if ruling.lineage.is_empty() && ruling.phase.is_empty() {
        return "whole run".to_owned();
    }
    format!("{} / {}", words::lineage(&ruling.lineage), words::phase(&ruling.phase))
}

/// Name of a chain or phase for programs, none of whose names may be empty.
fn key(name: &str) -> String {
    if name.is_empty() { "run".to_owned() } else { clean_name(name) }
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "held",
        Outcome::Broken => "broken",
        Outcome::Undecided => "undecided",
        Outcome::NotMeasured(_) => "not measured",
    }
}

fn tier_word(tier: Tier) -> &'static str {
    match tier {
        Tier::Critical => "critical",
        Tier::Supporting => "supporting",
        Tier::Advisory => "advisory",
    }
}

fn metric_word(metric: Metric) -> &'static str {
    match metric {
        Metric::Score => "score",
        Metric::Ece => "ECE",
    }
}

fn against_word(against: Against) -> &'static str {
    match against {
        Against::Baseline => "baseline",
        Against::PreviousPhase => "phase before",
    }
}

fn change(metric: Metric, measured: &Measured) -> String {
    let value = |value: f64| match metric {
        Metric::Score => fine_percent(value),
        Metric::Ece => decimal(value, 3),
    };
    format!("{} -> {}", value(measured.before.value), value(measured.after.value))
}

/// How much worse, with its one-sided limits: `2.1 points (0.4 to 3.9)`.
fn harm(metric: Metric, measured: &Measured) -> String {
    let limit = |value| scaled(metric, value);
    format!("{} ({} to {})", amount(metric, measured.harm), limit(measured.low), limit(measured.high))
}

/// A difference in the metric's units: `2.1 points`, `0.021`.
fn amount(metric: Metric, difference: f64) -> String {
    match metric {
        Metric::Score if difference.is_finite() => format!("{} points", scaled(metric, difference)),
        Metric::Score | Metric::Ece => scaled(metric, difference),
    }
}

/// The same without its unit; what rounds to zero has no sign.
fn scaled(metric: Metric, difference: f64) -> String {
    match metric {
        Metric::Score => decimal((1_000.0 * difference).round() / 10.0 + 0.0, 1),
        Metric::Ece => decimal((1_000.0 * difference).round() / 1_000.0 + 0.0, 3),
    }
}
