//! The smallest world in which a phase runs: for this crate's tests.

use crate::batch::{Batch, Example};
use crate::data::{DataFile, Document};
use crate::recipe::{ConstantRecipe, Positive, PretrainRecipe, ScheduleRecipe, SftRecipe, count, steps};
use lm::config::ModelConfig;
use lm::tokenizer::Tokenizer;
use std::path::PathBuf;

const PEOPLE: [(&str, &str); 6] =
    [("Ada", "Lund"), ("Bo", "Oslo"), ("Cleo", "Rome"), ("Dag", "Lima"), ("Eve", "Kyiv"), ("Finn", "Bern")];

/// A corpus of one sentence per person.
pub(crate) fn corpus() -> DataFile<Document> {
    let document = |(name, town): &(&str, &str)| Document {
        text: format!("{name} lives in {town}. The town of {name} is {town}."),
        source: "bio".to_owned(),
    };
    data_file("corpus.jsonl", PEOPLE.iter().map(document).collect())
}

/// A tokenizer of bytes and a few merges.
pub(crate) fn tokenizer() -> Tokenizer {
    let corpus = corpus();
    Tokenizer::train(corpus.items.iter().map(|d| d.text.as_str()), 280, 64).unwrap()
}

/// A decoder with every feature: two layers, grouped queries, tied embeddings.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 280,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        initializer_range: 0.1,
        bos_token_id: Some(0),
        eos_token_ids: vec![5],
        pad_token_id: Some(1),
    }
}

/// Pretraining of `n` steps that saves every five.
pub(crate) fn pretrain_recipe(n: u64) -> PretrainRecipe {
    PretrainRecipe {
        steps: steps(n),
        batch_sequences: count(2),
        sequence_tokens: count(64),
        save_every: 5,
        lr: Positive::new(1e-2).unwrap(),
        schedule: ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 2 }),
        ..PretrainRecipe::default()
    }
}

/// Fine-tuning of `n` steps that saves every five.
pub(crate) fn sft_recipe(n: u64) -> SftRecipe {
    let PretrainRecipe { batch_sequences, sequence_tokens, save_every, lr, schedule, .. } = pretrain_recipe(n);
    let steps = steps(n);
    SftRecipe { steps, batch_sequences, sequence_tokens, save_every, lr, schedule, ..SftRecipe::default() }
}

/// A batch of one row.
pub(crate) fn one_row(examples: &[&Example], sequence_tokens: usize) -> Batch {
    Batch::assemble(&[examples.to_vec()], sequence_tokens).unwrap()
}

/// A file of these items, as if read from disk.
pub(crate) fn data_file<T>(name: &str, items: Vec<T>) -> DataFile<T> {
    DataFile { path: PathBuf::from(name), hash: format!("hash of {name}"), lines: (1..=items.len()).collect(), items }
}
