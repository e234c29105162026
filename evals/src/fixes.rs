//! What fixes were measured to do on planted faults: how much of the failure each takes back, and what it costs elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use probes::item::Behaviour;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnosis::{BehaviourHistory, Diagnosis, LineageDiagnosis, Outcome, Stage, View};
use crate::error::{Error, Result};
use crate::reference::{Reference, Route};
use crate::stats::student::quantile;
use crate::verdict::record::{Record, Set};
use crate::wording::{count, percent, points, skill};

/// Format version of a file of fixes.
pub const FIXES_VERSION: u32 = 1;

/// Shortfalls in chat below this are too small to be taken back in shares.
const LEAST_SHORTFALL: f64 = 0.1;

/// Losses below this are not spoken of.
const LEAST_LOSS: f64 = 0.05;

/// A fix that takes back less is not spoken of.
const LEAST_RECOVERED: f64 = 0.2;

/// Something that can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fix {
    /// The guilty stage is trained again with mended data or settings, and what follows it.
    TrainAgain,
    /// The checkpoint before alignment is deployed.
    BeforeAlignment,
    /// Weights half-way between the checkpoints before and after alignment are deployed (WiSE-FT; Wortsman et al. 2022, arXiv
    /// 2109.01903).
    HalfAlignment,
    /// The last checkpoint learns a few right answers to other questions of the kind ([`View::Relearnt`]); it is asked the half that it
    /// did not learn from, and compared with what was shown on all.
    FineTuneBriefly,
    /// The model is asked in the form that gets most out of it: with worked examples, or as text to continue.
    OtherForm,
}

impl Fix {
    /// All fixes, the dearest first.
    pub const ALL: [Self; 5] =
        [Self::TrainAgain, Self::BeforeAlignment, Self::HalfAlignment, Self::FineTuneBriefly, Self::OtherForm];

    /// What is done, as the subject of a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::TrainAgain => "training the phase again with mended data or settings",
            Self::BeforeAlignment => "deploying the checkpoint before alignment",
            Self::HalfAlignment => "half the strength of alignment (weights averaged with those before it)",
            Self::FineTuneBriefly => {
                "fine-tuning the last checkpoint briefly on right answers to other questions of the kind"
            }
            Self::OtherForm => "asking in another form (worked examples, text to continue)",
        }
    }
}

/// What one fix did to one failing behaviour of one organism.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Name of the organism.
    pub organism: String,
    /// What failed.
    pub behaviour: Behaviour,
    /// The guilty stage.
    pub stage: Stage,
    /// Type of its fault.
    pub fault: String,
    /// What was done.
    pub fix: Fix,
    /// Share of the shortfall against healthy runs, in chat, that it took back.
    pub recovered: f64,
    /// What the other behaviours lost, in share of items; empty where nothing else changes.
    pub losses: BTreeMap<Behaviour, f64>,
}

/// What a fix did to failures of a kind, over organisms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredFix {
    /// What failed.
    pub behaviour: Behaviour,
    /// The guilty stage.
    pub stage: Stage,
    /// What was done.
    pub fix: Fix,
    /// Mean share of the shortfall that it took back.
    pub recovered: f64,
    /// Its 95 % interval over fault types (Student's t); `None` of a single type, which says nothing of others.
    pub interval: Option<(f64, f64)>,
    /// The behaviour that lost most, and how much, in share of items; `None` where none was seen to lose.
    pub loss: Option<(Behaviour, f64)>,
    /// Number of fault types.
    pub n_types: usize,
    /// Number of organisms.
    pub n: usize,
}

impl MeasuredFix {
    /// The interval, where it says something: two or three types that differ leave room for more than the whole shortfall.
    pub fn telling_interval(&self) -> Option<(f64, f64)> {
        self.interval.filter(|(low, high)| high - low <= 1.0)
    }
}

/// Fixes by failure and stage, as the project ships them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixMatrix {
    /// Format version, [`FIXES_VERSION`].
    pub version: u32,
    /// The cells, sorted by behaviour, stage and fix.
    pub cells: Vec<MeasuredFix>,
}

