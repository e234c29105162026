//! `phasetrace compare`: trains what is missing of several settings, asks every checkpoint, and puts them side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::compare::{Findings, compare};
use evals::comparison::{Comparison, Entry, EntryRun, PrincipleCounts, SettingKind, TrajectoryPoint};
use evals::diagnosis::Cost;
use evals::store::{Store, StoreKey};
use lm::Checkpoint;
use probes::PROBE_VERSION;
use probes::bank::Bank;
use probes::response::Form;
use trainer::audit::{Audit, audit};
use trainer::data::{self, Prompt};
use trainer::principles::{Judged, count_judgements};
use trainer::rl_cai;
use trainer::trajectory::Trajectory;

use crate::cli::{CompareArgs, RecipeArgs, Stop};
use crate::device;
use crate::diagnose::provenance;
use crate::exit::{self, Usage};
use crate::explore::{self, Ends, Plan, start_phase};
use crate::fit::fit_prompts;
use crate::lock;
use crate::output;
use crate::probe::{Answered, Questions, ask_all, ask_one};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::report::{Format, check_pages, check_writable, extension};
use crate::reward_check;
use crate::run::{Run, chain};
use crate::setting::{Setting, name_settings};
use crate::store::PhaseStore;
use crate::subject::Place;
use crate::sweep;
use crate::train::{Extent, train};

/// Prompts at which each policy is sampled to measure how far it has gone.
const AUDITED: usize = 512;
/// Name of the setting that is no alignment.
const START: &str = "before alignment";

pub(crate) fn run(args: &CompareArgs, bars: &Bars) -> Result<u8> {
    check_pages(&args.output)?;
    let (dir, members) = if args.recipe.recipe.is_some() { plan_sweep(args)? } else { gather_runs(args)? };
    let recipes: Vec<Recipe> = members.iter().map(|member| member.recipe.clone()).collect();
    let settings = name_settings(&recipes)?;
    if args.dry_run {
        for (member, settings) in members.iter().zip(&settings) {
            for setting in settings {
                output::print_line(&format!("seed {}  {}", member.recipe.seed, setting.name))?;
            }
        }
        return Ok(exit::SUCCESS);
    }
    check_writable(&dir)?;
    let _lock = lock::take(&dir)?;
    let work = Work { dir: &dir, explores: !args.no_explore, bars };
    for (i, member) in members.iter().enumerate() {
        if let Some(text) = &member.text {
            bars.say(&format!("{} of {}: {}", i + 1, members.len(), member.run.root().display()));
            let store = PhaseStore::at(&dir.join("phases"));
            train(
                &member.run,
                text,
                &member.recipe,
                Extent { until: Stop::RlCai, store: Some(&store), tokenizer_of: None },
                bars,
            )?;
        }
    }
    let comparison = work.compare(&members, &settings)?;
    let json = reports::render_comparison_json(&comparison)?;
    reports::write(&dir.join("comparison.json"), &json)?;
    let default = [dir.join("compare.html")];
    for path in if args.output.is_empty() { &default[..] } else { &args.output } {
        let text = match extension(path)? {
            Format::Html => reports::render_comparison_html(&comparison)?,
            Format::Json => json.clone(),
            Format::Markdown => reports::render_comparison_markdown(&comparison)?,
        };
        reports::write(path, &text)?;
        output::print_line(&path.display().to_string())?;
    }
    for sentence in &comparison.sentences {
        output::print_line(sentence)?;
    }
    Ok(exit::SUCCESS)
}

/// A run that is compared.
struct Member {
    run: Run,
    recipe: Recipe,
    /// The recipe's text, where the run is to be trained.
    text: Option<String>,
}

