//! What `gpu/check` runs of ours on a GPU: each task prints one JSON object.
//!
//! `gpu_steps write SIZE DIR` writes a model with fresh weights as a Hugging Face folder, which both sides load;
//! `agree`, `train`, `recompute` and `decode` work on such a folder; `kernels` times the operations at the shapes of size L.

use candle_core::{DType, Device, Tensor, Var};
use kernels::{AdamW, AdamWConfig, AttentionBlockSpec, AttentionSpec, FeedForwardSpec, Segments};
use lm::generation::{Choice, Prompt, generate};
use lm::{Checkpoint, Decoder, ModelConfig, Tokenizer, Weights};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;
use trainer::batch::{Batch, Example};
use trainer::folder::RunFolder;
use trainer::loss::{number, token_loss};
use trainer::recipe::{OptimizerRecipe, Positive, ScheduleRecipe};
use trainer::session::{Metrics, Origin, Phase, Session, Silent, Start};

/// Steps before the clock starts: kernels are loaded, buffers found.
const WARM_UP: usize = 10;
/// Dense bf16 of an H100 or H200 by its data sheet, FLOP/s.
const PEAK: f64 = 989e12;
/// Rows, prompt tokens and new tokens of the decoding task.
const DECODE: (usize, usize, usize) = (64, 64, 128);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A model and the batch that it is trained on.
struct Size {
    config: ModelConfig,
    n_sequences: usize,
    sequence_tokens: usize,
    lr: f64,
}

