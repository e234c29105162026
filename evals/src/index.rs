//! Many runs side by side: what each shows at its end, what changed from one to the next, and which phases are blamed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use probes::item::Behaviour;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnosis::{BehaviourHistory, Confidence, Diagnosis, Estimate, Outcome, ReferenceInfo, Rung, Stage};
use crate::stats::multiplicity::holm;
use crate::stats::newcombe::{Share, difference_at, p_value};
use crate::stats::normal::Z_95;
use crate::wording::{capital, count, list, phase_name, skill};

/// Format version of an index.
pub const INDEX_VERSION: u32 = 1;

/// Adjusted p-value below which a change counts as resolved.
const LEVEL: f64 = 0.05;

/// Several runs, in the order in which they were given: no record of a run holds a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Format version, [`INDEX_VERSION`].
    #[schemars(extend("const" = INDEX_VERSION))]
    pub version: u32,
    /// Three plain sentences: what fails, which phases are blamed, what is with the last run.
    pub sentences: Vec<String>,
    /// The runs.
    pub runs: Vec<IndexRun>,
    /// Which of them were asked the same, the series of the last run first.
    pub series: Vec<Series>,
    /// What changed between runs of a series that follow each other.
    pub changes: Vec<Change>,
}

/// One run, as its diagnosis tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexRun {
    /// Name of the run.
    pub name: String,
    /// Its folder, as shown to people.
    pub path: String,
    /// Its report, relative to the folder of the index, parts separated by `/`; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Seed of the run; `None` where nobody has said which.
    pub seed: Option<u64>,
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Number of items in the bank.
    pub n_items: usize,
    /// Version of the probes.
    pub probe_version: u32,
    /// Version of phasetrace.
    pub phasetrace_version: String,
    /// Healthy runs that it was compared with, or `None`.
    pub reference: Option<ReferenceInfo>,
    /// Name of the deployed lineage; `None` where the diagnosis has none.
    pub lineage: Option<String>,
    /// Its phases in order.
    pub phases: Vec<String>,
    /// Each behaviour after the last of them.
    pub behaviours: Vec<LastValue>,
    /// First sentence of the diagnosis.
    pub sentence: Option<String>,
}

/// A behaviour at the last checkpoint, and what is said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LastValue {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Share of items that are right, in [0, 1]; `None` where not measured.
    pub value: Option<Estimate>,
    /// Why there is no value.
    pub not_measured: Option<String>,
    /// Mean over healthy runs.
    pub reference: Option<f64>,
    /// What became of it.
    pub outcome: Outcome,
    /// How sure, as a word of the ladder.
    pub confidence: Confidence,
    /// How far the evidence against the named phase was carried.
    pub rung: Option<Rung>,
    /// Probability that the named phase is guilty, where the verdict model was asked.
    pub probability: Option<f64>,
    /// Shortfall against healthy runs (or the stated expectation), in share of items.
    pub shortfall: Option<f64>,
}

/// Runs that were asked the same items and scored alike. Values of others have another meaning and are never put beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Number of items in the bank.
    pub n_items: usize,
    /// Version of the probes.
    pub probe_version: u32,
    /// Positions of the runs, ascending.
    pub runs: Vec<usize>,
}

/// What changed in one behaviour between two runs of a series, without another measured one between them.
///
/// A change is one of two models. Runs of one recipe with different seeds differ too, so it does not yet tell of their recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Position of the earlier run.
    pub before: usize,
    /// Position of the later run.
    pub after: usize,
    /// Value of the later run minus that of the earlier, with Newcombe's interval: unpaired, as an index has no answers to pair.
    pub difference: Estimate,
    /// Two-sided p-value that belongs to the interval, unadjusted.
    pub p_value: f64,
    /// The same after Holm over all changes of the index.
    pub p_holm: f64,
}

/// How often a behaviour fails. A shortfall whose phase the evidence does not settle is no failure yet, and counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BehaviourTally {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Runs in which it fails.
    pub n_failing: usize,
    /// Runs in which it falls short, and no phase is settled.
    pub n_unsettled: usize,
    /// Runs in which it was measured.
    pub n_measured: usize,
}

