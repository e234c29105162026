//! `phasetrace train`: the world's data, the tokenizer, and every phase that is not there yet.

use std::fs;

use anyhow::{Context, Result, bail};
use lm::{Checkpoint, Tokenizer};
use serde::Serialize;
use trainer::constitution::Constitution;
use trainer::data::{self, Comparison, Conversation, DataFile, Document, Prompt};
use trainer::{pretrain, reward, rl_cai, rlhf, sft, sl_cai};

use crate::cli::{Stop, TrainArgs};
use crate::exit;
use crate::output;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::run::Run;
use crate::store::PhaseStore;

pub(crate) fn run(args: &TrainArgs, bars: &Bars) -> Result<u8> {
    let run = Run::at(&args.run);
    let (text, recipe) = Recipe::of_run(&run, &args.recipe, args.seed)?;
    if args.dry_run {
        output::print_line(&recipe.to_plan()?)?;
        return Ok(exit::SUCCESS);
    }
    train(&run, &text, &recipe, Extent { until: args.until, store: None }, bars)?;
    output::print_line(&run.root().display().to_string())?;
    Ok(exit::SUCCESS)
}

/// How much of a recipe is trained, and where finished phases are shared.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'a> {
    /// The last phase.
    pub(crate) until: Stop,
    /// Take finished phases from here, and keep new ones here.
    pub(crate) store: Option<&'a PhaseStore>,
}

/// Trains what is missing of a run; a finished run is left as it is.
pub(crate) fn train(run: &Run, text: &str, recipe: &Recipe, extent: Extent<'_>, bars: &Bars) -> Result<()> {
    prepare(run, text, recipe, bars)?;
    let data = Data::read(run)?;
    let tokenizer = load_tokenizer(run, recipe, &data)?;
    let training = Training { run, recipe, data: &data, store: extent.store, bars };

    let pretrained = training.pretrain(&tokenizer)?;
    if extent.until == Stop::Pretrain {
        return Ok(());
    }
    let tuned = training.sft(&pretrained)?;
    if extent.until == Stop::Sft {
        return Ok(());
    }
    let reward_model = training.reward(&tuned)?;
    if extent.until == Stop::Reward {
        return Ok(());
    }
    training.rlhf(&tuned, &reward_model)?;
    if extent.until == Stop::Rlhf {
        return Ok(());
    }
    let revised = training.sl_cai(&tuned)?;
    if extent.until == Stop::SlCai {
        return Ok(());
    }
    training.rl_cai(&revised)?;
    Ok(())
}

/// Writes recipe, plan and data of a new run; refuses a folder that holds another recipe's run or cannot be written.
fn prepare(run: &Run, text: &str, recipe: &Recipe, bars: &Bars) -> Result<()> {
    for folder in [run.root().to_owned(), run.folder().logs(), run.root().join("checkpoints")] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
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
    // Written for a run that is resumed as well: a place that cannot be written is found before any work.
    reports::write(&run.plan(), &plan_file(recipe)?)?;
    if !path.exists() {
        reports::write(&path, text)?;
    }
    if !run.data().exists() {
        bars.say(&format!("{:>10}  writing {}", "data", run.data().display()));
        fixtures::write_data(&recipe.world, recipe.seed, &run.data())?;
    }
    Ok(())
}

/// The tokenizer, trained on the corpus and the rankings where it is not there yet.
///
/// No planted fault of SFT or alignment changes these texts, so that lineages that differ in such a fault share it, and
/// with it what was trained before the fault.
fn load_tokenizer(run: &Run, recipe: &Recipe, data: &Data) -> Result<Tokenizer> {
    let folder = run.tokenizer();
    if !folder.exists() {
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
        fs::rename(&partial, &folder).with_context(|| format!("cannot write {}", folder.display()))?;
    }
    Tokenizer::load(&folder).with_context(|| format!("cannot load the tokenizer {}", folder.display()))
}

/// The data files of a run.
struct Data {
    corpus: DataFile<Document>,
    conversations: DataFile<Conversation>,
    preferences: DataFile<Comparison>,
    prompts: DataFile<Prompt>,
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

    fn reward(&self, parent: &Checkpoint) -> Result<Checkpoint> {
        let Data { preferences, .. } = self.data;
        let made_from = [&parent.content_hash()?, &json(&self.recipe.reward)?, &preferences.hash];
        self.shared("reward", &made_from.map(String::as_str), || {
            let inputs = reward::Inputs { parent, preferences, seed: self.recipe.seed };
            Ok(reward::run(self.run.folder(), &self.recipe.reward, inputs, self.bars)?)
        })
    }

    fn rlhf(&self, parent: &Checkpoint, reward_model: &Checkpoint) -> Result<Checkpoint> {
        let Data { prompts, corpus, .. } = self.data;
        let parents = [parent.content_hash()?, reward_model.content_hash()?];
        let made_from = [&parents[0], &parents[1], &json(&self.recipe.rlhf)?, &prompts.hash, &corpus.hash];
        self.shared("rlhf", &made_from.map(String::as_str), || {
            let seed = self.recipe.seed;
            let inputs = rlhf::Inputs { phase: "rlhf", parent, reward_model, prompts, corpus, seed };
            Ok(rlhf::run(self.run.folder(), &self.recipe.rlhf, inputs, self.bars)?)
        })
    }

    fn sl_cai(&self, parent: &Checkpoint) -> Result<Checkpoint> {
        let Data { constitution, prompts, conversations, corpus, constitution_hash, .. } = self.data;
        let recipe = json(&self.recipe.sl_cai)?;
        let files = [constitution_hash, &prompts.hash, &conversations.hash, &corpus.hash];
        let made_from = [&parent.content_hash()?, &recipe, files[0], files[1], files[2], files[3]];
        self.shared("sl-cai", &made_from.map(String::as_str), || {
            let seed = self.recipe.seed;
            let inputs = sl_cai::Inputs { parent, constitution, prompts, conversations, corpus, seed };
            Ok(sl_cai::run(self.run.folder(), &self.recipe.sl_cai, inputs, self.bars)?)
        })
    }

    /// Trains two phases, the preference model and the policy; resumed, but not shared.
    fn rl_cai(&self, parent: &Checkpoint) -> Result<Checkpoint> {
        let Data { constitution, prompts, preferences, corpus, .. } = self.data;
        let seed = self.recipe.seed;
        let inputs = rl_cai::Inputs { parent, constitution, prompts, preferences, corpus, seed };
        Ok(rl_cai::run(self.run.folder(), &self.recipe.rl_cai, inputs, self.bars)?)
    }

    /// Trains a phase, or takes it from the store where one made from the same inputs is kept.
    fn shared(
        &self,
        phase: &str,
        made_from: &[&str],
        train: impl FnOnce() -> Result<Checkpoint>,
    ) -> Result<Checkpoint> {
        let Some(store) = self.store else { return train() };
        let seed = self.recipe.seed.to_string();
        let key = PhaseStore::key(&[&[phase, &seed], made_from].concat());
        let folder = self.run.checkpoint(phase);
        if !folder.exists() {
            store.fetch(&key, &folder)?;
        }
        let checkpoint = train()?;
        store.keep(&key, &folder)?;
        Ok(checkpoint)
    }
}

fn json(section: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(section)?)
}