/// The runs of a sweep: every setting with every seed, in a folder of its own.
fn plan_sweep(args: &CompareArgs) -> Result<(PathBuf, Vec<Member>)> {
    let dir = match args.runs.as_slice() {
        [] => PathBuf::from("runs/compare"),
        [dir] => dir.clone(),
        more => bail!(Usage(format!("--recipe makes its runs in one folder, found {}", more.len()))),
    };
    let mut members = Vec::new();
    let settings = sweep::expand(&args.recipe)?;
    let seeds: Vec<Option<u64>> =
        if args.seeds.is_empty() { vec![None] } else { args.seeds.iter().copied().map(Some).collect() };
    for seed in seeds {
        for (text, recipe) in &settings {
            let seed = seed.unwrap_or(recipe.seed);
            let (text, recipe) = Recipe::read_with(text, Path::new("recipe"), false, &[format!("seed={seed}")])?;
            // Named by what it is made from, so that a sweep that grows finds what it has.
            let name = data::hash(recipe.to_plan()?.as_bytes());
            let run = Run::at(&dir.join("runs").join(&name[..12]));
            // A seed that is given twice is one run.
            if members.iter().all(|member: &Member| member.run.root() != run.root()) {
                members.push(Member { run, recipe, text: Some(text) });
            }
        }
    }
    Ok((dir, members))
}

/// Runs that were trained before.
fn gather_runs(args: &CompareArgs) -> Result<(PathBuf, Vec<Member>)> {
    if args.runs.is_empty() {
        bail!(Usage("give runs to compare, or --recipe with a [sweep]".to_owned()));
    }
    if !args.recipe.overrides.is_empty() || args.recipe.skip_bad {
        bail!(Usage("--set and --skip-bad need --recipe: runs are compared as they were trained".to_owned()));
    }
    let mut members = Vec::new();
    for path in &args.runs {
        let run = Run::at(path);
        if !run.recipe().exists() {
            bail!("{}: no run; `phasetrace train {}` makes one", path.display(), path.display());
        }
        let (_, recipe) = Recipe::of_run(&run, &RecipeArgs::default(), None)?;
        members.push(Member { run, recipe, text: None });
    }
    let dir = match args.output.first() {
        Some(output) => output.parent().unwrap_or(Path::new(".")).to_owned(),
        None => PathBuf::from("runs/compare"),
    };
    Ok((dir, members))
}

/// The settings, each once.
fn distinct(settings: &[Vec<Setting>]) -> Vec<&Setting> {
    let mut known: Vec<&Setting> = Vec::new();
    for setting in settings.iter().flatten() {
        if known.iter().all(|other| other.name != setting.name) {
            known.push(setting);
        }
    }
    known
}

struct Work<'a> {
    dir: &'a Path,
    /// Whether settings between the trained ones are looked at.
    explores: bool,
    bars: &'a Bars,
}