/// What the fixes did to an organism with one guilty stage, where its plant took; `twin` is its healthy twin.
pub fn trials(record: &Record, diagnosis: &Diagnosis, twin: &Diagnosis, reference: &Reference) -> Vec<Trial> {
    let is_of_use = record.has_taken() && !matches!(record.set, Set::Masked | Set::Deployment | Set::Harness);
    let [stage] = record.guilty[..] else { return Vec::new() };
    let mut trials = Vec::new();
    for lineage in diagnosis.lineages.iter().filter(|_| is_of_use) {
        let Some(other) = twin.lineages.iter().find(|other| other.name == lineage.name) else { continue };
        for row in lineage.behaviours.iter().filter(|row| row.fails()) {
            for fix in Fix::ALL {
                let tried = Tried { fix, lineage, twin: other, reference };
                let Some(recovered) = tried.recovered(row) else { continue };
                let (organism, fault) = (record.name.clone(), record.fault_type());
                let (behaviour, losses) = (row.behaviour, tried.losses());
                trials.push(Trial { organism, behaviour, stage, fault, fix, recovered, losses });
            }
        }
    }
    trials
}

/// A fix on a lineage.
struct Tried<'a> {
    fix: Fix,
    lineage: &'a LineageDiagnosis,
    twin: &'a LineageDiagnosis,
    reference: &'a Reference,
}

impl Tried<'_> {
    fn recovered(&self, row: &BehaviourHistory) -> Option<f64> {
        let before = deployed(row)?;
        let healthy = self.healthy(row.behaviour, &self.lineage.phases.last()?.name)?;
        let after = match self.fix {
            Fix::TrainAgain => deployed(self.twin.behaviours.iter().find(|of| of.behaviour == row.behaviour)?)?,
            Fix::BeforeAlignment => self.before_alignment(row)?,
            Fix::HalfAlignment => seen(row, View::WeightHalf)?,
            Fix::FineTuneBriefly => seen(row, View::Relearnt)?,
            Fix::OtherForm => row.elicited.last()?.as_ref()?.value,
        };
        (healthy - before >= LEAST_SHORTFALL).then(|| (after - before) / (healthy - before))
    }

    /// What behaviours that are in order lose. Of views that is known from healthy runs: in others they are asked only what fails.
    fn losses(&self) -> BTreeMap<Behaviour, f64> {
        let sound = self.lineage.behaviours.iter().filter(|row| row.verdict.outcome == Outcome::Healthy);
        let loss = |row: &BehaviourHistory| {
            let last = &self.lineage.phases.last()?.name;
            match self.fix {
                Fix::TrainAgain => {
                    let twin = self.twin.behaviours.iter().find(|of| of.behaviour == row.behaviour)?;
                    Some(deployed(row)? - deployed(twin)?)
                }
                Fix::BeforeAlignment => Some(deployed(row)? - self.before_alignment(row)?),
                Fix::HalfAlignment => self.healthy_loss(row.behaviour, last, View::WeightHalf),
                Fix::FineTuneBriefly => self.healthy_loss(row.behaviour, last, View::Relearnt),
                Fix::OtherForm => None,
            }
        };
        sound.filter_map(|row| Some((row.behaviour, loss(row)?))).collect()
    }

    fn healthy_loss(&self, behaviour: Behaviour, last: &str, view: View) -> Option<f64> {
        Some(self.healthy(behaviour, last)? - self.healthy(behaviour, view.name())?)
    }

    fn before_alignment(&self, row: &BehaviourHistory) -> Option<f64> {
        let names: Vec<String> = self.lineage.phases.iter().map(|phase| phase.name.clone()).collect();
        let tuned = names.iter().rposition(|name| Stage::of(name, &names) == Stage::Tuning)?;
        Some(row.values.get(tuned)?.as_ref()?.value)
    }

    fn healthy(&self, behaviour: Behaviour, phase: &str) -> Option<f64> {
        let values = self.reference.values(&self.lineage.name, behaviour, Route::Chat, phase)?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }
}

