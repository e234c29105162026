//! `phasetrace train`: the world's data, the tokenizer, and every phase that is not there yet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lm::checkpoint::Checkpoint;
use lm::tokenizer::Tokenizer;
use serde::Serialize;
use trainer::data::{self, Comparison, Conversation, DataFile, Document, Prompt};
use trainer::{constitution, pretrain, reward, rlhf, sft};

use crate::cli::TrainArgs;
use crate::exit;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::run::Run;
use crate::store::PhaseStore;

pub(crate) fn run(args: &TrainArgs, bars: &Bars) -> Result<u8> {
    let (text, recipe) = Recipe::read(&args.recipe)?;
    if args.dry_run {
        println!("{}", recipe.to_plan()?);
        return Ok(exit::SUCCESS);
    }
    let run = Run::at(&args.run);
    train(&run, &text, &recipe, &Extent::default(), bars)?;
    println!("{}", run.root().display());
    Ok(exit::SUCCESS)
}

/// How much of a recipe is trained, and where finished phases are shared.
#[derive(Default)]
pub(crate) struct Extent<'a> {
    /// Leave out the branch of Constitutional AI.
    pub(crate) without_constitution: bool,
    /// Take finished phases from here, and keep new ones here.
    pub(crate) store: Option<&'a PhaseStore>,
}

/// Trains what is missing of a run; a finished run is left as it is.
pub(crate) fn train(run: &Run, text: &str, recipe: &Recipe, extent: &Extent<'_>, bars: &Bars) -> Result<()> {
    prepare(run, text, recipe)?;
    let trained = Training { run, recipe, store: extent.store, bars };

    let tokenizer = trained.tokenizer()?;
    let pretrained = trained.pretrain(&tokenizer)?;
    let tuned = trained.sft(&pretrained)?;
    trained.align(&tuned)?;
    if !extent.without_constitution {
        trained.constitution(&tuned)?;
    }
    Ok(())
}

/// Writes recipe, plan and data of a new run; refuses a folder that holds another recipe's run.
fn prepare(run: &Run, text: &str, recipe: &Recipe) -> Result<()> {
    let path = run.recipe();
    if path.exists() {
        if Recipe::load(&path)? != *recipe {
            bail!(
                "{} holds a run of another recipe; give another folder, or delete this one",
                run.root().display()
            );
        }
    } else {
        fs::create_dir_all(run.root()).with_context(|| format!("cannot create {}", run.root().display()))?;
        reports::write(&run.plan(), &(recipe.to_plan()? + "\n"))?;
        reports::write(&path, text)?;
    }
    if !run.data().exists() {
        fixtures::write_data(&recipe.world, recipe.seed, &run.data())?;
    }
    Ok(())
}

struct Training<'a> {
    run: &'a Run,
    recipe: &'a Recipe,
    store: Option<&'a PhaseStore>,
    bars: &'a Bars,
}

