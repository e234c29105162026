//! One side of the comparison with PyTorch (`benches/peers`): does one unit of work per line of standard input, and prints
//! what it took.
//!
//! `peer_steps write SIZE DIR` writes a model with fresh weights as a Hugging Face folder, which both sides load;
//! `peer_steps train SIZE DIR`, `decode SIZE DIR` and `product SIZE DIR` are the units of work.

use candle_core::{Device, Tensor};
use lm::generation::{Choice, Prompt, generate};
use lm::{Checkpoint, Decoder, ModelConfig, Tokenizer, Weights};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;
use trainer::batch::{Batch, Example};
use trainer::folder::RunFolder;
use trainer::loss::{number, token_loss};
use trainer::recipe::{OptimizerRecipe, Positive, ScheduleRecipe};
use trainer::session::{Metrics, Origin, Phase, Session, Silent, Start};

/// Rows, prompt tokens and new tokens of the decoding task.
const DECODE: (usize, usize, usize) = (32, 16, 64);
/// Side of the square matrices of the product task.
const SIDE: usize = 1_536;

/// A model and the batch that it is trained on.
struct Size {
    config: ModelConfig,
    n_sequences: usize,
    sequence_tokens: usize,
}

impl Size {
    fn named(name: &str) -> Result<Self, Box<dyn Error>> {
        let (layers, width, heads, ffn, vocab, context, n_sequences) = match name {
            "S" => (4, 128, 4, 384, 2_048, 128, 32),
            "M" => (6, 384, 6, 1_024, 8_192, 256, 16),
            other => return Err(format!("size `{other}`: expected S or M").into()),
        };
        let config = ModelConfig {
            vocab_size: vocab,
            hidden_size: width,
            intermediate_size: ffn,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: width / heads,
            max_position_embeddings: context,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        };
        Ok(Self { config, n_sequences, sequence_tokens: context })
    }

    /// `n` token ids without any regularity that matters; `model.py` has the same formula.
    fn ids(&self, n: usize, seed: usize) -> Vec<u32> {
        (0..n).map(|i| ((i * 7_919 + i / 3 + seed * 101) % self.config.vocab_size) as u32).collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    kernels::keep_freed_pages();
    let n_threads = std::env::var("PEER_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    kernels::set_threads(n_threads)?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [task, size, folder] = args.as_slice() else {
        return Err("usage: peer_steps write|train|decode|product S|M DIR".into());
    };
    let (size, folder) = (Size::named(size)?, Path::new(folder));
    match task.as_str() {
        "write" => write_model(&size, folder),
        "train" => train(&size, folder),
        "decode" => decode(&size, folder),
        "product" => multiply(),
        other => Err(format!("task `{other}`: expected write, train, decode or product").into()),
    }
}

fn write_model(size: &Size, folder: &Path) -> Result<(), Box<dyn Error>> {
    let checkpoint = Checkpoint {
        config: size.config.clone(),
        weights: Weights::random(&size.config, 1)?,
        extra: Vec::new(),
        tokenizer: Tokenizer::train([], 262, size.sequence_tokens)?,
        lineage: None,
    };
    Ok(checkpoint.save(folder)?)
}

/// Calls `work(n)` for the n-th line of standard input and prints the seconds it took with the number it returned.
fn serve(mut work: impl FnMut(usize) -> Result<f64, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    println!("ready");
    for (n, line) in std::io::stdin().lock().lines().enumerate() {
        line?;
        let start = Instant::now();
        let value = work(n)?;
        println!("{}", json!({ "seconds": start.elapsed().as_secs_f64(), "value": value }));
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// One optimizer step, its loss: forward, backward, clipping, `AdamW`.
fn train(size: &Size, folder: &Path) -> Result<(), Box<dyn Error>> {
    let start = Checkpoint::load(folder)?;
    let root = folder.join("train");
    let run = RunFolder::new(&root);
    let phase = Phase {
        name: "peer",
        folder: &run,
        origin: Origin { seed: 1, parent: None, recipe: String::new(), data: BTreeMap::new() },
        lr: Positive::new(1e-3)?,
        optimizer: &OptimizerRecipe::default(),
        schedule: &ScheduleRecipe::Constant(trainer::recipe::ConstantRecipe { warmup_steps: 0 }),
        steps: 1_000_000,
        save_every: 0,
    };
    let mut session = Session::open(phase, Start::from_checkpoint(&start), &Silent)?;
    serve(|n| {
        let examples: Vec<Example> = (0..size.n_sequences)
            .map(|row| Example::plain(size.ids(size.sequence_tokens, n * size.n_sequences + row)))
            .collect();
        let rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
        let batch = Batch::assemble(&rows, size.sequence_tokens)?;
        let loss = token_loss(session.decoder(), &batch, batch.n_targets)?;
        let loss_nats = number(&loss)?;
        session.update(&loss, &Metrics { loss: loss_nats, tokens: batch.n_tokens(), ..Metrics::default() })?;
        Ok(loss_nats)
    })
}

/// Greedy completions of a batch of prompts, the sum of their tokens.
fn decode(size: &Size, folder: &Path) -> Result<(), Box<dyn Error>> {
    let (n_rows, n_prompt, max_new_tokens) = DECODE;
    let checkpoint = Checkpoint::load(folder)?;
    let decoder = Decoder::new(&checkpoint.config, &checkpoint.weights)?;
    serve(|n| {
        let prompts: Vec<Prompt> =
            (0..n_rows).map(|row| Prompt { ids: size.ids(n_prompt, n * n_rows + row), max_new_tokens }).collect();
        let stream = &mut lm::random::stream(1, "peer", 0);
        let completions = generate(&decoder, &prompts, Choice::Greedy, &[], stream)?;
        Ok(completions.iter().flat_map(|completion| &completion.ids).map(|&id| f64::from(id)).sum())
    })
}

/// One large square product by the `gemm` crate: the speed that a machine reaches when nothing but multiplying is done.
fn multiply() -> Result<(), Box<dyn Error>> {
    let a = Tensor::randn(0_f32, 1.0, (SIDE, SIDE), &Device::Cpu)?;
    serve(|_| {
        let product = a.matmul(&a)?;
        drop(product);
        Ok(2.0 * (SIDE * SIDE * SIDE) as f64)
    })
}