/// How often a phase is blamed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PhaseTally {
    /// The phase.
    pub phase: String,
    /// Runs whose deployed lineage has it.
    pub n_runs: usize,
    /// Runs in which it is blamed for a failure or more.
    pub n_blamed_runs: usize,
    /// Failures that it is blamed for.
    pub n_failures: usize,
    /// Those of them that were confirmed by training it again.
    pub n_confirmed: usize,
    /// Faults of it that a later phase hides.
    pub n_hidden: usize,
    /// The failures by behaviour.
    pub behaviours: BTreeMap<Behaviour, usize>,
}

impl Index {
    /// Puts runs side by side, in the order given.
    pub fn over(runs: Vec<IndexRun>) -> Self {
        let series = series(&runs);
        let changes = changes(&runs, &series);
        let mut index = Self { version: INDEX_VERSION, sentences: Vec::new(), runs, series, changes };
        index.sentences = vec![index.what_fails(), index.which_phase(), index.last_run()];
        index
    }

    /// Number of runs in which a behaviour fails.
    pub fn n_failing(&self) -> usize {
        self.runs.iter().filter(|run| run.n_failing() > 0).count()
    }

    /// Number of runs that fall short in a behaviour, with no phase settled, and fail in none.
    pub fn n_short(&self) -> usize {
        self.runs.iter().filter(|run| run.n_failing() == 0 && run.n_unsettled() > 0).count()
    }

    /// Number of failures, of all behaviours in all runs.
    pub fn n_failures(&self) -> usize {
        self.runs.iter().map(IndexRun::n_failing).sum()
    }

    /// Number of shortfalls whose phase is not settled, of all behaviours in all runs.
    pub fn n_unsettled(&self) -> usize {
        self.runs.iter().map(IndexRun::n_unsettled).sum()
    }

    /// How often each behaviour fails, in the order of reports.
    pub fn behaviours(&self) -> Vec<BehaviourTally> {
        let tally = |&behaviour: &Behaviour| {
            let of = |is: fn(&LastValue) -> bool| {
                self.runs.iter().filter_map(|run| run.of_behaviour(behaviour)).filter(|value| is(value)).count()
            };
            BehaviourTally {
                behaviour,
                n_failing: of(LastValue::fails),
                n_unsettled: of(LastValue::is_unsettled),
                n_measured: of(LastValue::is_measured),
            }
        };
        Behaviour::ALL.iter().map(tally).collect()
    }

    /// How often each phase is blamed: the most blamed first, others in the order of training.
    pub fn phases(&self) -> Vec<PhaseTally> {
        let mut tallies: Vec<PhaseTally> = Vec::new();
        for phase in self.runs.iter().flat_map(|run| &run.phases) {
            tally_of(&mut tallies, phase).n_runs += 1;
        }
        for run in &self.runs {
            let mut blamed = BTreeSet::new();
            for value in &run.behaviours {
                match &value.outcome {
                    Outcome::Attributed { phase, .. } => {
                        let tally = tally_of(&mut tallies, phase);
                        tally.n_failures += 1;
                        tally.n_confirmed += usize::from(value.rung == Some(Rung::Confirmed));
                        *tally.behaviours.entry(value.behaviour).or_default() += 1;
                        blamed.insert(phase);
                    }
                    Outcome::Latent { phase, .. } => tally_of(&mut tallies, phase).n_hidden += 1,
                    Outcome::Healthy | Outcome::Undetermined { .. } | Outcome::NotMeasured { .. } => {}
                }
            }
            for phase in blamed {
                tally_of(&mut tallies, phase).n_blamed_runs += 1;
            }
        }
        // The sort is stable: of equals the one that is trained first.
        tallies.sort_by_key(|tally| Reverse(tally.n_failures));
        tallies
    }

    fn what_fails(&self) -> String {
        let runs = count(self.runs.len(), "run");
        let (n_failing, n_short) = (self.n_failing(), self.n_short());
        let n_empty = self.runs.iter().filter(|run| run.n_measured() == 0).count();
        let n_hiding = self.runs.iter().filter(|run| run.n_hidden() > 0).count();
        if n_empty == self.runs.len() {
            return format!("Nothing was measured in {runs}.");
        }
        let mut sentence = if n_failing > 0 {
            let verb = if n_failing == 1 { "fails" } else { "fail" };
            format!("{n_failing} of {runs} {verb}; most often at {}.", list(&self.most_frequent()))
        } else {
            format!("No failure was found in {runs}.")
        };
        for (n, what) in [
            (n_short, "fell short, and no phase can be blamed yet"),
            (n_hiding, "hid a fault"),
            (n_empty, "could not be measured"),
        ] {
            if n > 0 {
                sentence.push_str(&format!(" {} {what}.", count(n, "run")));
            }
        }
        sentence
    }