impl Training<'_> {
    fn read<T: data::Line>(&self, name: &str) -> Result<DataFile<T>> {
        Ok(data::read(&self.run.folder().data(name))?)
    }

    /// Trained on the corpus and the rankings, whose texts no planted fault of a later phase changes, so that lineages
    /// that differ in such a fault share their tokenizer.
    fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.run.folder().tokenizer();
        if !path.exists() {
            let corpus: DataFile<Document> = self.read("corpus.jsonl")?;
            let rankings: DataFile<Comparison> = self.read("preferences.jsonl")?;
            let mut texts: Vec<String> = corpus.items.into_iter().map(|document| document.text).collect();
            for ranking in rankings.items {
                let turns = ranking.prompt.into_iter().map(|message| message.content);
                texts.extend(turns.chain(ranking.ranked).map(|text| format!(" {text}")));
            }
            // The order of a ranking is no part of what the tokenizer learns.
            texts.sort_unstable();
            Tokenizer::train(&texts, self.recipe.tokenizer.vocab_size.get())?.save(&path)?;
        }
        Ok(Tokenizer::load(&path)?)
    }

    fn pretrain(&self, tokenizer: &Tokenizer) -> Result<Checkpoint> {
        let corpus: DataFile<Document> = self.read("corpus.jsonl")?;
        let config = self.recipe.model.to_config(tokenizer)?;
        self.shared("pretrain", &[&json(&self.recipe.model)?, &json(&self.recipe.pretrain)?, &corpus.hash], || {
            let inputs = pretrain::Inputs { corpus: &corpus, tokenizer, config: &config, seed: self.recipe.seed };
            Ok(pretrain::run(self.run.folder(), &self.recipe.pretrain, inputs, self.bars)?)
        })
    }

    fn sft(&self, parent: &Checkpoint) -> Result<Checkpoint> {
        let conversations: DataFile<Conversation> = self.read("sft.jsonl")?;
        let corpus: DataFile<Document> = self.read("corpus.jsonl")?;
        let made_from = [parent.content_hash(), &json(&self.recipe.sft)?, &conversations.hash, &corpus.hash];
        self.shared("sft", &made_from, || {
            let inputs = sft::Inputs {
                phase: "sft",
                parent,
                conversations: &conversations,
                corpus: Some(&corpus),
                seed: self.recipe.seed,
            };
            Ok(sft::run(self.run.folder(), &self.recipe.sft, inputs, self.bars)?)
        })
    }

    fn align(&self, tuned: &Checkpoint) -> Result<Checkpoint> {
        let preferences: DataFile<Comparison> = self.read("preferences.jsonl")?;
        let prompts: DataFile<Prompt> = self.read("prompts.jsonl")?;
        let corpus: DataFile<Document> = self.read("corpus.jsonl")?;
        let made_from = [tuned.content_hash(), &json(&self.recipe.reward)?, &preferences.hash];
        let reward_model = self.shared("reward", &made_from, || {
            let inputs = reward::Inputs { start: tuned, preferences: &preferences };
            Ok(reward::run(self.run.folder(), &self.recipe.reward, self.recipe.seed, inputs, self.bars)?)
        })?;
        let made_from =
            [tuned.content_hash(), reward_model.content_hash(), &json(&self.recipe.rlhf)?, &prompts.hash, &corpus.hash];
        self.shared("rlhf", &made_from, || {
            let inputs = rlhf::Inputs { start: tuned, reward_model: &reward_model, prompts: &prompts, corpus: &corpus };
            Ok(rlhf::run(self.run.folder(), &self.recipe.rlhf, self.recipe.seed, inputs, self.bars)?)
        })
    }

    fn constitution(&self, tuned: &Checkpoint) -> Result<()> {
        let prompts: DataFile<Prompt> = self.read("prompts.jsonl")?;
        let corpus: DataFile<Document> = self.read("corpus.jsonl")?;
        let conversations: DataFile<Conversation> = self.read("sft.jsonl")?;
        let preferences: DataFile<Comparison> = self.read("preferences.jsonl")?;
        let constitution = constitution::Constitution::load(&self.run.folder().data("constitution.toml"))?;
        let inputs = constitution::Inputs {
            start: tuned,
            constitution: &constitution,
            prompts: &prompts,
            conversations: &conversations,
            preferences: &preferences,
            corpus: &corpus,
        };
        constitution::run(self.run.folder(), &self.recipe.constitution, self.recipe.seed, inputs, self.bars)?;
        Ok(())
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
        let mut inputs = vec![phase, &seed];
        inputs.extend(made_from);
        let key = PhaseStore::key(&inputs);
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

/// A checkpoint of a run, with a hint where it is not there yet.
pub(crate) fn require(path: &Path) -> Result<()> {
    if !path.exists() {
        bail!("{}: no checkpoint; `phasetrace train` makes it", path.display());
    }
    Ok(())
}
