//! `phasetrace diagnose`: trains and probes what is missing, attributes each failure, writes the report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use evals::diagnose::{Findings, Lineage, diagnose};
use evals::diagnosis::{DEPLOYED, Diagnosis, PhaseInfo, Provenance};
use evals::fixes::FixMatrix;
use evals::reference::Reference;
use evals::store::Store;
use evals::verdict::features::Tier;
use evals::verdict::model::TierModel;
use lm::Subject;
use probes::PROBE_VERSION;
use probes::bank::Bank;
use probes::item::Behaviour;
use probes::response::Response;

use crate::also::Also;
use crate::bench;
use crate::bisect::bisect;
use crate::cli::{AlsoWhat, DiagnoseArgs, Stop};
use crate::confirm::Experiment;
use crate::evidence;
use crate::exit::{self, Usage};
use crate::foreign;
use crate::output;
use crate::probe::{Questions, ask_all, checkpoints_of};
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::reference;
use crate::report;
use crate::run::{ASKED, Chain, Run, chains};
use crate::subject::load;
use crate::trace;
use crate::train::{Extent, plan_file, train};
use crate::tried::try_remedies;
use crate::verdict;

pub(crate) fn run(args: &DiagnoseArgs, bars: &Bars) -> Result<u8> {
    report::check_outputs(&args.output)?;
    if !args.phases.is_empty() {
        return foreign::run(args, bars);
    }
    if !args.questions.is_empty() {
        bail!(Usage("--bank, --benchmark and --judge need --phase: a run is asked its own bank".to_owned()));
    }
    let run = Run::at(&args.run);
    let (text, recipe) = Recipe::of_run(&run, &args.recipe, args.seed)?;
    if args.dry_run {
        output::print_line(&recipe.to_plan()?)?;
        return Ok(exit::SUCCESS);
    }
    let reference = reference::choose(args.reference.as_deref(), recipe.is_small()?)?;
    // What an experiment lacks is said before anything is trained.
    let experiment = (args.confirm || args.factorial)
        .then(|| Experiment::new(&run, &recipe, reference.as_ref(), bars))
        .transpose()?;
    train(&run, &text, &recipe, Extent::until(Stop::RlCai), bars)?;
    let (model, fixes) = (verdict::shipped(Tier::T4)?, bench::fixes::shipped()?);
    let wanted = Wanted {
        name: run.name(),
        chains: &chains(&recipe.alignment),
        answers: run.root(),
        reference: reference.as_ref(),
        model: model.as_ref(),
        fixes: Some(&fixes),
        traces: true,
        remedies: true,
        bank: None,
        also: &args.also,
    };
    let mut diagnosis = keep(&run, &diagnose_run(&run, &recipe, &wanted, bars)?)?;
    if let Some(experiment) = experiment {
        if args.confirm {
            experiment.confirm(&mut diagnosis)?;
            diagnosis = keep(&run, &diagnosis)?;
        }
        if args.factorial {
            let path = run.root().join("factorial.json");
            reports::write(&path, &(serde_json::to_string_pretty(&experiment.factorial()?)? + "\n"))?;
            output::print_line(&path.display().to_string())?;
        }
    }
    publish(&diagnosis, &report::write(&diagnosis, &run, &args.output)?)?;
    Ok(exit::SUCCESS)
}

/// What is wanted of a run's diagnosis, beside the run.
pub(crate) struct Wanted<'a> {
    /// Name of the run, as printed.
    pub(crate) name: String,
    /// The chains that are followed.
    pub(crate) chains: &'a [Chain],
    /// Folder that keeps the answers.
    pub(crate) answers: &'a Path,
    /// Healthy runs to compare with.
    pub(crate) reference: Option<&'a Reference>,
    /// What weighs the evidence.
    pub(crate) model: Option<&'a TierModel>,
    /// What fixes did to planted faults.
    pub(crate) fixes: Option<&'a FixMatrix>,
    /// Whether the data of accused phases are searched for what taught the failures.
    pub(crate) traces: bool,
    /// Whether remedies without training are tried on what fails.
    pub(crate) remedies: bool,
    /// What is asked; the run's own bank where none is given.
    pub(crate) bank: Option<&'a Bank>,
    /// What is asked beside it.
    pub(crate) also: &'a [AlsoWhat],
}