    /// The behaviours that fail most often, each with its counts.
    fn most_frequent(&self) -> Vec<String> {
        let tallies = self.behaviours();
        let most = tallies.iter().map(|tally| tally.n_failing).max().unwrap_or(0);
        let of_most = tallies.iter().filter(|tally| tally.n_failing == most);
        of_most
            .map(|tally| format!("{} ({most} of {})", skill(tally.behaviour), count(tally.n_measured, "run")))
            .collect()
    }

    fn which_phase(&self) -> String {
        let failures = count(self.n_failures(), "failure");
        let tallies = self.phases();
        let most = tallies.iter().map(|tally| tally.n_failures).max().unwrap_or(0);
        let blamed: Vec<&PhaseTally> = tallies.iter().filter(|tally| tally.n_failures == most).collect();
        let names: Vec<String> = blamed.iter().map(|tally| phase_name(&tally.phase)).collect();
        let mut sentence = match blamed[..] {
            _ if most == 0 => "No phase is blamed.".to_owned(),
            [one] => format!(
                "{} is blamed most often: for {most} of {failures}, in {}.",
                capital(&names.concat()),
                count(one.n_blamed_runs, "run")
            ),
            _ => format!("{} are blamed most often: each for {most} of {failures}.", capital(&list(&names))),
        };
        if self.n_unsettled() > 0 {
            sentence.push_str(&format!(" No phase is settled for {}.", count(self.n_unsettled(), "shortfall")));
        }
        sentence
    }

    fn last_run(&self) -> String {
        let Some(run) = self.runs.last() else { return "There is no last run.".to_owned() };
        let said = run.sentence.as_deref().unwrap_or("its diagnosis says nothing.");
        format!("The last run, `{}`: {said}", run.path)
    }
}

impl IndexRun {
    /// What an index keeps of a run's diagnosis; `path` is its folder as shown to people.
    pub fn of(path: String, diagnosis: &Diagnosis) -> Self {
        let deployed = diagnosis.lineages.first();
        let phases: Vec<String> =
            deployed.into_iter().flat_map(|lineage| &lineage.phases).map(|phase| phase.name.clone()).collect();
        let histories = deployed.into_iter().flat_map(|lineage| &lineage.behaviours);
        let provenance = &diagnosis.provenance;
        Self {
            name: diagnosis.run.clone(),
            path,
            report: None,
            seed: provenance.seed,
            bank_hash: provenance.bank_hash.clone(),
            n_items: provenance.n_items,
            probe_version: provenance.probe_version,
            phasetrace_version: provenance.phasetrace_version.clone(),
            reference: provenance.reference.clone(),
            lineage: deployed.map(|lineage| lineage.name.clone()),
            behaviours: histories.map(|history| LastValue::of(history, &phases)).collect(),
            phases,
            sentence: diagnosis.sentences.first().cloned(),
        }
    }

    /// What the run shows of a behaviour; `None` where its diagnosis does not mention it.
    pub fn of_behaviour(&self, behaviour: Behaviour) -> Option<&LastValue> {
        self.behaviours.iter().find(|value| value.behaviour == behaviour)
    }

    /// Number of behaviours that fail.
    pub fn n_failing(&self) -> usize {
        self.behaviours.iter().filter(|value| value.fails()).count()
    }

    /// Number of behaviours that fall short, and no phase is settled.
    pub fn n_unsettled(&self) -> usize {
        self.behaviours.iter().filter(|value| value.is_unsettled()).count()
    }

    /// Number of behaviours with a verdict.
    pub fn n_measured(&self) -> usize {
        self.behaviours.iter().filter(|value| value.is_measured()).count()
    }

    /// Number of behaviours that pass and hide a fault.
    pub fn n_hidden(&self) -> usize {
        self.behaviours.iter().filter(|value| matches!(value.outcome, Outcome::Latent { .. })).count()
    }
}