impl Work<'_> {
    fn compare(&self, members: &[Member], settings: &[Vec<Setting>]) -> Result<Comparison> {
        let bank = Self::same_bank(members)?;
        let mut checkpoints: Vec<(String, PathBuf)> = Vec::new();
        for (member, settings) in members.iter().zip(settings) {
            checkpoints.push(("sft".to_owned(), member.run.checkpoint("sft")));
            for setting in settings {
                let last = last_phase(setting.alignment);
                checkpoints.push((last.to_owned(), member.run.checkpoint(last)));
            }
        }
        if let Some((_, lacking)) = checkpoints.iter().find(|(_, path)| !path.exists()) {
            bail!("{}: no such checkpoint; train the run first", lacking.display());
        }
        let answers = self.dir.join("answers");
        fs::create_dir_all(&answers).with_context(|| format!("cannot create {}", answers.display()))?;
        let questions = Questions::of_bank(&bank.hash, &bank.items);
        let places: Vec<(String, Place)> =
            checkpoints.iter().map(|(name, path)| (name.clone(), Place::Folder(path.clone()))).collect();
        let Answered { phases, responses } = ask_all(&answers, &questions, &places, self.bars)?;
        let fingerprints: BTreeMap<&Path, &str> = checkpoints
            .iter()
            .zip(&phases)
            .map(|((_, path), phase)| (path.as_path(), phase.checkpoint.as_str()))
            .collect();
        let mut entries = self.entries(members, settings, &fingerprints, &bank)?;
        let mut responses = responses;
        if self.explores {
            let plans = explore::plan(&distinct(settings));
            for plan in &plans {
                entries.push(self.explore(plan, members, settings, &questions, &fingerprints)?);
            }
            if !plans.is_empty() {
                responses = self.open_store(&questions)?.responses();
            }
        }
        let name = self.dir.file_name().map_or_else(|| "compare".into(), |name| name.to_string_lossy().into_owned());
        Ok(compare(Findings {
            name: &name,
            entries: &entries,
            items: &bank.items,
            responses: &responses,
            provenance: provenance(None, &bank),
        })?)
    }

    /// The bank that all runs have: answers to other questions cannot be compared.
    fn same_bank(members: &[Member]) -> Result<Bank> {
        let bank = Bank::load(&members[0].run.bank())?;
        for member in &members[1..] {
            let other = Bank::load(&member.run.bank())?;
            if other.hash != bank.hash {
                bail!(
                    "{} and {} hold different questions; runs of one [world] can be compared",
                    members[0].run.bank().display(),
                    member.run.bank().display()
                );
            }
        }
        Ok(bank)
    }

    fn entries(
        &self,
        members: &[Member],
        settings: &[Vec<Setting>],
        fingerprints: &BTreeMap<&Path, &str>,
        bank: &Bank,
    ) -> Result<Vec<Entry>> {
        let start =
            Entry { name: START.to_owned(), kind: SettingKind::Start, values: BTreeMap::new(), runs: Vec::new() };
        let mut entries = vec![start];
        for (member, settings) in members.iter().zip(settings) {
            let seed = member.recipe.seed;
            if entries[0].runs.iter().all(|run| run.seed != seed) {
                let run = self.measure(member, "sft", fingerprints, bank)?;
                entries[0].runs.push(run);
            }
            for setting in settings {
                let run = self.measure(member, last_phase(setting.alignment), fingerprints, bank)?;
                match entries.iter_mut().find(|entry| entry.name == setting.name) {
                    Some(entry) if entry.runs.iter().any(|known| known.seed == seed) => {}
                    Some(entry) => entry.runs.push(run),
                    None => {
                        let mut values = setting.values.clone();
                        values.insert("alignment".to_owned(), setting.alignment.name().to_owned());
                        entries.push(Entry {
                            name: setting.name.clone(),
                            kind: SettingKind::Trained,
                            values,
                            runs: vec![run],
                        });
                    }
                }
            }
        }
        Ok(entries)
    }

    /// Asks the mixtures of a plan, one for each seed of its base.
    fn explore(
        &self,
        plan: &Plan,
        members: &[Member],
        settings: &[Vec<Setting>],
        questions: &Questions<'_>,
        fingerprints: &BTreeMap<&Path, &str>,
    ) -> Result<Entry> {
        let mut entry = Entry { name: plan.name.clone(), kind: plan.kind(), values: BTreeMap::new(), runs: Vec::new() };
        let mut store = self.open_store(questions)?;
        for (member, settings) in members.iter().zip(settings) {
            let seed = member.recipe.seed;
            let Some(base) = settings.iter().find(|setting| setting.name == plan.base) else { continue };
            if entry.runs.iter().any(|run| run.seed == seed) {
                continue;
            }
            let path = |phase: &str| member.run.checkpoint(phase);
            let ends = Ends::load(&path(start_phase(base.alignment)), &path(last_phase(base.alignment)))?;
            let checkpoint = ends.with_subject(plan, |subject| {
                ask_one(&mut store, &plan.name, subject, questions.items, &Form::STANDARD, self.bars)?;
                Ok(subject.fingerprint().to_owned())
            })?;
            entry.runs.push(EntryRun {
                seed,
                checkpoint,
                start: fingerprints[path("sft").as_path()].to_owned(),
                ..EntryRun::default()
            });
        }
        store.finish()?;
        Ok(entry)
    }

    fn open_store(&self, questions: &Questions<'_>) -> Result<Store> {
        let key = StoreKey { bank_hash: questions.bank_hash.to_owned(), probe_version: PROBE_VERSION };
        Ok(Store::open(&self.dir.join("answers"), key)?)
    }

    /// What one seed of a setting showed beside its answers to the bank.
    fn measure(
        &self,
        member: &Member,
        phase: &str,
        fingerprints: &BTreeMap<&Path, &str>,
        bank: &Bank,
    ) -> Result<EntryRun> {
        let run = &member.run;
        let (path, start_path) = (run.checkpoint(phase), run.checkpoint("sft"));
        let fingerprint = |path: &Path| fingerprints[path].to_owned();
        let (checkpoint, start) = (fingerprint(&path), fingerprint(&start_path));
        let Audit { kl_nats, is_right, .. } = self.audit(member, (&path, &checkpoint), (&start_path, &start))?;
        let trajectory = if phase == "sft" { None } else { Trajectory::load(&path)? }.unwrap_or_default();
        let points = trajectory.points.iter().filter_map(|point| {
            Some(TrajectoryPoint {
                step: point.step,
                kl_nats: point.get("kl_nats")?,
                proxy: point.get("score")?,
                gold: point.get("gold_reward"),
                n: point.n_answers() as usize,
            })
        });
        let last = |alignment: &Alignment| last_phase(*alignment) == phase;
        let own = member.recipe.alignment.iter().find(|alignment| last(alignment));
        let seconds = own.map(|&alignment| train_seconds(run, alignment)).transpose()?.flatten();
        let check_reward = |&alignment: &Alignment| {
            reward_check::check(&self.dir.join("audits"), run, &member.recipe, alignment, bank)
        };
        let reward = own.map(check_reward).transpose()?.flatten();
        Ok(EntryRun {
            seed: member.recipe.seed,
            checkpoint,
            start,
            kl_nats,
            gold: is_right.into_iter().map(|right| right.map(|right| if right { 1.0 } else { 0.0 })).collect(),
            trajectory: points.collect(),
            alarms: trajectory.alarms.into_iter().map(|alarm| (alarm.step, alarm.message)).collect(),
            train_s: seconds,
            reward,
            principles: if phase == rl_cai::PHASE { principles(member)? } else { BTreeMap::new() },
        })
    }

    /// Samples a policy, unless that was done before.
    fn audit(&self, member: &Member, policy: (&Path, &str), start: (&Path, &str)) -> Result<Audit> {
        let name = data::hash(format!("{} {} {AUDITED}", policy.1, start.1).as_bytes());
        let kept = self.dir.join("audits").join(format!("{}.json", &name[..24]));
        if kept.exists() {
            let text = fs::read_to_string(&kept).with_context(|| format!("cannot read {}", kept.display()))?;
            return serde_json::from_str(&text).with_context(|| format!("cannot read {}", kept.display()));
        }
        let mut prompts = data::read::<Prompt>(&member.run.folder().data("prompts.jsonl"))?;
        let (policy, start) = (Checkpoint::load(policy.0)?, Checkpoint::load(start.0)?);
        fit_prompts(&member.run, &member.recipe, &start.tokenizer, &mut prompts)?;
        // One seed for all: the prompts are those of the run's data, which its training seed has drawn.
        let audit = audit(&policy, &start, &prompts, AUDITED, 1, device::chosen())?;
        let text = serde_json::to_string(&audit)? + "\n";
        reports::write(&kept, &text)?;
        // As it reads back: JSON moves some numbers by their last bit.
        Ok(serde_json::from_str(&text)?)
    }
}

