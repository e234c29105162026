//! Time to render a report with 500 failing items.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[expect(dead_code, reason = "the healthy sample is not measured")]
#[path = "../tests/sample/mod.rs"]
mod sample;

const N_FAILURES: usize = 500;

fn render(criterion: &mut Criterion) {
    let mut diagnosis = sample::failing();
    let cases = &mut diagnosis.lineages[0].failures;
    *cases = cases.iter().cloned().cycle().take(N_FAILURES).collect();
    let mut group = criterion.benchmark_group("cpu/render");
    group.throughput(Throughput::Elements(N_FAILURES as u64));
    group.bench_function("500_failures", |bencher| {
        bencher.iter(|| reports::render_html(black_box(&diagnosis)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, render);
criterion_main!(benches);