/// Value of a view in chat.
fn seen(row: &BehaviourHistory, view: View) -> Option<f64> {
    Some(row.views.iter().find(|seen| seen.view == view)?.chat.as_ref()?.value)
}

/// Value of the last checkpoint in chat.
fn deployed(row: &BehaviourHistory) -> Option<f64> {
    Some(row.values.last()?.as_ref()?.value)
}

impl FixMatrix {
    /// Puts trials of the same failure, stage and fix together.
    pub fn of(trials: &[Trial]) -> Self {
        let mut cells = BTreeMap::<(Behaviour, Stage, Fix), Vec<&Trial>>::new();
        for trial in trials {
            cells.entry((trial.behaviour, trial.stage, trial.fix)).or_default().push(trial);
        }
        Self { version: FIXES_VERSION, cells: cells.into_values().map(|of| measured(&of)).collect() }
    }

    /// What was measured of failures of this behaviour that this stage produced, the most effective fix first.
    pub fn for_failure(&self, behaviour: Behaviour, stage: Stage) -> Vec<MeasuredFix> {
        let is_of = |cell: &&MeasuredFix| cell.behaviour == behaviour && cell.stage == stage;
        let mut fixes: Vec<MeasuredFix> = self.cells.iter().filter(is_of).cloned().collect();
        fixes.sort_by(|a, b| b.recovered.total_cmp(&a.recovered));
        fixes
    }

    /// Reads a file of fixes from text; `path` is named in errors.
    ///
    /// # Errors
    /// [`Error::CorruptModel`] with line and column, [`Error::Version`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let corrupt =
            |error: serde_json::Error| Error::CorruptModel { path: path.to_owned(), reason: error.to_string() };
        let matrix: Self = serde_json::from_str(text).map_err(corrupt)?;
        if matrix.version != FIXES_VERSION {
            let (found, expected) = (matrix.version, FIXES_VERSION);
            return Err(Error::Version { path: path.to_owned(), found, expected });
        }
        Ok(matrix)
    }

    /// The matrix as indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with finite numbers") + "\n"
    }
}

