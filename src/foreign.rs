//! `phasetrace diagnose --phase NAME=DIR ...`: checkpoints that were trained elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::diagnose::{Findings, Lineage, diagnose};
use probes::bank::Bank;

use crate::cli::DiagnoseArgs;
use crate::diagnose::{provenance, publish};
use crate::exit::{self, Usage};
use crate::probe::{Answered, Questions, ask_all};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::reference;
use crate::report;
use crate::run::{Run, chains};

pub(crate) fn run(args: &DiagnoseArgs, bars: &Bars) -> Result<u8> {
    let checkpoints = parse_phases(&args.phases)?;
    let reference = reference::choose(args.reference.as_deref(), false)?;
    let output = args.output.first().context("-o FILE is needed with --phase")?;
    // Beside the report, so that a second diagnosis asks nothing again.
    let folder = output.with_extension("answers");
    let own_bank = args.bank.as_deref().map(Bank::load).transpose()?;
    let run = Run::at(&folder);
    run.lock()?;
    let (bank, declared_cutoff) = if let Some(bank) = own_bank {
        (bank, args.declared_cutoff)
    } else {
        let small = Recipe::small()?;
        let declared = args.declared_cutoff.unwrap_or(small.world.cutoff_month);
        (Bank::load(&write_small_world(&folder, &small)?)?, Some(declared))
    };
    let questions = Questions { bank_hash: &bank.hash, items: &bank.items };
    let Answered { phases, responses } = ask_all(&folder, &questions, &checkpoints, bars)?;
    let lineage = Lineage { name: chain_name(&checkpoints), phases, ..Lineage::default() };
    let diagnosis = diagnose(Findings {
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
        // Nobody has said with which seed they were trained.
        provenance: provenance(None, &bank),
    })?;
    publish(&diagnosis, &report::write(&diagnosis, &run, &args.output)?)?;
    Ok(exit::SUCCESS)
}

/// `NAME=DIR`, each name once, each folder there.
fn parse_phases(phases: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut parsed: Vec<(String, PathBuf)> = Vec::new();
    for phase in phases {
        let Some((name, path)) = phase.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty())
        else {
            bail!(Usage(format!("--phase {phase}: expected NAME=DIR, e.g. sft=checkpoints/sft")));
        };
        if parsed.iter().any(|(other, _)| other == name) {
            bail!(Usage(format!("--phase {phase}: `{name}` is given twice")));
        }
        if !Path::new(path).is_dir() {
            bail!("--phase {phase}: {path} is no folder");
        }
        parsed.push((name.to_owned(), PathBuf::from(path)));
    }
    Ok(parsed)
}

/// The name under which a reference knows such a chain: by its last phase.
fn chain_name(checkpoints: &[(String, PathBuf)]) -> String {
    let last = checkpoints.last().map_or("", |(name, _)| name);
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
    fn phases_are_a_name_and_a_folder_each() {
        let dir = tempfile::tempdir().unwrap();
        let given = |name: &str| format!("{name}={}", dir.path().display());
        let parsed = parse_phases(&[given("pretrain"), given("rlhf")]).unwrap();
        assert_eq!(chain_name(&parsed), "rlhf");
        let error = |phases: &[String]| parse_phases(phases).unwrap_err().to_string();
        assert!(error(&[given("sft"), given("sft")]).ends_with("`sft` is given twice"));
        assert!(error(&["sft".to_owned()]).contains("expected NAME=DIR"));
        assert!(error(&["sft=/nowhere/at/all".to_owned()]).ends_with("/nowhere/at/all is no folder"));
    }
}