impl LastValue {
    fn of(history: &BehaviourHistory, phases: &[String]) -> Self {
        let verdict = &history.verdict;
        let value = history.values.last().cloned().flatten();
        let reason = || match &verdict.outcome {
            Outcome::NotMeasured { reason } => reason.clone(),
            _ => history.not_measured.clone().unwrap_or_else(|| "the diagnosis does not say why".to_owned()),
        };
        Self {
            behaviour: history.behaviour,
            not_measured: value.is_none().then(reason),
            value,
            reference: history.reference.last().copied().flatten(),
            outcome: verdict.outcome.clone(),
            confidence: verdict.confidence,
            rung: verdict.rung,
            probability: match &verdict.outcome {
                Outcome::Attributed { phase, .. } => verdict.probability(Stage::of(phase, phases)),
                _ => None,
            },
            shortfall: verdict.shortfall,
        }
    }

    /// Whether it fails, and a phase is to blame.
    pub fn fails(&self) -> bool {
        matches!(self.outcome, Outcome::Attributed { .. })
    }

    /// Whether it falls short, and no phase is settled.
    pub fn is_unsettled(&self) -> bool {
        matches!(self.outcome, Outcome::Undetermined { .. })
    }

    /// Whether there is a verdict on it.
    pub fn is_measured(&self) -> bool {
        !matches!(self.outcome, Outcome::NotMeasured { .. })
    }
}

impl Change {
    /// Whether chance in the items, over all changes that are looked at, does not explain it.
    pub fn is_resolved(&self) -> bool {
        self.p_holm < LEVEL
    }
}

/// Where a path stands among others when people count: `run-2` before `run-10`, and what lies in a folder beside its like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NaturalOrder(Vec<Vec<Piece>>, String);

/// Digits or what stands between them; a number is ordered by how many digits it has, then by these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Number(usize, String),
    Text(String),
}

impl NaturalOrder {
    /// The place of a path whose parts are separated by `/`.
    pub fn of(path: &str) -> Self {
        Self(path.split('/').map(pieces).collect(), path.to_owned())
    }
}

fn pieces(name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        let digits = piece.trim_start_matches('0');
        pieces.push(if is_number {
            Piece::Number(digits.len(), digits.to_owned())
        } else {
            Piece::Text(piece.to_owned())
        });
        rest = after;
    }
    pieces
}

fn tally_of<'a>(tallies: &'a mut Vec<PhaseTally>, phase: &str) -> &'a mut PhaseTally {
    let known = tallies.iter().position(|tally| tally.phase == phase);
    let at = known.unwrap_or(tallies.len());
    if known.is_none() {
        tallies.push(PhaseTally { phase: phase.to_owned(), ..PhaseTally::default() });
    }
    &mut tallies[at]
}

fn series(runs: &[IndexRun]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for (position, run) in runs.iter().enumerate() {
        let IndexRun { bank_hash, probe_version, n_items, .. } = run;
        match series.iter_mut().find(|of| of.bank_hash == *bank_hash && of.probe_version == *probe_version) {
            Some(of) => of.runs.push(position),
            None => series.push(Series {
                bank_hash: bank_hash.clone(),
                n_items: *n_items,
                probe_version: *probe_version,
                runs: vec![position],
            }),
        }
    }
    series.sort_by_key(|of| Reverse(of.runs.last().copied()));
    series
}

fn changes(runs: &[IndexRun], series: &[Series]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for of in series {
        for behaviour in Behaviour::ALL {
            let value = |&run: &usize| Some((run, runs[run].of_behaviour(behaviour)?.value.as_ref()?));
            let measured: Vec<(usize, &Estimate)> = of.runs.iter().filter_map(value).collect();
            changes.extend(measured.windows(2).filter_map(|pair| change(behaviour, pair[0], pair[1])));
        }
    }
    let adjusted = holm(&changes.iter().map(|change| change.p_value).collect::<Vec<_>>());
    for (change, p) in changes.iter_mut().zip(adjusted) {
        change.p_holm = p;
    }
    changes
}

/// The change between two values; `None` where an interval does not tell how much is behind it.
fn change(behaviour: Behaviour, before: (usize, &Estimate), after: (usize, &Estimate)) -> Option<Change> {
    let share = |of: &Estimate| Share::of_interval(of.value, (of.low, of.high));
    let (from, to) = (share(before.1)?, share(after.1)?);
    let (low, high) = difference_at(from, to, Z_95);
    let p = p_value(from, to);
    Some(Change {
        behaviour,
        before: before.0,
        after: after.0,
        difference: Estimate {
            value: to.p - from.p,
            low,
            high,
            n: before.1.n.min(after.1.n),
            method: "Newcombe, unpaired".to_owned(),
        },
        p_value: p,
        p_holm: p,
    })
}
