//! The card of one failing behaviour: which phase, how sure, on what evidence, what to do.

use std::collections::BTreeSet;

use evals::bisection::Bisection;
use evals::diagnosis::{BehaviourHistory, Confidence, Estimate, Outcome, PhaseInfo, Rung, Stage};
use evals::evidence::Reading;
use evals::fixes::{Fix, MeasuredFix};
use evals::trace::record::Trace;
use evals::tried::{self, TriedRemedy};
use probes::item::Behaviour;
use serde::Serialize;

use crate::chart::{Chart, waterfall};
use crate::number::{percent, plural, points, points_interval, short_percent, signed_points};
use crate::text::{ANSWER_LIMIT, clean};
use crate::words;

/// A failing behaviour with its verdict.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    /// Anchor of the card.
    pub(crate) id: String,
    /// `refuses harmless requests`.
    pub(crate) failure: &'static str,
    /// The field's term.
    pub(crate) term: &'static str,
    /// `✕` or `?`.
    pub(crate) mark: &'static str,
    /// Class in the style sheet.
    pub(crate) tone: &'static str,
    /// `RLHF broke what worked`, or that it is not settled.
    pub(crate) outcome: String,
    /// Phase that is blamed, as in the diagnosis.
    pub(crate) blamed: Option<String>,
    /// The same in words.
    pub(crate) blamed_name: Option<String>,
    /// Why the phase is not settled.
    pub(crate) reason: Option<String>,
    /// `31 points`.
    pub(crate) shortfall: Option<String>,
    /// How sure.
    pub(crate) confidence: Sureness,
    /// The rung that the evidence reached and the probability of guilt, where more was done than to observe.
    pub(crate) certainty: Option<String>,
    /// Contributions per phase.
    pub(crate) chart: Option<Chart>,
    /// Why there is no chart.
    pub(crate) no_chart: String,
    /// Evidence for the verdict.
    pub(crate) evidence: Vec<String>,
    /// What each stream of evidence says of each stage.
    pub(crate) streams: Option<Streams>,
    /// Examples that taught it.
    pub(crate) guilty: Option<Guilty>,
    /// Evidence against it.
    pub(crate) dissent: Vec<String>,
    /// What the rule of thumb says.
    pub(crate) thesis: String,
    /// What to do.
    pub(crate) remedy: Option<String>,
    /// What fixes did to planted faults of this kind.
    pub(crate) fixes: Vec<TriedFix>,
    /// What remedies without training did to this model, in a sentence.
    pub(crate) trial: Option<String>,
    /// The same remedy by remedy.
    pub(crate) tried: Vec<Trial>,
    /// What would change the verdict.
    pub(crate) would_change: Option<String>,
}

/// What a remedy did to the model, as a row of a table.
#[derive(Debug, Serialize)]
pub(crate) struct Trial {
    /// The remedy.
    pub(crate) what: String,
    /// What was changed.
    pub(crate) how: String,
    /// Share of failing items that are right with it.
    pub(crate) repaired: String,
    /// What that is beyond a neutral system prompt.
    pub(crate) beyond: String,
    /// Share of right items that are wrong with it.
    pub(crate) broken: String,
}

/// What a fix did to planted faults, as a row of a table.
#[derive(Debug, Serialize)]
pub(crate) struct TriedFix {
    /// What was done.
    pub(crate) what: String,
    /// Share of the shortfall that it took back, with its interval or why there is none.
    pub(crate) recovered: String,
    /// What it cost.
    pub(crate) cost: String,
    /// On how much it was measured.
    pub(crate) on: String,
}

/// What the streams of evidence say, as a table.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    /// The stages, as heads of columns.
    pub(crate) stages: Vec<&'static str>,
    /// One row per stream.
    pub(crate) rows: Vec<Stream>,
}

/// One stream of evidence.
#[derive(Debug, Serialize)]
pub(crate) struct Stream {
    /// Its name.
    pub(crate) name: String,
    /// What its numbers are.
    pub(crate) what: String,
    /// What it cannot see.
    pub(crate) blind_to: String,
    /// One number per stage; an em dash where it says nothing of it.
    pub(crate) values: Vec<String>,
}

/// Training examples that taught a failure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Guilty {
    /// `data/sft.jsonl`.
    pub(crate) file: String,
    /// How they were found.
    pub(crate) how: String,
    /// What they have in common.
    pub(crate) common: Vec<String>,
    /// The examples.
    pub(crate) rows: Vec<GuiltyRow>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GuiltyRow {
    /// Line of the file.
    pub(crate) line: usize,
    /// What is given.
    pub(crate) prompt: String,
    /// What is learnt.
    pub(crate) learnt: String,
}