fn last_phase(alignment: Alignment) -> &'static str {
    chain(alignment).1.last().expect("a chain has phases")
}

/// What was judged under each principle of a run's constitution, by kind of prompt.
fn principles(member: &Member) -> Result<BTreeMap<String, BTreeMap<String, PrincipleCounts>>> {
    let folder = member.run.folder();
    let prompts = data::read::<Prompt>(&folder.data("prompts.jsonl"))?;
    let counts = |judged: Judged| {
        let Judged { pairs, decided, against, refusing, right, broken, wrong, mended } = judged;
        PrincipleCounts { pairs, decided, against, refusing, right, broken, wrong, mended }
    };
    let by_kind = |kinds: BTreeMap<String, Judged>| kinds.into_iter().map(|(kind, of)| (kind, counts(of))).collect();
    let judged = count_judgements(folder, &prompts, &member.recipe.rl_cai.rl.watch)?;
    Ok(judged.into_iter().map(|(principle, kinds)| (principle, by_kind(kinds))).collect())
}

/// Seconds that the phases of a way of alignment took, by their logs; `None` where a log does not say.
fn train_seconds(run: &Run, alignment: Alignment) -> Result<Option<f64>> {
    let (_, phases) = chain(alignment);
    let aligned = phases.iter().skip_while(|phase| **phase != "sft").skip(1);
    let costs: Result<Vec<Option<Cost>>> = aligned.map(|phase| run.cost(phase)).collect();
    let total: Option<Cost> = costs?.into_iter().sum();
    Ok(total.map(|cost| cost.seconds).filter(|seconds| *seconds > 0.0))
}
