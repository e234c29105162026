//! Time of one training step: forward, backward, clipping, `AdamW` and log of 8 packed sequences of 128 tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm::Tokenizer;
use std::collections::BTreeMap;
use std::hint::black_box;
use trainer::batch::{Batch, Example};
use trainer::folder::RunFolder;
use trainer::loss::token_loss;
use trainer::recipe::{OptimizerRecipe, Positive, ScheduleRecipe};
use trainer::session::{Metrics, Origin, Phase, Session, Silent, Start};

#[path = "../../lm/benches/model/mod.rs"]
mod model;

const N_SEQUENCES: usize = 8;
const SEQUENCE_TOKENS: usize = 128;

fn train_step(criterion: &mut Criterion) {
    model::prepare();
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::new(root.path());
    let phase = Phase {
        name: "bench",
        folder: &folder,
        origin: Origin { seed: 1, parent: None, recipe: String::new(), data: BTreeMap::new() },
        lr: Positive::new(1e-3).unwrap(),
        optimizer: &OptimizerRecipe::default(),
        schedule: &ScheduleRecipe::default(),
        steps: 1_000_000,
        save_every: 0,
    };
    let (config, tokenizer) = (model::config(), Tokenizer::train([], 262, SEQUENCE_TOKENS).unwrap());
    let start = Start { config: &config, weights: model::weights(), extra: Vec::new(), tokenizer: &tokenizer };
    let mut session = Session::open(phase, start, &Silent).unwrap();
    let examples: Vec<Example> = (0..N_SEQUENCES).map(|i| Example::plain(model::ids(SEQUENCE_TOKENS, i))).collect();
    let rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
    let batch = Batch::assemble(&rows, SEQUENCE_TOKENS).unwrap();

    let mut group = criterion.benchmark_group("cpu/train_step/3x128");
    group.sample_size(30).throughput(Throughput::Elements(batch.n_tokens()));
    group.bench_function(format!("{N_SEQUENCES}x{SEQUENCE_TOKENS}"), |bencher| {
        bencher.iter(|| {
            let loss = token_loss(session.decoder(), black_box(&batch), batch.n_targets).unwrap();
            session.update(&loss, &Metrics { tokens: batch.n_tokens(), ..Metrics::default() }).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
