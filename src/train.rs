//! `phasetrace train`: the world's data, the tokenizer, and every phase that is not there yet.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lm::{Checkpoint, Tokenizer};
use serde::Serialize;
use trainer::constitution::Constitution;
use trainer::data::{self, Comparison, Conversation, DataFile, Document, Prompt};
use trainer::judge::Judge;
use trainer::ranks::launch::Launch;
use trainer::{dpo, pretrain, reward, rl_cai, rlhf, sft, sl_cai};

use crate::cli::{Stop, TrainArgs};
use crate::device;
use crate::exit;
use crate::fit::fit;
use crate::import::{Import, check_unchanged, hash_files};
use crate::output;
use crate::progress::Bars;
use crate::ranks::Company;
use crate::recipe::{Alignment, Recipe};
use crate::run::Run;
use crate::store::{PhaseStore, link_folder};

pub(crate) fn run(args: &TrainArgs, launch: Option<&Launch>, bars: &Bars) -> Result<u8> {
    if args.dry_run {
        let (_, recipe) = Recipe::of_run(&Run::at(&args.run), &args.recipe, args.seed)?;
        if launch.is_none_or(|launch| launch.rank == 0) {
            output::print_line(&recipe.to_plan()?)?;
        }
        return Ok(exit::SUCCESS);
    }
    let company = Company::join(launch, Duration::from_secs(u64::from(args.rank_timeout)))?;
    company.share(|| {
        let ranks = company.ranks(device::chosen())?;
        let run = Run::among(&args.run, ranks.clone());
        let (text, recipe) = Recipe::of_run(&run, &args.recipe, args.seed)?;
        train(&run, &text, &recipe, Extent::until(args.until), bars)?;
        if ranks.is_first() {
            output::print_line(&run.root().display().to_string())?;
        }
        Ok(exit::SUCCESS)
    })
}

/// How much of a recipe is trained, and where finished phases are shared.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'a> {
    /// The last phase.
    pub(crate) until: Stop,
    /// Take finished phases from here, and keep new ones here.
    pub(crate) store: Option<&'a PhaseStore>,
    /// The run whose tokenizer is taken, for a variant of it that differs after pretraining; none for one of its own.
    pub(crate) tokenizer_of: Option<&'a Run>,
}

impl Extent<'_> {
    /// Up to a phase, with nothing shared.
    pub(crate) fn until(until: Stop) -> Self {
        Self { until, store: None, tokenizer_of: None }
    }
}

/// Trains what is missing of a run; a finished run is left as it is. The run is locked once its recipe and data files are found to fit.
pub(crate) fn train(run: &Run, text: &str, recipe: &Recipe, extent: Extent<'_>, bars: &Bars) -> Result<()> {
    let ranks = run.folder().ranks();
    ranks.on_first(|| prepare(run, text, recipe, extent.store, bars))?;
    let mut data = Data::read(run)?;
    if let Some(other) = extent.tokenizer_of.filter(|_| !run.tokenizer().exists()) {
        link_folder(&other.tokenizer(), &run.tokenizer())?;
    }
    let tokenizer = load_tokenizer(run, recipe, &data, extent.store)?;
    fit(run, recipe, &tokenizer, &mut data, bars)?;
    let training = Training { run, recipe, data: &data, store: extent.store, bars };

    let pretrained = training.pretrain(&tokenizer)?;
    if extent.until == Stop::Pretrain {
        return Ok(());
    }
    let tuned = training.sft(&pretrained)?;
    for alignment in &recipe.alignment {
        match alignment {
            Alignment::Rlhf => training.align_by_reward(&tuned, extent.until)?,
            Alignment::Dpo => training.align_by_preference(&tuned, extent.until)?,
            Alignment::Constitutional => training.align_by_constitution(&tuned, extent.until)?,
        }
    }
    Ok(())
}

