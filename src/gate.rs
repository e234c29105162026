//! `phasetrace gate`: whether a candidate may take the place of what is released.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use evals::diagnosis::{LineageDiagnosis, Outcome, Stage};
use evals::reference::Reference;
use evals::release::baseline::Blessed;
use evals::release::decide::{Sides, judge};
use evals::release::policy::{Metric, Policy};
use evals::release::record::{self, Decision, Diagnosed, Judgement};
use probes::item::Behaviour;

use crate::bless;
use crate::cli::{GateArgs, GateCommand, GateSides, Inconclusive, RecipeArgs};
use crate::exit;
use crate::gate_init;
use crate::output;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::reference;
use crate::report::{check_writable, read_diagnosis};
use crate::run::Run;

pub(crate) fn run(args: &GateArgs, bars: &Bars) -> Result<u8> {
    match (&args.command, &args.sides) {
        (Some(GateCommand::Init { run, reference, output }), _) => {
            gate_init::run(&Run::at(run), reference.as_deref(), output, bars)
        }
        (None, Some(sides)) => judge_sides(sides, bars),
        (None, None) => bail!(exit::Usage("gate BASELINE CANDIDATE: both are needed".to_owned())),
    }
}

fn judge_sides(args: &GateSides, bars: &Bars) -> Result<u8> {
    for output in &args.output {
        format_of(output)?;
        check_writable(output.parent().unwrap_or(Path::new("")))?;
    }
    check_address(args.report_url.as_deref())?;
    let policy = read_policy(&args.policy)?;
    let run = Run::at(&args.candidate);
    let bank = bless::bank(&run)?;
    let healthy = healthy_runs(&run, args.reference.as_deref())?;
    let baseline = if args.baseline.is_dir() {
        let released = Run::at(&args.baseline);
        bless::scores(&released, &bless::bank(&released)?, bars)?
    } else {
        Blessed::load(&args.baseline)?
    };
    let candidate = bless::scores(&run, &bank, bars)?;
    let sides = Sides {
        baseline: &baseline,
        candidate: &candidate,
        items: &bank.items,
        lines: &bank.lines,
        reference: healthy.as_ref(),
    };
    let mut judgement = judge(&policy, &sides)?;
    judgement.baseline.path = args.baseline.display().to_string();
    judgement.candidate.path = args.candidate.display().to_string();
    judgement.report.clone_from(&args.report_url);
    add_diagnosis(&mut judgement, &run, &candidate, bars);
    for output in &args.output {
        let text = match format_of(output)? {
            Format::Json => reports::render_gate_json(&judgement)?,
            Format::Markdown => reports::render_gate_markdown(&judgement)?,
            Format::Junit => reports::render_gate_junit(&judgement)?,
            Format::Sarif => reports::render_gate_sarif(&judgement)?,
        };
        reports::write(output, &text)?;
    }
    tell_github(&judgement)?;
    output::print(&reports::render_gate_text(&judgement, args.show_flips)?)?;
    let is_measured = judgement.rulings.iter().any(|ruling| ruling.measured.is_some());
    if !is_measured && policy.required.is_empty() {
        return Ok(exit::NOTHING_EVALUATED);
    }
    Ok(match (judgement.decision, args.inconclusive) {
        (Decision::Pass | Decision::Warn, _) | (Decision::Inconclusive, Some(Inconclusive::Pass)) => exit::SUCCESS,
        (Decision::Block, _) | (Decision::Inconclusive, Some(Inconclusive::Fail)) => exit::BLOCKED,
        (Decision::Inconclusive, None) => exit::INCONCLUSIVE,
    })
}

/// The healthy runs that say how far training seeds differ: those asked for, or the small world's for runs of it.
pub(crate) fn healthy_runs(run: &Run, asked: Option<&str>) -> Result<Option<Reference>> {
    let recipe = Recipe::of_run(run, &RecipeArgs::default(), None)?.1;
    // A folder of checkpoints without a recipe is of no known world.
    reference::choose(asked, run.recipe().exists() && recipe.is_small()?)
}