/// What a single checkpoint has in the place of a phase to blame.
pub(crate) const NO_PHASE: &str = "One checkpoint: no phase to compare with.";
/// Rows of examples that are shown.
const SHOWN: usize = 5;
/// Traits that are told, of those this much more frequent.
const COMMON: usize = 3;
const LEAST_RATIO: f64 = 1.5;

fn streams(readings: &[Reading]) -> Option<Streams> {
    let stages: BTreeSet<Stage> = readings.iter().flat_map(|reading| reading.parts.keys().copied()).collect();
    let value = |reading: &Reading, stage: &Stage| {
        reading.parts.get(stage).map_or_else(|| "—".to_owned(), |value| format!("{value:+.2}").replace('-', "−"))
    };
    let rows = readings.iter().map(|reading| Stream {
        name: words::capital(&reading.stream),
        what: reading.what.clone(),
        blind_to: reading.blind_to.clone(),
        values: stages.iter().map(|stage| value(reading, stage)).collect(),
    });
    (!readings.is_empty())
        .then(|| Streams { stages: stages.iter().map(|stage| words::stage(*stage)).collect(), rows: rows.collect() })
}

/// The rows of a trace that are shown, and how they were found.
pub(crate) fn guilty(trace: &Trace) -> Guilty {
    let has_gradients = trace.methods.iter().any(|method| method == "gradient");
    let told = trace.contrast.iter().filter(|contrast| contrast.ratio >= LEAST_RATIO && contrast.z > 2.0).take(COMMON);
    Guilty {
        file: trace.file.clone(),
        how: format!(
            "The {} of {} rows that have most to do with {} of the {} failing answers, by {} ({}).",
            trace.rows.len().min(SHOWN),
            trace.n_rows,
            trace.n_queries,
            trace.n_failing,
            if has_gradients { "words in common and by what they teach" } else { "words in common" },
            trace.methods.join(", ")
        ),
        common: told
            .map(|contrast| {
                format!(
                    "{}: {} of {} rows found, {} of {} in the file ({:.1} times as often)",
                    contrast.feature, contrast.top, contrast.n_top, contrast.rows, contrast.n_rows, contrast.ratio
                )
            })
            .collect(),
        rows: trace
            .rows
            .iter()
            .take(SHOWN)
            .map(|row| GuiltyRow {
                line: row.line,
                prompt: clean(&row.prompt, ANSWER_LIMIT),
                learnt: clean(&row.learnt, ANSWER_LIMIT),
            })
            .collect(),
    }
}

/// A rung of the ladder of confidence.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sureness {
    /// The word.
    pub(crate) word: &'static str,
    /// What it stands for.
    pub(crate) meaning: &'static str,
    /// Rungs reached, of three.
    pub(crate) rungs: usize,
}

impl Sureness {
    /// The rung of a verdict.
    pub(crate) fn of(confidence: Confidence) -> Self {
        Self {
            word: words::confidence(confidence),
            meaning: words::confidence_meaning(confidence),
            rungs: words::confidence_rungs(confidence),
        }
    }
}

/// Whether a behaviour counts as failing.
pub(crate) fn is_failing(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Attributed { .. } | Outcome::Undetermined { .. })
}

/// Whether a behaviour passes and hides a fault.
pub(crate) fn is_latent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Latent { .. })
}

/// Failing behaviours: those with a phase to blame first, of these the largest shortfall first.
pub(crate) fn failing(histories: &[BehaviourHistory]) -> Vec<&BehaviourHistory> {
    let mut failing: Vec<&BehaviourHistory> = histories.iter().filter(|h| is_failing(&h.verdict.outcome)).collect();
    let shortfall = |h: &BehaviourHistory| h.verdict.shortfall.unwrap_or(0.0);
    // Both sorts are stable: of equals the one first in the table.
    failing.sort_by(|a, b| shortfall(b).total_cmp(&shortfall(a)));
    failing.sort_by_key(|h| matches!(h.verdict.outcome, Outcome::Undetermined { .. }));
    failing
}

/// Anchor of what stands under `prefix` about a behaviour: `main-over-refusal`.
pub(crate) fn anchor(prefix: &str, behaviour: Behaviour) -> String {
    format!("{prefix}-{}", words::behaviour_term(behaviour).replace(' ', "-"))
}

/// An outcome in one line; a single checkpoint falls short, and there is no phase to name.
pub(crate) fn outcome(outcome: &Outcome, phases: &[PhaseInfo]) -> String {
    if phases.len() < 2 && is_failing(outcome) { "falls short".to_owned() } else { words::outcome(outcome) }
}