/// Writes recipe, plan and data of a new run; refuses a folder that holds another recipe's run or cannot be written, and data
/// files that do not fit or have changed since the run was begun.
fn prepare(run: &Run, text: &str, recipe: &Recipe, store: Option<&PhaseStore>, bars: &Bars) -> Result<()> {
    let path = run.recipe();
    if path.exists() {
        let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(difference) = Recipe::parse(&kept, &path)?.difference(recipe)? {
            bail!(
                "{} holds a run of another recipe ({difference}); give another folder, or delete this one",
                run.root().display()
            );
        }
    }
    let mut made_from = vec!["data".to_owned(), recipe.seed.to_string(), json(&recipe.world)?];
    let mut import = None;
    if run.data().exists() {
        check_unchanged(&run.data())?;
    } else if !recipe.data.is_empty() {
        made_from.extend(hash_files(&recipe.data)?.into_iter().map(|(kind, hash)| format!("{kind} {hash}")));
        made_from.push(format!("skip bad {}", recipe.data.skip_bad));
    }
    let key = PhaseStore::key(&strs(&made_from));
    if !run.data().exists() && !recipe.data.is_empty() && !store.is_some_and(|store| store.has(&key)) {
        import = Some(Import::read(&recipe.data, bars)?);
    }
    // From here on files are written.
    run.lock()?;
    for folder in [run.folder().logs(), run.root().join("checkpoints")] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Written for a run that is resumed as well: a place that cannot be written is found before any work.
    reports::write(&run.plan(), &plan_file(recipe)?)?;
    if !path.exists() {
        reports::write(&path, text)?;
    }
    shared_folder(run, store, &key, &run.data(), || {
        bars.say(&format!("{:>10}  writing {}", "data", run.data().display()));
        if recipe.data.is_empty() {
            fixtures::write_data(&recipe.world, recipe.seed, &run.data())?;
            return Ok(());
        }
        let import = import.map_or_else(|| Import::read(&recipe.data, bars), Ok)?;
        let making = run.root().join("data.making");
        if making.exists() {
            fs::remove_dir_all(&making).with_context(|| format!("cannot remove {}", making.display()))?;
        }
        fixtures::write_data(&recipe.world, recipe.seed, &making)?;
        import.write(&making)?;
        fs::rename(&making, run.data()).with_context(|| format!("cannot write {}", run.data().display()))
    })
}

/// Makes a folder of a run that is not there yet, or takes it from the store.
fn shared_folder(
    run: &Run,
    store: Option<&PhaseStore>,
    key: &str,
    folder: &Path,
    make: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let name = Path::new(folder.file_name().unwrap_or_default());
    if folder.exists() {
        return Ok(());
    }
    let Some(store) = store else { return make() };
    if !store.fetch(key, run.root(), &[], name)? {
        make()?;
        store.keep(key, run.root(), &[], name)?;
    }
    Ok(())
}

/// The tokenizer, trained on the corpus and the rankings where it is not there yet.
///
/// No planted fault of SFT or alignment changes these texts, so that lineages that differ in such a fault share it, and
/// with it what was trained before the fault.
fn load_tokenizer(run: &Run, recipe: &Recipe, data: &Data, store: Option<&PhaseStore>) -> Result<Tokenizer> {
    let folder = run.tokenizer();
    let sizes = [json(&recipe.tokenizer)?, recipe.model.context.to_string()];
    let key = PhaseStore::key(&["tokenizer", &data.corpus.hash, &data.preferences.hash, &sizes[0], &sizes[1]]);
    let make = || {
        let mut texts: Vec<String> = data.corpus.items.iter().map(|document| document.text.clone()).collect();
        for ranking in &data.preferences.items {
            let turns = ranking.prompt.iter().map(|message| &message.content);
            texts.extend(turns.chain(&ranking.ranked).map(|text| format!(" {text}")));
        }
        // The order of a ranking is no part of what the tokenizer learns.
        texts.sort_unstable();
        let vocab_size = recipe.tokenizer.vocab_size.get();
        let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), vocab_size, recipe.model.context.get())?;
        let partial = folder.with_extension("partial");
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        tokenizer.save(&partial)?;
        fs::rename(&partial, &folder).with_context(|| format!("cannot write {}", folder.display()))
    };
    run.folder().ranks().on_first(|| shared_folder(run, store, &key, &folder, make))?;
    Tokenizer::load(&folder).with_context(|| format!("cannot load the tokenizer {}", folder.display()))
}

/// The data files of a run.
pub(crate) struct Data {
    corpus: DataFile<Document>,
    pub(crate) conversations: DataFile<Conversation>,
    pub(crate) preferences: DataFile<Comparison>,
    pub(crate) prompts: DataFile<Prompt>,
    constitution: Constitution,
    constitution_hash: String,
}