impl Size {
    fn named(name: &str) -> Outcome<Self> {
        let (layers, width, heads, ffn, vocab, context, n_sequences, lr) = match name {
            "S" => (4, 128, 4, 384, 2_048, 128, 32, 1e-3),
            "L" => (12, 768, 12, 2_048, 50_304, 1_024, 32, 3e-4),
            other => return Err(format!("size `{other}`: expected S or L").into()),
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
        Ok(Self { config, n_sequences, sequence_tokens: context, lr })
    }

    /// `n` token ids that repeat a little; `gpu/peer.py` has the same formula.
    fn ids(&self, n: usize, seed: usize) -> Vec<u32> {
        (0..n).map(|i| ((i * 7_919 + i / 3 + seed * 101) % self.config.vocab_size) as u32).collect()
    }

    /// The batch of step `n`; every eighth is the same.
    fn batch(&self, n: usize) -> Outcome<Batch> {
        let seed = |row: usize| n % 8 * self.n_sequences + row;
        let examples: Vec<Example> =
            (0..self.n_sequences).map(|row| Example::plain(self.ids(self.sequence_tokens, seed(row)))).collect();
        let rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
        Ok(Batch::assemble(&rows, self.sequence_tokens)?)
    }

    /// FLOP of training on a token: `6 N` for the products with N weights, and `6 L T d` for causal attention (two products of
    /// T / 2 by d forward, twice as much backward).
    fn flop_per_token(&self, n_parameters: usize) -> f64 {
        let attention = self.config.num_hidden_layers * self.sequence_tokens * self.config.hidden_size;
        6.0 * (n_parameters + attention) as f64
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(printed) => println!("{printed}"),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

fn run(args: &[&str]) -> Outcome<Value> {
    kernels::keep_freed_pages();
    kernels::set_threads(std::thread::available_parallelism().map_or(1, usize::from))?;
    Ok(match args {
        ["write", size, folder] => write_model(&Size::named(size)?, folder.as_ref())?,
        ["agree", size, folder] => agree(&Size::named(size)?, folder.as_ref())?,
        ["train", size, folder, steps] => train(&Size::named(size)?, folder.as_ref(), steps.parse()?, false)?,
        ["recompute", size, folder, steps] => train(&Size::named(size)?, folder.as_ref(), steps.parse()?, true)?,
        ["decode", size, folder] => decode(&Size::named(size)?, folder.as_ref())?,
        ["kernels"] => time_kernels()?,
        _ => {
            return Err("usage: gpu_steps write|agree|decode S|L DIR, train|recompute S|L DIR STEPS, or kernels".into());
        }
    })
}

fn write_model(size: &Size, folder: &Path) -> Outcome<Value> {
    let checkpoint = Checkpoint {
        config: size.config.clone(),
        weights: Weights::random(&size.config, 1)?,
        extra: Vec::new(),
        tokenizer: Tokenizer::train([], 262, size.sequence_tokens)?,
        lineage: None,
    };
    checkpoint.save(folder)?;
    Ok(json!({ "parameters": checkpoint.weights.n_parameters() }))
}

/// Loss and gradients of one batch on the GPU, in f32 and bf16, against f32 on the CPU: the largest distance of a
/// parameter's gradient, as a share of its norm.
fn agree(size: &Size, folder: &Path) -> Outcome<Value> {
    let checkpoint = Checkpoint::load(folder)?;
    let gpu = lm::device::open("cuda")?;
    let batch = size.batch(0)?;
    let differentiate = |device: &Device, dtype: DType| -> Outcome<(f64, Vec<Tensor>)> {
        let vars = checkpoint
            .weights
            .iter()
            .map(|(_, tensor)| Ok(Var::from_tensor(&tensor.to_device(device)?)?))
            .collect::<Outcome<Vec<_>>>()?;
        let mut rest = vars.iter();
        let weights = checkpoint.weights.map(|_| Ok(rest.next().expect("one for each").as_tensor().clone()))?;
        let decoder = Decoder::new(&checkpoint.config, &weights)?.computing_in(dtype);
        let loss = token_loss(&decoder, &batch, batch.n_targets)?;
        let found = decoder.backward(&loss)?;
        let gradient = |var: &Var| -> Outcome<Tensor> {
            Ok(found.get(var).ok_or("a parameter has no gradient")?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
        };
        Ok((number(&loss)?, vars.iter().map(gradient).collect::<Outcome<_>>()?))
    };
    let (expected_loss, expected) = differentiate(&Device::Cpu, DType::F32)?;
    let mut outcome = json!({ "loss_cpu_f32": expected_loss });
    for (name, dtype, most) in [("f32", DType::F32, 1e-4), ("bf16", DType::BF16, 3e-2)] {
        let (loss, found) = differentiate(&gpu, dtype)?;
        let mut worst = 0.0_f64;
        for (found, expected) in found.iter().zip(&expected) {
            let norm = |x: &Tensor| -> Outcome<f64> { Ok(x.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
            let distance = norm(&(found - expected)?)? / norm(expected)?;
            worst = if distance.is_nan() { f64::INFINITY } else { worst.max(distance) };
        }
        let loss_error = (loss - expected_loss).abs() / expected_loss;
        outcome[format!("loss_{name}")] = json!(loss);
        outcome[format!("worst_gradient_{name}")] = json!(worst);
        outcome[format!("ok_{name}")] = json!(worst <= most && loss_error <= most);
    }
    Ok(outcome)
}

/// Bytes of the GPU in use, by whatever process.
fn memory(device: &Device) -> Outcome<u64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let (free, total) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info()?;
        return Ok((total - free) as u64);
    }
    Err(format!("{:?} is no GPU", device.location()).into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Optimizer steps of a session: forward, backward, clipping, `AdamW`, log; with activations kept or computed again.
fn train(size: &Size, folder: &Path, steps: usize, recomputes: bool) -> Outcome<Value> {
    let device = lm::device::open("cuda")?;
    let start = Checkpoint::load(folder)?;
    let n_parameters = start.weights.n_parameters();
    let root = folder.join("train");
    let run = RunFolder::new(&root).on(device.clone()).recomputing(recomputes);
    let phase = Phase {
        name: "check",
        folder: &run,
        origin: Origin { seed: 1, parent: None, recipe: String::new(), data: BTreeMap::new() },
        lr: Positive::new(size.lr)?,
        optimizer: &OptimizerRecipe::default(),
        schedule: &ScheduleRecipe::Constant(trainer::recipe::ConstantRecipe { warmup_steps: 0 }),
        steps: 1_000_000,
        save_every: 0,
    };
    let mut session = Session::open(phase, Start::from_checkpoint(&start), &Silent)?;
    let batches = (0..8).map(|n| size.batch(n)).collect::<Outcome<Vec<_>>>()?;
    let (mut losses, mut seconds, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    // Until the host has handed out the forward pass, has the loss, and has the norm of the gradients.
    let mut until = [Vec::new(), Vec::new(), Vec::new()];
    for step in 0..steps {
        let clock = Instant::now();
        let batch = &batches[step % 8];
        let loss = token_loss(session.decoder(), batch, batch.n_targets)?;
        let forward_s = clock.elapsed().as_secs_f64();
        let loss_nats = session.accumulate(&loss)?;
        let loss_s = clock.elapsed().as_secs_f64();
        drop(loss);
        session.apply(&Metrics { loss: loss_nats, tokens: batch.n_tokens(), ..Metrics::default() })?;
        if step >= WARM_UP {
            seconds.push(clock.elapsed().as_secs_f64());
            for (times, s) in until.iter_mut().zip([forward_s, loss_s, clock.elapsed().as_secs_f64()]) {
                times.push(s * 1e3);
            }
        }
        losses.push(loss_nats);
        if step == WARM_UP || (step + 1) % (steps / 10).max(1) == 0 {
            bytes.push(memory(&device)?);
        }
    }
    let [forward, loss, norm] = until.map(median);
    let n_tokens = size.n_sequences * size.sequence_tokens;
    let tokens_per_s = n_tokens as f64 / median(seconds);
    Ok(json!({
        "parameters": n_parameters,
        "steps": steps,
        "tokens_per_step": n_tokens,
        "tokens_per_s": tokens_per_s,
        "mfu": tokens_per_s * size.flop_per_token(n_parameters) / PEAK,
        "losses": losses.iter().enumerate().filter(|(i, _)| *i < 20 || i % 20 == 0).map(|(_, x)| x).collect::<Vec<_>>(),
        "memory_bytes": bytes,
        "host_ms": { "forward_handed_out": forward, "loss_there": loss, "norm_there": norm },
    }))
}

/// Completions of a batch of prompts: the most likely tokens, and drawn ones.
fn decode(size: &Size, folder: &Path) -> Outcome<Value> {
    let (n_rows, n_prompt, max_new_tokens) = DECODE;
    let device = lm::device::open("cuda")?;
    let checkpoint = Checkpoint::load(folder)?;
    let weights = checkpoint.weights.map(|tensor| Ok(tensor.to_device(&device)?.to_dtype(DType::BF16)?))?;
    let decoder = Decoder::new(&checkpoint.config, &weights)?;
    let prompts: Vec<Prompt> = (0..n_rows).map(|row| Prompt { ids: size.ids(n_prompt, row), max_new_tokens }).collect();
    let time = |choice: Choice| -> Outcome<(f64, Vec<u32>)> {
        let mut seconds = Vec::new();
        let mut first = Vec::new();
        for _ in 0..4 {
            let clock = Instant::now();
            let completions = generate(&decoder, &prompts, choice, &[], &mut lm::random::stream(1, "check", 0))?;
            seconds.push(clock.elapsed().as_secs_f64());
            first = completions[0].ids[..8].to_vec();
        }
        Ok(((n_rows * max_new_tokens) as f64 / median(seconds.split_off(1)), first))
    };
    let (greedy, first) = time(Choice::Greedy)?;
    let (drawn, _) = time(Choice::Temperature(1.0))?;
    Ok(json!({ "rows": n_rows, "prompt_tokens": n_prompt, "new_tokens": max_new_tokens,
               "tokens_per_s": greedy, "drawn_tokens_per_s": drawn, "first_ids": first }))
}

/// Milliseconds of `work` on the GPU, the median of several runs.
fn time(device: &Device, mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    const RUNS: usize = 5;
    const REPEATS: usize = 10;
    work()?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        device.synchronize()?;
        let clock = Instant::now();
        for _ in 0..REPEATS {
            work()?;
        }
        device.synchronize()?;
        runs.push(clock.elapsed().as_secs_f64() * 1e3 / REPEATS as f64);
    }
    Ok(median(runs))
}

/// Each operation in bf16 at the shapes of size L, forward alone and with its backward pass, ms.
fn time_kernels() -> Outcome<Value> {
    let device = lm::device::open("cuda")?;
    let size = Size::named("L")?;
    let (batch, len, d) = (size.n_sequences, size.sequence_tokens, size.config.hidden_size);
    let (n, f, vocab) = (batch * len, size.config.intermediate_size, size.config.vocab_size);
    let draw = |dims: &[usize], dtype: DType| -> Outcome<Tensor> {
        Ok((Tensor::randn(0_f32, 1.0, dims, &device)? * 0.5)?.to_dtype(dtype)?)
    };
    let attention = AttentionSpec { n_heads: 12, n_kv_heads: 12, head_dim: 64, rope_theta: 10_000.0 };
    let block = AttentionBlockSpec { width: d, eps: 1e-5, attention, recomputes: false };
    let feed_forward = FeedForwardSpec { width: d, inner: f, eps: 1e-5, recomputes: false };
    let segments = Segments::whole_rows(batch, len);
    let ids: Vec<u32> = size.ids(n, 3);
    let id_tensor = Tensor::from_slice(&ids, n, &Device::Cpu)?;
    let weights = vec![1.0 / n as f32; n];
    type Op<'a> = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'a>;
    /// Name, shapes and types of the inputs, and the function.
    type Timed<'a> = (&'a str, Vec<(Vec<usize>, DType)>, Op<'a>);
    let ops: Vec<Timed> = vec![
        (
            "rms_norm",
            vec![(vec![n, d], DType::BF16), (vec![d], DType::F32)],
            Box::new(|i| Ok(kernels::rms_norm(&i[0], &i[1], 1e-5)?)),
        ),
        ("swiglu", vec![(vec![n, 2 * f], DType::BF16)], Box::new(|i| Ok(kernels::swiglu(&i[0])?))),
        (
            "rope_attention",
            vec![(vec![batch, len, 3 * d], DType::BF16)],
            Box::new(|i| Ok(kernels::rope_attention(&i[0], &attention, &segments)?)),
        ),
        (
            "attention_block",
            vec![(vec![batch, len, d], DType::BF16), (vec![block.n_weights()], DType::F32)],
            Box::new(|i| Ok(kernels::attention_block(&i[0], &i[1], &block, &segments)?)),
        ),
        (
            "feed_forward",
            vec![(vec![n, d], DType::BF16), (vec![feed_forward.n_weights()], DType::F32)],
            Box::new(|i| Ok(kernels::feed_forward(&i[0], &i[1], &feed_forward)?)),
        ),
        ("embedding", vec![(vec![vocab, d], DType::F32)], Box::new(|i| Ok(kernels::embedding(&id_tensor, &i[0])?))),
        (
            "linear_cross_entropy",
            vec![(vec![n, d], DType::BF16), (vec![vocab, d], DType::F32)],
            Box::new(|i| Ok(kernels::linear_cross_entropy(&i[0], &i[1], &ids, &weights)?)),
        ),
    ];
    let mut outcome = serde_json::Map::new();
    for (name, inputs, op) in ops {
        let tensors = inputs.iter().map(|(dims, dtype)| draw(dims, *dtype)).collect::<Outcome<Vec<_>>>()?;
        let vars = tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let forward = time(&device, || op(&tensors).map(drop).map_err(Into::into))?;
        let both = time(&device, || {
            op(&tracked)?.backward()?;
            Ok(())
        })?;
        outcome.insert(name.to_owned(), json!({ "forward_ms": forward, "with_backward_ms": both }));
    }
    let params = [("p".to_owned(), Var::from_tensor(&draw(&[124_000_000], DType::F32)?)?)];
    let grads = [draw(&[124_000_000], DType::F32)?];
    let mut optimizer = AdamW::new(&params, AdamWConfig { max_norm: Some(1.0), ..AdamWConfig::default() }, |_, _| true);
    let step = time(&device, || optimizer.step(&params, &grads, 1e-6).map(drop).map_err(Into::into))?;
    outcome.insert("adamw_124M".to_owned(), json!({ "step_ms": step }));
    Ok(Value::Object(outcome))
}
