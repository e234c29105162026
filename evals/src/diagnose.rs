//! From answers to a diagnosis.

mod sentences;

use std::collections::BTreeMap;

use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};

use crate::attribution::{Case, Examined};
use crate::board::{Answers, Board, counts, is_forecast};
use crate::diagnosis::{
    BehaviourHistory, DIAGNOSIS_VERSION, Diagnosis, LineageDiagnosis, Outcome, PhaseInfo, Provenance, Stage,
    Transition, Verdict,
};
use crate::error::{Error, Result};
use crate::evidence::data::Profile;
use crate::evidence::together;
use crate::fixes::FixMatrix;
use crate::gate::Gate;
use crate::history::{Moves, margin_change};
use crate::path::Path;
use crate::reference::{REWARD, Reference, Route};
use crate::self_knowledge::{is_asked_for_confidence, self_knowledge};
use crate::stats::mcnemar::mid_p;
use crate::stats::multiplicity::holm;
use crate::tables::{asked_confidence_curves, calibration_curves, cutoff_curves, failures, open_book, trade_off};
use crate::verdict::model::TierModel;
use crate::verdict::weigh::weigh;
use crate::wording::list;

pub use sentences::sentences;

/// The behaviours, in the order of the table.
pub const BEHAVIOURS: [Behaviour; 7] = [
    Behaviour::Knowledge,
    Behaviour::Calibration,
    Behaviour::KnowledgeCutoff,
    Behaviour::InstructionFollowing,
    Behaviour::SystemPrompt,
    Behaviour::OverRefusal,
    Behaviour::HarmfulCompliance,
];

/// One chain of checkpoints to be diagnosed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lineage {
    /// Name: `rlhf`, `constitutional`.
    pub name: String,
    /// Its checkpoints in order; the last as deployed after it, named [`DEPLOYED`](crate::diagnosis::DEPLOYED), where it is deployed otherwise.
    pub phases: Vec<PhaseInfo>,
    /// Models between and beyond them, by the names of [`View`].
    pub views: Vec<PhaseInfo>,
    /// Share of items in which its reward model rates the right answer higher, per behaviour.
    pub reward_right: BTreeMap<Behaviour, f64>,
}

/// What a diagnosis is made from.
#[derive(Debug, Clone)]
pub struct Findings<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// The chains, the deployed one first.
    pub lineages: &'a [Lineage],
    /// The item bank.
    pub items: &'a [Item],
    /// Answers of all checkpoints; those to items that the bank does not hold are not looked at.
    pub responses: &'a [Response],
    /// First month after the declared cutoff.
    pub declared_cutoff: Option<u32>,
    /// What each stage was trained on; empty where the data are not at hand.
    pub data: BTreeMap<Stage, Profile>,
    /// Behaviour and slice of items whose change is a policy: they count for nothing.
    pub intended: &'a [(Behaviour, String)],
    /// What weighs the evidence, for what is at hand.
    pub model: Option<&'a TierModel>,
    /// What fixes did to planted faults.
    pub fixes: Option<&'a FixMatrix>,
    /// Healthy runs to compare with.
    pub reference: Option<&'a Reference>,
    /// Share that the user expects of a behaviour where no healthy runs are there to compare with.
    pub stated: BTreeMap<Behaviour, f64>,
    /// What was run; its `reference` is filled in here.
    pub provenance: Provenance,
}

/// Diagnoses every behaviour of every lineage. A pure function: the same findings give the same bytes.
///
/// # Errors
/// [`Error::Nothing`] without lineages, phases, items or answers; [`Error::ReferenceProbes`] where the reference was measured
/// with other probes; [`Error::BadForecasts`] where a stored confidence is no number from 0 to 1.
pub fn diagnose(findings: Findings) -> Result<Diagnosis> {
    let nothing = |what: &str| Err(Error::Nothing { what: what.to_owned() });
    if findings.lineages.iter().all(|lineage| lineage.phases.is_empty()) {
        return nothing("no checkpoint is given");
    }
    if findings.items.is_empty() {
        return nothing("the item bank is empty");
    }
    if let Some(reference) = findings.reference
        && reference.probe_version != findings.provenance.probe_version
    {
        let (found, expected) = (reference.probe_version, findings.provenance.probe_version);
        return Err(Error::ReferenceProbes { found, expected });
    }
    let answers = Answers::index(findings.responses);
    let lineages: Vec<LineageDiagnosis> = findings
        .lineages
        .iter()
        .filter(|lineage| !lineage.phases.is_empty())
        .map(|lineage| diagnose_lineage(&findings, lineage, &answers))
        .collect::<Result<_>>()?;
    if lineages.iter().all(|l| l.behaviours.iter().all(|b| b.elicited.iter().all(Option::is_none))) {
        return nothing("no checkpoint has answered an item of this bank");
    }
    let mut provenance = findings.provenance;
    provenance.reference = findings.reference.map(Reference::info);
    let sentences = sentences(&lineages);
    let data = findings.data;
    Ok(Diagnosis { version: DIAGNOSIS_VERSION, run: findings.run.to_owned(), sentences, lineages, data, provenance })
}

