//! `phasetrace diagnose --phase NAME=SUBJECT ...`: what was trained, or answered, elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::diagnose::{Findings, Lineage, diagnose};
use evals::diagnosis::PhaseInfo;
use evals::store::Store;
use probes::bank::Bank;

use crate::also::Also;
use crate::cli::{DiagnoseArgs, ServerArgs};
use crate::diagnose::{provenance, publish};
use crate::exit::{self, Usage};
use crate::judged::{Judge, judge_all};
use crate::probe::{Answered, Questions, ask_all};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::reference;
use crate::report;
use crate::run::{Run, chains};
use crate::subject::Place;
use crate::tried::try_remedies;

pub(crate) fn run(args: &DiagnoseArgs, bars: &Bars) -> Result<u8> {
    let subjects = parse_phases(&args.phases, &args.servers)?;
    let reference = reference::choose(args.reference.as_deref(), false)?;
    let output = args.output.first().context("-o FILE is needed with --phase")?;
    // Beside the report, so that a second diagnosis asks nothing again.
    let folder = output.with_extension("answers");
    let own_bank = args.questions.load()?;
    let run = Run::at(&folder);
    run.lock()?;
    let (bank, declared_cutoff) = if let Some(bank) = own_bank {
        // What nobody claims to have taught is no failure.
        let bank = args.declared_cutoff.map_or_else(|| bank.clone(), |month| bank.clone().with_cutoff(month));
        (bank, args.declared_cutoff)
    } else {
        let small = Recipe::small()?;
        let declared = args.declared_cutoff.unwrap_or(small.world.cutoff_month);
        (Bank::load(&write_small_world(&folder, &small)?)?, Some(declared))
    };
    let also = Also::of(&args.also, &bank.items);
    let questions = Questions { also, ..Questions::of_bank(&bank.hash, &bank.items) };
    let judge = Judge::open((&args.questions, &args.servers), &bank.items, &folder)?;
    let mut answered = ask_all(&folder, &questions, &subjects, bars)?;
    if let Some(judge) = &judge {
        judge_all(judge, &folder, &questions, &mut answered, bars)?;
    }
    let Answered { phases, responses } = answered;
    let lineage = Lineage { name: chain_name(&subjects), phases, ..Lineage::default() };
    let mut diagnosis = diagnose(Findings {
        run: &output.file_stem().unwrap_or_default().to_string_lossy(),
        lineages: &[lineage],
        items: &bank.items,
        responses: &responses,
        declared_cutoff,
        data: BTreeMap::new(),
        intended: &[],
        model: None,
        fixes: None,
        reference: reference.as_ref(),
        stated: args.expected.iter().copied().collect(),
        // Nobody has said with which seed they were trained.
        provenance: provenance(None, &bank),
    })?;
    let mut store = Store::open(&folder, questions.key())?;
    for lineage in &mut diagnosis.lineages {
        let open = |last: &PhaseInfo| {
            let place = subjects.iter().find(|(name, _)| *name == last.name);
            place.map(|(_, place)| place.open(&bank.items, &folder)).transpose()
        };
        try_remedies(lineage, open, judge.as_ref(), &bank.items, &mut store, bars)?;
    }
    store.finish()?;
    publish(&diagnosis, &report::write(&diagnosis, &run, &args.output)?)?;
    Ok(exit::SUCCESS)
}

/// `NAME=SUBJECT`, each name once, each subject there.
fn parse_phases(phases: &[String], servers: &ServerArgs) -> Result<Vec<(String, Place)>> {
    let mut parsed: Vec<(String, Place)> = Vec::new();
    for phase in phases {
        let Some((name, place)) = phase.split_once('=').filter(|(name, place)| !name.is_empty() && !place.is_empty())
        else {
            bail!(Usage(format!("--phase {phase}: expected NAME=SUBJECT, e.g. sft=checkpoints/sft")));
        };
        if parsed.iter().any(|(other, _)| other == name) {
            bail!(Usage(format!("--phase {phase}: `{name}` is given twice")));
        }
        let place = Place::parse(place, servers).with_context(|| format!("--phase {phase}"))?;
        parsed.push((name.to_owned(), place));
    }
    Ok(parsed)
}

/// The name under which a reference knows such a chain: by its last phase.
fn chain_name(subjects: &[(String, Place)]) -> String {
    let last = subjects.last().map_or("", |(name, _)| name);
    let known = chains(&Alignment::ALL).into_iter().find(|(_, phases)| phases.last() == Some(&last));
    known.map_or("given", |(name, _)| name).to_owned()
}

/// The embedded small world's data, for its bank.
fn write_small_world(folder: &Path, recipe: &Recipe) -> Result<PathBuf> {
    let data = folder.join("data");
    if !data.exists() {
        fixtures::write_data(&recipe.world, recipe.seed, &data)?;
    }
    Ok(data.join("bank.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_a_name_and_a_subject_each() {
        let dir = tempfile::tempdir().unwrap();
        let given = |name: &str| format!("{name}={}", dir.path().display());
        let servers = ServerArgs { in_flight: 1 };
        let parsed = parse_phases(&[given("pretrain"), given("rlhf")], &servers).unwrap();
        assert_eq!(chain_name(&parsed), "rlhf");
        let error = |phases: &[String]| format!("{:#}", parse_phases(phases, &servers).unwrap_err());
        assert!(error(&[given("sft"), given("sft")]).ends_with("`sft` is given twice"));
        assert!(error(&["sft".to_owned()]).contains("expected NAME=SUBJECT"));
        assert!(error(&["sft=/nowhere/at/all".to_owned()]).ends_with("/nowhere/at/all is no folder"));
    }
}