/// Probability that the named phase's stage is guilty; none for a single checkpoint, whose phases cannot be told apart.
pub(crate) fn probability(history: &BehaviourHistory, phases: &[PhaseInfo]) -> Option<f64> {
    let Outcome::Attributed { phase, .. } = &history.verdict.outcome else { return None };
    if phases.len() < 2 {
        return None;
    }
    let names: Vec<String> = phases.iter().map(|phase| phase.name.clone()).collect();
    history.verdict.probability(Stage::of(phase, &names))
}

/// Builds the card of a failing behaviour.
pub(crate) fn card(prefix: &str, history: &BehaviourHistory, phases: &[PhaseInfo]) -> Card {
    let verdict = &history.verdict;
    let id = anchor(prefix, history.behaviour);
    let is_single = phases.len() < 2;
    let (blamed, reason) = match &verdict.outcome {
        Outcome::Attributed { .. } if is_single => (None, Some(NO_PHASE.to_owned())),
        Outcome::Attributed { phase, .. } => (Some(phase.clone()), None),
        Outcome::Undetermined { reason } => (None, Some(reason.clone())),
        Outcome::Healthy | Outcome::Latent { .. } | Outcome::NotMeasured { .. } => (None, None),
    };
    let chart = (!verdict.contributions.is_empty() && !is_single)
        .then(|| waterfall::draw(&format!("{id}-chart"), &verdict.contributions, verdict.shortfall, &verdict.outcome));
    let no_chart = match &reason {
        _ if is_single => "One checkpoint has no phases whose parts could be compared.".to_owned(),
        Some(reason) => format!("No contributions per phase: {reason}"),
        None => "No contributions per phase: there is nothing to compare with.".to_owned(),
    };
    let rung =
        verdict.rung.filter(|rung| *rung > Rung::Observed && !is_single).map(|rung| words::rung(rung).to_owned());
    let number = probability(history, phases).map(|p| format!("probability {}", percent(p)));
    let certainty: Vec<String> = rung.into_iter().chain(number).collect();
    let certainty = (!certainty.is_empty()).then(|| words::capital(&certainty.join(", ")));
    Card {
        failure: words::failure(history.behaviour),
        term: words::behaviour_term(history.behaviour),
        mark: words::mark(&verdict.outcome),
        tone: words::tone(&verdict.outcome),
        outcome: outcome(&verdict.outcome, phases),
        blamed_name: blamed.as_deref().map(words::phase),
        reason,
        shortfall: verdict.shortfall.map(points),
        confidence: Sureness::of(if is_single { Confidence::None } else { verdict.confidence }),
        certainty,
        chart,
        no_chart,
        evidence: verdict.evidence.iter().cloned().chain(verdict.bisection.iter().map(Bisection::sentence)).collect(),
        streams: streams(&verdict.readings),
        guilty: verdict.trace.as_ref().map(guilty),
        dissent: verdict.dissent.clone(),
        thesis: words::thesis(&verdict.thesis_baseline, blamed.as_deref()),
        remedy: verdict.remedy.clone(),
        fixes: verdict.fixes.iter().map(tried_fix).collect(),
        trial: tried::sentence(&history.tried),
        tried: history.tried.iter().map(trial).collect(),
        would_change: verdict.would_change.clone(),
        blamed,
        id,
    }
}

fn trial(tried: &TriedRemedy) -> Trial {
    let beyond = |of: &Estimate| format!("{} {}", signed_points(of.value), points_interval(of));
    Trial {
        what: words::capital(tried::what(tried.remedy)),
        how: clean(&tried.how, ANSWER_LIMIT),
        repaired: short_percent(&tried.repaired),
        beyond: tried.beyond_control.as_ref().map_or_else(|| "the control was not asked".to_owned(), beyond),
        broken: tried.broken.as_ref().map_or_else(|| "no item was right".to_owned(), short_percent),
    }
}

fn tried_fix(fix: &MeasuredFix) -> TriedFix {
    let interval = fix.telling_interval().map_or_else(
        || "no interval: too few types of fault".to_owned(),
        |(low, high)| format!("95% interval {} to {}", percent(low), percent(high)),
    );
    let cost = match fix.fix {
        Fix::OtherForm => "nothing: the model stays as it is".to_owned(),
        // Less than half a point would read as a loss of 0 points.
        _ => fix.loss.filter(|(_, loss)| *loss >= 0.005).map_or_else(
            || "no other behaviour lost".to_owned(),
            |(behaviour, loss)| format!("at most {} ({})", points(loss), words::behaviour(behaviour)),
        ),
    };
    TriedFix {
        what: words::capital(fix.fix.what()),
        recovered: format!("{} ({interval})", percent(fix.recovered)),
        cost,
        on: format!("{} with {} of fault", plural(fix.n, "model"), plural(fix.n_types, "type")),
    }
}
