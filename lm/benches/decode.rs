//! Time of one decode step: the next token's logits for many sequences, each behind 64 cached tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm::Decoder;
use std::hint::black_box;

mod model;

const N_CACHED: usize = 64;

fn decode_step(criterion: &mut Criterion) {
    model::prepare();
    let decoder = Decoder::new(&model::config(), &model::weights()).unwrap();
    let mut group = criterion.benchmark_group("cpu/decode_step/3x128");
    for n_rows in [1, 64] {
        let mut cache = decoder.new_cache(n_rows, N_CACHED + 1).unwrap();
        let prompt_rows: Vec<usize> = (0..n_rows * N_CACHED).map(|i| i / N_CACHED).collect();
        decoder.extend(&mut cache, &model::ids(n_rows * N_CACHED, 0), &prompt_rows).unwrap();
        let rows: Vec<usize> = (0..n_rows).collect();
        let ids = model::ids(n_rows, 1);
        group.throughput(Throughput::Elements(n_rows as u64));
        group.bench_function(format!("{n_rows}_rows"), |bencher| {
            bencher.iter(|| {
                let hidden = decoder.extend(&mut cache, black_box(&ids), &rows).unwrap();
                let logits = kernels::linear(&hidden, decoder.lm_head()).unwrap();
                for &row in &rows {
                    cache.truncate(row, N_CACHED).unwrap();
                }
                logits
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode_step);
criterion_main!(benches);