fn measured(trials: &[&Trial]) -> MeasuredFix {
    let mut by_type = BTreeMap::<&str, Vec<f64>>::new();
    let mut losses = BTreeMap::<Behaviour, Vec<f64>>::new();
    for trial in trials {
        by_type.entry(&trial.fault).or_default().push(trial.recovered);
        for (behaviour, loss) in &trial.losses {
            losses.entry(*behaviour).or_default().push(*loss);
        }
    }
    let types: Vec<f64> = by_type.values().map(|of| mean(of)).collect();
    let recovered = mean(&types);
    let largest = losses.into_iter().map(|(behaviour, of)| (behaviour, mean(&of))).max_by(|a, b| a.1.total_cmp(&b.1));
    let organisms: BTreeSet<&str> = trials.iter().map(|trial| trial.organism.as_str()).collect();
    let first = trials[0];
    MeasuredFix {
        behaviour: first.behaviour,
        stage: first.stage,
        fix: first.fix,
        recovered,
        interval: student_interval(&types),
        loss: largest.filter(|(_, loss)| *loss > 0.0),
        n_types: types.len(),
        n: organisms.len(),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// 95 % interval of a mean of few values.
fn student_interval(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    let mean = mean(values);
    let sd = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let half = quantile(0.975, n - 1.0) * sd / n.sqrt();
    (values.len() > 1).then_some((mean - half, mean + half))
}

/// What was measured, in a sentence; `None` where no fix took back a fifth of such failures.
pub fn sentence(fixes: &[MeasuredFix]) -> Option<String> {
    let parts: Vec<String> = fixes.iter().filter(|fix| fix.recovered >= LEAST_RECOVERED).map(part).collect();
    (!parts.is_empty())
        .then(|| format!("Measured on planted faults of this kind, of the shortfall: {}.", parts.join("; ")))
}

fn part(fix: &MeasuredFix) -> String {
    let interval = fix.telling_interval().map_or_else(
        || "too few types for an interval: ".to_owned(),
        |(low, high)| format!("95% interval {} to {}; ", percent(low), percent(high)),
    );
    let on = format!(" ({interval}{}, {})", count(fix.n_types, "type"), count(fix.n, "model"));
    let loss = fix.loss.filter(|(_, loss)| *loss >= LEAST_LOSS);
    let loss =
        loss.map_or_else(String::new, |(behaviour, loss)| format!(", but {} lost {}", skill(behaviour), points(loss)));
    format!("{} took back {}{on}{loss}", fix.fix.what(), percent(fix.recovered))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use probes::item::Behaviour;

    use super::{Fix, FixMatrix, Trial, sentence};
    use crate::diagnosis::Stage;

    fn trial(organism: &str, fix: Fix, recovered: f64, loss: f64) -> Trial {
        Trial {
            organism: organism.to_owned(),
            behaviour: Behaviour::OverRefusal,
            stage: Stage::Alignment,
            fault: organism[..1].to_owned(),
            fix,
            recovered,
            losses: BTreeMap::from([(Behaviour::Knowledge, 0.01), (Behaviour::HarmfulCompliance, loss)]),
        }
    }

    fn matrix() -> FixMatrix {
        FixMatrix::of(&[
            trial("a1", Fix::TrainAgain, 1.0, 0.0),
            trial("a2", Fix::TrainAgain, 0.9, 0.0),
            // Two chains of one model.
            trial("b1", Fix::TrainAgain, 0.85, 0.0),
            trial("b1", Fix::TrainAgain, 0.85, 0.0),
            trial("a1", Fix::BeforeAlignment, 0.6, 0.4),
            trial("a1", Fix::OtherForm, 0.1, 0.0),
        ])
    }

    #[test]
    fn fault_types_count_the_same_however_many_models_they_have() {
        let fixes = matrix().for_failure(Behaviour::OverRefusal, Stage::Alignment);
        assert_eq!(
            fixes.iter().map(|fix| fix.fix).collect::<Vec<_>>(),
            [Fix::TrainAgain, Fix::BeforeAlignment, Fix::OtherForm]
        );
        let again = &fixes[0];
        assert!((again.recovered - 0.9).abs() < 1e-12, "{again:?}");
        assert_eq!((again.n_types, again.n), (2, 3));
        // Mean of 0.95 and 0.85: standard error 0.05, t with one degree of freedom 12.706.
        let (low, high) = again.interval.unwrap();
        assert!((low - (0.9 - 12.7062 * 0.05)).abs() < 1e-4 && (high - (0.9 + 12.7062 * 0.05)).abs() < 1e-4);
        assert_eq!(fixes[1].interval, None);
        assert_eq!(fixes[1].loss, Some((Behaviour::HarmfulCompliance, 0.4)));
        assert_eq!(matrix().for_failure(Behaviour::OverRefusal, Stage::Tuning), []);
    }

    #[test]
    fn the_sentence_says_what_a_fix_costs_and_leaves_out_what_does_not_help() {
        let fixes = matrix().for_failure(Behaviour::OverRefusal, Stage::Alignment);
        assert_eq!(
            sentence(&fixes).unwrap(),
            "Measured on planted faults of this kind, of the shortfall: training the phase again with mended data or settings took \
             back 90% (too few types for an interval: 2 types, 3 models); deploying the checkpoint before alignment took back 60% (too \
             few types for an interval: 1 type, 1 model), but refusing harmful requests lost 40 points."
        );
        assert_eq!(sentence(&fixes[2..]), None);
    }

    #[test]
    fn a_matrix_reads_back_as_it_was() {
        let path = Path::new("fixes.json");
        assert_eq!(FixMatrix::parse(&matrix().to_json(), path).unwrap(), matrix());
        let other = matrix().to_json().replacen("\"version\": 1", "\"version\": 9", 1);
        assert!(FixMatrix::parse(&other, path).unwrap_err().to_string().contains("fixes.json"));
    }
}