fn diagnose_lineage(findings: &Findings, lineage: &Lineage, answers: &Answers) -> Result<LineageDiagnosis> {
    let phases = &lineage.phases;
    let names: Vec<String> = phases.iter().map(|phase| phase.name.clone()).collect();
    let board = |keep: &dyn Fn(&Item) -> bool| {
        Board::new(findings.items.iter().filter(|item| keep(item)).collect(), phases, answers)
    };
    let dated = board(&|item| item.behaviour == Behaviour::KnowledgeCutoff && item.month.is_some());
    let cutoffs = cutoff_curves(&dated, phases, findings.declared_cutoff, &lineage.name);
    let is_intended = |item: &Item| {
        findings.intended.iter().any(|(behaviour, slice)| item.behaviour == *behaviour && item.slice == *slice)
    };
    let counted =
        |behaviour: Behaviour| move |item: &Item| item.behaviour == behaviour && counts(item) && !is_intended(item);
    let boards: Vec<Board> = BEHAVIOURS.iter().map(|&behaviour| board(&counted(behaviour))).collect();
    let views: Vec<Board> = BEHAVIOURS
        .iter()
        .map(|&behaviour| {
            let is_counted = counted(behaviour);
            let items = findings.items.iter().filter(|item| is_counted(item)).collect();
            Board::new(items, &lineage.views, answers)
        })
        .collect();
    let anomalies: BTreeMap<Stage, f64> = findings
        .reference
        .iter()
        .flat_map(|reference| &reference.data)
        .filter_map(|healthy| Some((healthy.stage, healthy.anomaly(findings.data.get(&healthy.stage)?))))
        .collect();
    let known = |behaviour: Behaviour, route: Route, phase: &str| {
        findings.reference.and_then(|reference| reference.values(&lineage.name, behaviour, route, phase))
    };
    let yardstick = Yardstick { stated: &findings.stated, reference: findings.reference, lineage: &lineage.name };
    let cases: Vec<Case> = BEHAVIOURS
        .iter()
        .zip(boards.iter().zip(&views))
        .map(|(&behaviour, (board, views))| Case {
            behaviour,
            names: &names,
            chat: yardstick.beside(Path::chat(behaviour, board), Route::Chat, phases),
            elicited: yardstick.beside(Path::elicited(behaviour, board), Route::Elicited, phases),
            open_book: open_book(board, phases.len() - 1).map(|estimate| estimate.value),
            cutoffs: &cutoffs,
            margins: mean_margins(board),
            healthy_margins: phases.iter().map(|phase| known(behaviour, Route::Margin, &phase.name)).collect(),
            chat_views: yardstick.beside(Path::chat(behaviour, views), Route::Chat, &lineage.views),
            elicited_views: yardstick.beside(Path::elicited(behaviour, views), Route::Elicited, &lineage.views),
            view_names: lineage.views.iter().map(|view| view.name.as_str()).collect(),
            reward_right: lineage.reward_right.get(&behaviour).copied(),
            healthy_reward_right: known(behaviour, Route::Reward, REWARD),
            model: findings.model,
            data_anomalies: anomalies.clone(),
            stream: format!("{}/{behaviour:?}/contributions", lineage.name),
        })
        .collect();
    let paths: Vec<(Route, &Path)> =
        cases.iter().flat_map(|case| [(Route::Chat, &case.chat), (Route::Elicited, &case.elicited)]).collect();
    let gate = Gate::of(&paths);
    let mut behaviours = judge_all(&cases, gate.as_ref());
    adjust_transitions(&mut behaviours);
    if let Some(model) = findings.model {
        // The model learnt from evidence beside healthy runs: without them it knows nothing.
        for row in behaviours.iter_mut().filter(|row| row.reference.last().is_some_and(Option::is_some)) {
            weigh(&mut row.verdict, &names, model);
        }
    }
    for row in &mut behaviours {
        if let (Outcome::Attributed { phase, .. }, Some(fixes)) = (&row.verdict.outcome, findings.fixes) {
            row.verdict.fixes = fixes.for_failure(row.behaviour, Stage::of(phase, &names));
        }
    }
    let mut failing = Vec::new();
    let mut n_failures = BTreeMap::new();
    for (row, board) in behaviours.iter().zip(&boards) {
        let accused = match &row.verdict.outcome {
            Outcome::Attributed { phase, .. } => Some(phase.as_str()),
            _ => None,
        };
        let (cases, total) = failures(row.behaviour, board, phases, accused);
        failing.extend(cases);
        n_failures.insert(row.behaviour, total);
    }
    let choices = board(&is_forecast);
    let asked_for = board(&is_asked_for_confidence);
    let mut calibration = calibration_curves(&choices, phases, &lineage.name)?;
    calibration.extend(asked_confidence_curves(&asked_for, phases, &lineage.name)?);
    let benign = board(&|item| item.behaviour == Behaviour::OverRefusal && counts(item));
    let harmful = board(&|item| item.behaviour == Behaviour::HarmfulCompliance && counts(item));
    Ok(LineageDiagnosis {
        name: lineage.name.clone(),
        phases: phases.clone(),
        gate: gate.map(|gate| gate.record(&names)),
        behaviours,
        trade_off: trade_off(&benign, &harmful, phases),
        self_knowledge: self_knowledge(phases, findings.items, answers, (&cutoffs, &calibration)),
        calibration,
        cutoffs,
        failures: failing,
        n_failures,
    })
}

