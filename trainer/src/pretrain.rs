//! Pretraining: the next token of packed documents.

use crate::batch::{Feed, Packing, encode_documents};
use crate::data::{DataFile, Document};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::loss::learn_batches;
use crate::recipe::{PretrainRecipe, check_length, to_toml};
use crate::session::{Origin, Phase, Progress, Session, Start};
use lm::checkpoint::Checkpoint;
use lm::config::ModelConfig;
use lm::tokenizer::Tokenizer;
use std::collections::BTreeMap;

/// What pretraining works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The corpus.
    pub corpus: &'a DataFile<Document>,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Shape of the decoder, which starts from fresh weights.
    pub config: &'a ModelConfig,
    /// Seed of the weights and of the order of documents.
    pub seed: u64,
}

/// Trains a decoder from fresh weights and saves it as the phase `pretrain`; a finished phase is only loaded.
///
/// # Errors
/// Where the recipe does not fit the model, the data cannot be tokenized, training diverges or files cannot be written.
pub fn run(
    folder: &RunFolder,
    recipe: &PretrainRecipe,
    inputs: Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Inputs { corpus, tokenizer, config, seed } = inputs;
    let sequence_tokens = recipe.sequence_tokens.get();
    check_length("pretrain.sequence_tokens", sequence_tokens, config)?;
    let data = BTreeMap::from([corpus.name_and_hash()]);
    let phase = Phase {
        name: "pretrain",
        folder,
        origin: Origin { seed, parent: None, recipe: to_toml(recipe), data },
        lr: recipe.lr,
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let documents = encode_documents(tokenizer, corpus, sequence_tokens)?;
    let mut feed = Feed::new(documents, sequence_tokens, Packing::BestFit, seed, "pretrain/order");
    let mut session = Session::open(phase, Start::fresh(config, tokenizer, seed)?, progress)?;
    while !session.is_done() {
        let (n_batches, n_sequences) = (recipe.accumulate.get(), recipe.batch_sequences.get());
        let (metrics, _) = learn_batches(&mut session, &mut feed, n_batches, n_sequences)?;
        session.apply(&metrics)?;
    }
    session.finish()
}

#[cfg(test)]
mod tests {
    use super::{Inputs, run};
    use crate::error::Error;
    use crate::folder::RunFolder;
    use crate::recipe::PretrainRecipe;
    use crate::session::{Progress, Silent};
    use crate::tiny;
    use lm::Checkpoint;
    use lm::device::Device;
    use lm::lineage::{Lineage, Stretch};
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    fn train(root: &Path, recipe: &PretrainRecipe, progress: &dyn Progress) -> crate::Result<Checkpoint> {
        train_in(&RunFolder::new(root), recipe, progress)
    }

    fn train_in(folder: &RunFolder, recipe: &PretrainRecipe, progress: &dyn Progress) -> crate::Result<Checkpoint> {
        let inputs =
            Inputs { corpus: &tiny::corpus(), tokenizer: &tiny::tokenizer(), config: &tiny::config(), seed: 3 };
        run(folder, recipe, inputs, progress)
    }

    /// Every file below a folder, with its content.
    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
        found
    }

    /// Ends the process's work, as far as a test can, when step `self.0` is done.
    struct Kill(u64);

    impl Progress for Kill {
        fn begin(&self, _: &str, _: u64) {}
        fn step(&self, _: &str, step: u64, _: f64, _: u64) {
            assert!(step != self.0, "killed");
        }
        fn end(&self, _: &str) {}
        fn warn(&self, _: &str, _: u64, _: &str) {}
    }

    #[test]
    fn the_loss_falls_and_the_lineage_says_how_far() {
        let root = tempfile::tempdir().unwrap();
        let checkpoint = train(root.path(), &tiny::pretrain_recipe(60), &Silent).unwrap();
        let lineage = checkpoint.lineage.unwrap();
        assert_eq!((lineage.phase.as_str(), lineage.steps, lineage.parent), ("pretrain", 60, None));
        assert!(lineage.metrics["loss_nats"] < 1.0, "{:?}", lineage.metrics);
        assert!(lineage.metrics["tokens"] > 60.0 * 64.0, "{:?}", lineage.metrics);
        let log = fs::read_to_string(root.path().join("logs/pretrain.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 60);
        let found = files(&root.path().join("checkpoints/pretrain"));
        let expected = [
            "config.json",
            "generation_config.json",
            "lineage.json",
            "model.safetensors",
            "state/optimizer.safetensors",
            "state/progress.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "trajectory.json",
        ];
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_killed_run_ends_with_the_same_bytes() {
        let undisturbed = tempfile::tempdir().unwrap();
        train(undisturbed.path(), &tiny::pretrain_recipe(17), &Silent).unwrap();
        let disturbed = tempfile::tempdir().unwrap();
        for last in [3, 7, 10, 16, 17] {
            let killed = catch_unwind(AssertUnwindSafe(|| {
                train(disturbed.path(), &tiny::pretrain_recipe(17), &Kill(last)).map(|_| ())
            }));
            assert!(killed.is_err());
            // What a process leaves that is killed while it writes.
            for leftover in ["steps/pretrain/.000015.tmp/state", "checkpoints/.pretrain.tmp"] {
                fs::create_dir_all(disturbed.path().join(leftover)).unwrap();
                fs::write(disturbed.path().join(leftover).join("half"), "half").unwrap();
            }
        }
        train(disturbed.path(), &tiny::pretrain_recipe(17), &Silent).unwrap();
        for part in ["checkpoints", "steps"] {
            assert_eq!(files(&disturbed.path().join(part)), files(&undisturbed.path().join(part)));
        }
        let n_steps = |root: &Path| fs::read_to_string(root.join("logs/pretrain.jsonl")).unwrap().lines().count();
        assert_eq!((n_steps(disturbed.path()), n_steps(undisturbed.path())), (17, 17));
    }

    #[test]
    fn computing_activations_again_changes_no_byte() {
        let (kept, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        train(kept.path(), &tiny::pretrain_recipe(7), &Silent).unwrap();
        let folder = RunFolder::new(again.path()).recomputing(true);
        train_in(&folder, &tiny::pretrain_recipe(7), &Silent).unwrap();
        for part in ["checkpoints", "steps"] {
            assert_eq!(files(&again.path().join(part)), files(&kept.path().join(part)));
        }
    }

    /// Hears what a phase warns of.
    #[derive(Default)]
    struct Warnings(RefCell<Vec<String>>);

    impl Progress for Warnings {
        fn begin(&self, _: &str, _: u64) {}
        fn step(&self, _: &str, _: u64, _: f64, _: u64) {}
        fn end(&self, _: &str) {}
        fn warn(&self, _: &str, _: u64, message: &str) {
            self.0.borrow_mut().push(message.to_owned());
        }
    }

    #[test]
    fn what_goes_on_on_another_device_is_told_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let recipe = tiny::pretrain_recipe(17);
        catch_unwind(AssertUnwindSafe(|| train(root.path(), &recipe, &Kill(8)).map(|_| ()))).unwrap_err();
        let newest = crate::state::find_newest(&root.path().join("steps/pretrain")).unwrap().unwrap();
        let begun = Stretch { after_step: 0, device: "cuda:0, a GPU".to_owned(), precision: "bf16".to_owned() };
        let mut lineage = Lineage::load(&newest).unwrap().unwrap();
        let steps = lineage.steps;
        lineage.computed = vec![begun.clone()];
        fs::write(newest.join("lineage.json"), serde_json::to_string(&lineage).unwrap()).unwrap();
        let warnings = Warnings::default();
        let checkpoint = train(root.path(), &recipe, &warnings).unwrap();
        assert_eq!(warnings.0.into_inner(), ["what began on another device goes on with cpu in f32"]);
        assert_eq!(checkpoint.lineage.unwrap().computed, [begun, Stretch::on(&Device::Cpu, steps)]);
    }

    #[test]
    fn a_finished_phase_is_loaded_and_another_recipe_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let trained = train(root.path(), &tiny::pretrain_recipe(4), &Silent).unwrap();
        let loaded = train(root.path(), &tiny::pretrain_recipe(4), &Kill(1)).unwrap();
        assert_eq!(trained.content_hash().unwrap(), loaded.content_hash().unwrap());
        let refused = train(root.path(), &tiny::pretrain_recipe(6), &Silent);
        assert!(matches!(refused, Err(Error::OtherOrigin { what: "recipe", .. })));
    }

    #[test]
    fn an_unwritable_run_folder_fails_before_the_first_step() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("checkpoints"), "a file where a folder should be").unwrap();
        let error = train(root.path(), &tiny::pretrain_recipe(4), &Kill(1)).unwrap_err().to_string();
        assert!(error.starts_with("could not ") && error.contains("checkpoints"), "{error}");
    }

    #[test]
    fn sequences_longer_than_the_context_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let recipe = PretrainRecipe { sequence_tokens: crate::recipe::count(65), ..tiny::pretrain_recipe(4) };
        let error = train(root.path(), &recipe, &Silent).unwrap_err().to_string();
        assert_eq!(error, "key `pretrain.sequence_tokens` = 65: expected 2 to 64, the model's context");
    }

    #[test]
    fn the_outcome_does_not_depend_on_accumulation_beyond_rounding() {
        let loss = |accumulate: usize, batch_sequences: usize| {
            let root = tempfile::tempdir().unwrap();
            let recipe = PretrainRecipe {
                accumulate: crate::recipe::count(accumulate),
                batch_sequences: crate::recipe::count(batch_sequences),
                ..tiny::pretrain_recipe(8)
            };
            train(root.path(), &recipe, &Silent).unwrap().lineage.unwrap().metrics["loss_nats"]
        };
        let (split, whole) = (loss(2, 1), loss(1, 2));
        assert!((split - whole).abs() < 1e-4, "{split} {whole}");
    }
}