impl Data {
    fn read(run: &Run) -> Result<Self> {
        let folder = run.folder();
        let constitution = folder.data("constitution.toml");
        let bytes = fs::read(&constitution).with_context(|| format!("cannot read {}", constitution.display()))?;
        Ok(Self {
            corpus: data::read(&folder.data("corpus.jsonl"))?,
            conversations: data::read(&folder.data("sft.jsonl"))?,
            preferences: data::read(&folder.data("preferences.jsonl"))?,
            prompts: data::read(&folder.data("prompts.jsonl"))?,
            constitution: Constitution::load(&constitution)?,
            constitution_hash: data::hash(&bytes),
        })
    }
}

/// The text of a run's `plan.json`.
pub(crate) fn plan_file(recipe: &Recipe) -> Result<String> {
    Ok(recipe.to_plan()? + "\n")
}

struct Training<'a> {
    run: &'a Run,
    recipe: &'a Recipe,
    data: &'a Data,
    store: Option<&'a PhaseStore>,
    bars: &'a Bars,
}

impl Training<'_> {
    fn pretrain(&self, tokenizer: &Tokenizer) -> Result<Checkpoint> {
        let Data { corpus, .. } = self.data;
        let config = self.recipe.model.to_config(tokenizer)?;
        let files: Vec<&str> = tokenizer.files().values().map(String::as_str).collect();
        let tokenizer_hash = data::hash(files.concat().as_bytes());
        let sections = [json(&self.recipe.model)?, json(&self.recipe.pretrain)?];
        self.shared("pretrain", &[&sections[0], &sections[1], &tokenizer_hash, &corpus.hash], || {
            let inputs = pretrain::Inputs { corpus, tokenizer, config: &config, seed: self.recipe.seed };
            Ok(pretrain::run(self.run.folder(), &self.recipe.pretrain, inputs, self.bars)?)
        })
    }

    fn sft(&self, parent: &Checkpoint) -> Result<Checkpoint> {
        let Data { corpus, conversations, .. } = self.data;
        let made_from = [&parent.content_hash()?, &json(&self.recipe.sft)?, &conversations.hash, &corpus.hash];
        self.shared("sft", &made_from.map(String::as_str), || {
            let inputs = sft::Inputs { phase: "sft", parent, conversations, corpus, seed: self.recipe.seed };
            Ok(sft::run(self.run.folder(), &self.recipe.sft, inputs, self.bars)?)
        })
    }

    /// The reward model, then the policy.
    fn align_by_reward(&self, tuned: &Checkpoint, until: Stop) -> Result<()> {
        if until < Stop::Reward {
            return Ok(());
        }
        let Data { preferences, prompts, corpus, .. } = self.data;
        let seed = self.recipe.seed;
        let phases = reward::phases("reward", &self.recipe.reward);
        let made_from = [&tuned.content_hash()?, &json(&self.recipe.reward)?, &preferences.hash];
        let reward_models = &self.all_shared(&phases, &made_from.map(String::as_str), || {
            let inputs = reward::Inputs { parent: tuned, preferences, seed };
            Ok(reward::run(self.run.folder(), &self.recipe.reward, inputs, self.bars)?)
        })?;
        if until < Stop::Rlhf {
            return Ok(());
        }
        let mut made_from =
            vec![tuned.content_hash()?, json(&self.recipe.rlhf)?, prompts.hash.clone(), corpus.hash.clone()];
        made_from.extend(hashes(reward_models)?);
        self.shared("rlhf", &strs(&made_from), || {
            let inputs = rlhf::Inputs { phase: "rlhf", parent: tuned, reward_models, prompts, corpus, seed };
            Ok(rlhf::run(self.run.folder(), &self.recipe.rlhf, inputs, self.bars)?)
        })?;
        Ok(())
    }

    /// The policy, from the ranked answers themselves.
    fn align_by_preference(&self, tuned: &Checkpoint, until: Stop) -> Result<()> {
        if until < Stop::Dpo {
            return Ok(());
        }
        let Data { preferences, corpus, .. } = self.data;
        let made_from = [&tuned.content_hash()?, &json(&self.recipe.dpo)?, &preferences.hash, &corpus.hash];
        self.shared("dpo", &made_from.map(String::as_str), || {
            let inputs = dpo::Inputs { parent: tuned, preferences, corpus, seed: self.recipe.seed };
            Ok(dpo::run(self.run.folder(), &self.recipe.dpo, inputs, self.bars)?)
        })?;
        Ok(())
    }

    /// Constitutional AI: revisions to imitate, a model of the preferences, then the policy.
    fn align_by_constitution(&self, tuned: &Checkpoint, until: Stop) -> Result<()> {
        if until < Stop::SlCai {
            return Ok(());
        }
        let Data { constitution, prompts, preferences, conversations, corpus, constitution_hash } = self.data;
        let seed = self.recipe.seed;
        let files = [constitution_hash, &prompts.hash, &conversations.hash, &corpus.hash].map(String::as_str);
        let made_from = [tuned.content_hash()?, json(&self.recipe.sl_cai)?];
        let revised = &self.shared(sl_cai::PHASE, &[&strs(&made_from), &files[..]].concat(), || {
            let inputs = sl_cai::Inputs { parent: tuned, constitution, prompts, conversations, corpus, seed };
            Ok(sl_cai::run(self.run.folder(), &self.recipe.sl_cai, inputs, self.bars)?)
        })?;
        if until < Stop::RlCai {
            return Ok(());
        }
        let recipe = &self.recipe.rl_cai;
        let phases = reward::phases(rl_cai::PREFERENCE_PHASE, &recipe.preference);
        let judge = &Judge::open(&recipe.judge, |name| std::env::var(name).ok())?;
        let mut made_from = vec![revised.content_hash()?, json(&recipe.preference)?, recipe.pairs()];
        made_from.extend(judge.hash()?);
        let files = [constitution_hash, &prompts.hash, &preferences.hash].map(String::as_str);
        let inputs = rl_cai::Inputs { parent: revised, judge, constitution, prompts, preferences, corpus, seed };
        let reward_models = &self.all_shared(&phases, &[&strs(&made_from), &files[..]].concat(), || {
            Ok(rl_cai::train_preference_models(self.run.folder(), recipe, &inputs, self.bars)?)
        })?;
        let mut made_from = vec![revised.content_hash()?, json(&recipe.rl)?, prompts.hash.clone(), corpus.hash.clone()];
        made_from.extend(hashes(reward_models)?);
        self.shared(rl_cai::PHASE, &strs(&made_from), || {
            let inputs = rlhf::Inputs { phase: rl_cai::PHASE, parent: revised, prompts, corpus, reward_models, seed };
            Ok(rlhf::run(self.run.folder(), &recipe.rl, inputs, self.bars)?)
        })?;
        Ok(())
    }

    /// Trains a phase, or takes it from the store where one made from the same inputs is kept.
    fn shared(
        &self,
        phase: &str,
        made_from: &[&str],
        train: impl FnOnce() -> Result<Checkpoint>,
    ) -> Result<Checkpoint> {
        let mut trained = self.all_shared(&[phase.to_owned()], made_from, || Ok(vec![train()?]))?;
        Ok(trained.swap_remove(0))
    }

    /// As [`Training::shared`], for phases that are trained together.
    fn all_shared(
        &self,
        phases: &[String],
        made_from: &[&str],
        train: impl FnOnce() -> Result<Vec<Checkpoint>>,
    ) -> Result<Vec<Checkpoint>> {
        let Some(store) = self.store else { return train() };
        let seed = self.recipe.seed.to_string();
        let root = self.run.root();
        let kept: Vec<_> = phases
            .iter()
            .map(|phase| {
                let key = PhaseStore::key(&[&[phase.as_str(), &seed], made_from].concat());
                (key, Run::files_of(phase), Path::new("checkpoints").join(phase))
            })
            .collect();
        for (key, files, checkpoint) in &kept {
            if !root.join(checkpoint).exists() {
                store.fetch(key, root, files, checkpoint)?;
            }
        }
        let checkpoints = train()?;
        for (key, files, checkpoint) in &kept {
            store.keep(key, root, files, checkpoint)?;
        }
        Ok(checkpoints)
    }
}

fn hashes(checkpoints: &[Checkpoint]) -> Result<Vec<String>> {
    checkpoints.iter().map(|checkpoint| Ok(checkpoint.content_hash()?)).collect()
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn json(section: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(section)?)
}