/// What a lineage is compared with: healthy runs where there are some, else what the user expects.
struct Yardstick<'a> {
    stated: &'a BTreeMap<Behaviour, f64>,
    reference: Option<&'a Reference>,
    lineage: &'a str,
}

impl<'a> Yardstick<'a> {
    fn beside(&self, path: Path<'a>, route: Route, phases: &[PhaseInfo]) -> Path<'a> {
        let stated = self.stated.get(&path.behaviour).copied();
        path.expecting(stated).beside(self.reference, self.lineage, route, phases)
    }
}

/// Mean contrast margin in chat after each phase, nats.
fn mean_margins(board: &Board) -> Vec<Option<f64>> {
    let mean = |phase: usize| {
        let margins: Vec<f64> = board.margins(Form::Chat, phase).into_iter().flatten().collect();
        (!margins.is_empty()).then(|| margins.iter().sum::<f64>() / margins.len() as f64)
    };
    (0..board.n_phases()).map(mean).collect()
}

/// Verdicts on all behaviours; their tests are corrected together.
fn judge_all(cases: &[Case], gate: Option<&Gate>) -> Vec<BehaviourHistory> {
    let p_values: Vec<Vec<f64>> =
        cases.iter().map(|case| case.shortfalls().iter().map(|shortfall| shortfall.p_value).collect()).collect();
    let mut p_holm = holm(&p_values.concat()).into_iter();
    let p_holm: Vec<Vec<f64>> = p_values.iter().map(|values| p_holm.by_ref().take(values.len()).collect()).collect();
    let mut examined: Vec<Option<Examined>> =
        cases.iter().zip(&p_holm).map(|(case, p_holm)| case.examine(p_holm, gate)).collect();
    let failures = examined.iter_mut().flatten();
    together::read(&mut failures.map(|of| (of.shortfall.unwrap_or(0.0), &mut of.evidence)).collect::<Vec<_>>());
    let judged = cases.iter().zip(&p_holm).zip(examined);
    judged.map(|((case, p_holm), examined)| history(case, case.judge(p_holm, gate, examined))).collect()
}

fn history(case: &Case, verdict: Verdict) -> BehaviourHistory {
    let transitions: Vec<Transition> = (1..case.names.len()).map(|phase| transition(case, phase)).collect();
    let last = (1..case.names.len()).last();
    let discordant = last.map_or(0.0, |phase| moves(case, phase).discordant());
    let missing: Vec<String> = case
        .names
        .iter()
        .zip(&case.chat.values)
        .filter(|(_, value)| value.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    BehaviourHistory {
        behaviour: case.behaviour,
        form: Form::Chat,
        values: case.chat.values.clone(),
        elicited: case.elicited.values.clone(),
        reference: case.chat.healthy_means(),
        stated: case.chat.stated.filter(|_| !case.chat.is_referenced()),
        margins: case.margins.clone(),
        views: case.view_values(),
        reward_right: case.reward_right,
        transitions,
        detectable_effect: case.detectable_effect(discordant),
        not_measured: (!missing.is_empty()).then(|| match case.chat.board.items.len() {
            0 => "the bank has no item of this behaviour".to_owned(),
            _ => format!("no item was scored in chat at {}", list(&missing)),
        }),
        tried: Vec::new(),
        verdict,
    }
}

fn moves(case: &Case, phase: usize) -> Moves {
    Moves::count(&case.chat.passing(phase - 1), &case.chat.passing(phase))
}

fn transition(case: &Case, phase: usize) -> Transition {
    let moves = moves(case, phase);
    let board = case.chat.board;
    Transition {
        phase: case.names[phase].clone(),
        broken: moves.broken,
        repaired: moves.repaired,
        kept: moves.kept,
        still_failing: moves.still_failing,
        p_value: mid_p(moves.broken, moves.repaired),
        p_holm: None,
        margin_change_nats: margin_change(&board.margins(Form::Chat, phase - 1), &board.margins(Form::Chat, phase)),
    }
}

/// Holm over all paired tests of the lineage.
fn adjust_transitions(behaviours: &mut [BehaviourHistory]) {
    let p_values: Vec<f64> = behaviours.iter().flat_map(|b| b.transitions.iter().filter_map(|t| t.p_value)).collect();
    let tested = behaviours.iter_mut().flat_map(|b| b.transitions.iter_mut().filter(|t| t.p_value.is_some()));
    for (transition, p) in tested.zip(holm(&p_values)) {
        transition.p_holm = Some(p);
    }
}