/// Asks what was not asked yet and diagnoses a trained run. Who wants the diagnosis to stay in its folder calls [`keep`].
///
/// The views of a lineage are asked about the behaviours that fail; about all where there is nothing to compare with, so that the run can
/// become part of a reference.
pub(crate) fn diagnose_run(run: &Run, recipe: &Recipe, wanted: &Wanted<'_>, bars: &Bars) -> Result<Diagnosis> {
    let bank = wanted.bank.map_or_else(|| Ok(Bank::load(&run.bank())?), |bank| anyhow::Ok(bank.clone()))?;
    run.lock()?;
    let is_wanted = |phase: &&str| wanted.chains.iter().any(|(_, phases)| phases.contains(phase));
    let asked: Vec<&str> = ASKED.into_iter().filter(is_wanted).collect();
    let also = Also::of(wanted.also, &bank.items);
    let questions = Questions { also, ..Questions::of_bank(&bank.hash, &bank.items) };
    let mut phases = ask_all(wanted.answers, &questions, &checkpoints_of(run, &asked), bars)?.phases;
    for phase in &mut phases {
        phase.cost = run.cost(&phase.name)?;
    }
    let mut store = Store::open(wanted.answers, questions.key())?;
    let mut lineages = Vec::new();
    for &chain in wanted.chains {
        let mut lineage = evidence::lineage(chain, &phases);
        lineage.phases.extend(evidence::ask_deployed(&mut store, run, chain, &recipe.deployment, &questions, bars)?);
        lineage.reward_right = evidence::rate(run, recipe, chain.0, &bank)?;
        lineages.push(lineage);
    }
    let intended: Vec<(Behaviour, String)> =
        recipe.intended.iter().map(|change| (change.behaviour, change.slice.clone())).collect();
    let data = evidence::profiles(run)?;
    let notes = notes(recipe)?;
    let judge = |lineages: &[Lineage], responses: &[Response]| {
        diagnose(Findings {
            run: &wanted.name,
            lineages,
            items: &bank.items,
            responses,
            declared_cutoff: Some(recipe.world.cutoff_month),
            data: data.clone(),
            intended: &intended,
            model: wanted.model,
            fixes: wanted.fixes,
            reference: wanted.reference,
            stated: BTreeMap::new(),
            provenance: Provenance { notes: notes.clone(), ..provenance(Some(recipe.seed), &bank) },
        })
    };
    let first = judge(&lineages, &store.responses())?;
    for ((lineage, diagnosed), &chain) in lineages.iter_mut().zip(&first.lineages).zip(wanted.chains) {
        let is_open = |behaviour: Behaviour| {
            wanted.reference.is_none()
                || diagnosed.behaviours.iter().any(|row| row.behaviour == behaviour && row.fails())
        };
        lineage.views = evidence::ask_views(&mut store, run, chain, &bank.items, is_open, bars)?;
    }
    let mut diagnosis = judge(&lineages, &store.responses())?;
    let provenance = diagnosis.provenance.clone();
    for lineage in diagnosis.lineages.iter_mut().filter(|_| wanted.reference.is_some()) {
        bisect(&mut store, run, lineage, &bank, &provenance, bars)?;
    }
    for lineage in diagnosis.lineages.iter_mut().filter(|_| wanted.remedies) {
        let open = |last: &PhaseInfo| {
            // What fails as deployed alone is mended by deploying it otherwise.
            let folder = (last.name != DEPLOYED).then(|| run.checkpoint(&last.name));
            folder.map(|folder| anyhow::Ok(Box::new(load(&folder)?) as Box<dyn Subject>)).transpose()
        };
        try_remedies(lineage, open, None, &bank.items, &mut store, bars)?;
    }
    store.finish()?;
    for (lineage, &chain) in diagnosis.lineages.iter_mut().zip(wanted.chains).filter(|_| wanted.traces) {
        trace::fill_in(run, &wanted.name, chain, lineage, wanted.answers, bars)?;
    }
    Ok(diagnosis)
}

