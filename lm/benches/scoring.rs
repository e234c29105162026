//! Time to score closed-set items: 64 questions of 48 tokens with four answers of three tokens each.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm::Decoder;
use lm::scoring::{TokenRequest, score};
use std::hint::black_box;

mod model;

const N_ITEMS: usize = 64;
const N_ANSWERS: usize = 4;

fn scoring(criterion: &mut Criterion) {
    model::prepare();
    let decoder = Decoder::new(&model::config(), &model::weights()).unwrap();
    let request = |idx: usize| TokenRequest {
        context: model::ids(48, idx / N_ANSWERS),
        continuation: model::ids(3, N_ITEMS + idx),
    };
    let requests: Vec<TokenRequest> = (0..N_ITEMS * N_ANSWERS).map(request).collect();
    let mut group = criterion.benchmark_group("cpu/scoring/3x128");
    group.sample_size(30).throughput(Throughput::Elements(N_ITEMS as u64));
    group.bench_function(format!("{N_ITEMS}_items_of_{N_ANSWERS}"), |bencher| {
        bencher.iter(|| score(&decoder, black_box(&requests)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, scoring);
criterion_main!(benches);