fn read_policy(path: &Path) -> Result<Policy> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The error of the parser has line, key and what was expected.
    let policy: Policy = toml::from_str(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    policy.check().map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
    Ok(policy)
}

/// Looks whether links can be made of an address: they have a `#` of their own.
fn check_address(url: Option<&str>) -> Result<()> {
    let is_address = |url: &str| {
        (url.starts_with("https://") || url.starts_with("http://"))
            && !url.contains(|c: char| c == '#' || c.is_whitespace())
    };
    if let Some(url) = url.filter(|url| !is_address(url)) {
        bail!(exit::Usage(format!(
            "--report-url {url}: expected an address that begins with http:// or https:// and has no # and no space"
        )));
    }
    Ok(())
}

/// Puts what the candidate's own diagnosis says beside each rule that does not hold, and where its report says it, where it is of the same
/// checkpoints.
fn add_diagnosis(judgement: &mut Judgement, run: &Run, candidate: &Blessed, bars: &Bars) {
    if !run.diagnosis().exists() {
        return;
    }
    let diagnosis = match read_diagnosis(&run.diagnosis()) {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            bars.say(&format!("the candidate's diagnosis is left out: {error:#}"));
            return;
        }
    };
    let has_report = judgement.report.is_some() || run.report().exists();
    for ruling in judgement.rulings.iter_mut().filter(|ruling| ruling.outcome != record::Outcome::Held) {
        let judged = candidate.phases.get(&ruling.phase).map(|phase| phase.checkpoint.as_str());
        let is_current = |lineage: &&LineageDiagnosis| {
            lineage.phases.iter().any(|of| of.name == ruling.phase && Some(of.checkpoint.as_str()) == judged)
        };
        let lineage = diagnosis.lineages.iter().find(|lineage| lineage.name == ruling.lineage);
        let Some(lineage) = lineage.filter(is_current) else { continue };
        if has_report {
            ruling.anchor = reports::gate_anchor(&diagnosis, &lineage.name, ruling.behaviour);
        }
        // The verdict is on what is right; of a calibration error it says nothing.
        if ruling.metric == Metric::Score
            && let Some(blame) = ruling.measured.as_mut().and_then(|measured| measured.blame.as_mut())
        {
            blame.diagnosed = diagnosed(lineage, ruling.behaviour);
        }
    }
    // A report of other checkpoints would mislead.
    if judgement.report.is_none() && judgement.rulings.iter().any(|ruling| ruling.anchor.is_some()) {
        judgement.report = Some(run.report().display().to_string());
    }
}

fn diagnosed(lineage: &LineageDiagnosis, behaviour: Behaviour) -> Option<Diagnosed> {
    let verdict = &lineage.behaviours.iter().find(|row| row.behaviour == behaviour)?.verdict;
    let Outcome::Attributed { phase, .. } = &verdict.outcome else { return None };
    let phases: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
    let stage = Stage::of(phase, &phases);
    Some(Diagnosed { phase: phase.clone(), probability: verdict.probability(stage), rung: verdict.rung })
}

/// Writes where GitHub shows it: the summary of the step, and a note for each rule that is not held.
fn tell_github(judgement: &Judgement) -> Result<()> {
    if let Some(summary) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(summary);
        let text = reports::render_gate_markdown(judgement)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        let mut lines = String::new();
        for line in reports::gate_annotations(judgement)? {
            let _ = writeln!(lines, "{line}");
        }
        output::tell(&lines);
    }
    Ok(())
}

/// What an output file holds.
enum Format {
    Json,
    Markdown,
    Junit,
    Sarif,
}

fn format_of(path: &Path) -> Result<Format> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Ok(Format::Json),
        Some("md") => Ok(Format::Markdown),
        Some("xml") => Ok(Format::Junit),
        Some("sarif") => Ok(Format::Sarif),
        _ => bail!(exit::Usage(format!("-o {}: the extension must be .json, .md, .xml or .sarif", path.display()))),
    }
}