/// Writes a diagnosis into its run, and returns it as it reads back, so that `phasetrace report` gives the same bytes: JSON moves some
/// numbers by their last bit.
pub(crate) fn keep(run: &Run, diagnosis: &Diagnosis) -> Result<Diagnosis> {
    let text = reports::render_json(diagnosis)?;
    reports::write(&run.diagnosis(), &text)?;
    Ok(serde_json::from_str(&text)?)
}

/// What was run; the same run gives the same record.
pub(crate) fn provenance(seed: Option<u64>, bank: &Bank) -> Provenance {
    Provenance {
        seed,
        bank_hash: bank.hash.clone(),
        n_items: bank.items.len(),
        probe_version: PROBE_VERSION,
        phasetrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        reference: None,
        notes: BTreeMap::new(),
    }
}

/// How the run was made and asked, for the report's last lines.
fn notes(recipe: &Recipe) -> Result<BTreeMap<String, String>> {
    let plan = trainer::data::hash(plan_file(recipe)?.as_bytes());
    Ok(BTreeMap::from([
        ("decoding".to_owned(), "greedy; choices by the likelihood of each whole answer".to_owned()),
        ("recipe".to_owned(), format!("plan.json, SHA-256 {plan}")),
    ]))
}

/// Prints where the reports are and the main sentences.
pub(crate) fn publish(diagnosis: &Diagnosis, reports: &[PathBuf]) -> Result<()> {
    for path in reports {
        output::print_line(&path.display().to_string())?;
    }
    for sentence in &diagnosis.sentences {
        output::print_line(sentence)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use evals::diagnosis::{ContributionKind, Outcome};

    use super::*;

    /// The recipe of the program's tests.
    const TINY: &str = include_str!("../tests/binary/tiny.toml");

    #[test]
    fn a_diagnosis_is_written_by_who_keeps_it_and_a_failure_without_an_item_has_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let (run, bars) = (Run::at(&dir.path().join("run")), Bars::new(true));
        let recipe = Recipe::parse(TINY, Path::new("tiny.toml")).unwrap();
        train(&run, TINY, &recipe, Extent::until(Stop::Sft), &bars).unwrap();
        let chain: Chain = ("tuned", &["pretrain", "sft"]);
        let wanted = Wanted {
            name: run.name(),
            chains: &[chain],
            answers: run.root(),
            reference: None,
            model: None,
            fixes: None,
            traces: false,
            remedies: false,
            bank: None,
            also: &[],
        };
        let mut diagnosis = diagnose_run(&run, &recipe, &wanted, &bars).unwrap();
        assert!(!run.diagnosis().exists(), "an experiment would have overwritten what was kept");
        keep(&run, &diagnosis).unwrap();
        assert!(run.diagnosis().exists());

        let lineage = &mut diagnosis.lineages[0];
        lineage.behaviours.truncate(1);
        lineage.behaviours[0].verdict.outcome =
            Outcome::Attributed { phase: "sft".to_owned(), kind: ContributionKind::Omission };
        let own = format!("\"behaviour\":\"{}\"", lineage.behaviours[0].behaviour.name());
        let bank = fs::read_to_string(run.bank()).unwrap();
        let others: Vec<&str> = bank.lines().filter(|line| !line.contains(&own)).collect();
        assert!(others.len() < bank.lines().count());
        fs::write(run.bank(), others.join("\n")).unwrap();
        trace::fill_in(&run, "run", chain, lineage, run.root(), &bars).unwrap();
        assert!(lineage.behaviours[0].verdict.trace.is_none());
    }
}
