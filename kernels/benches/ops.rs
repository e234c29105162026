//! Time of each operation beside its oracle, forward and backward, at the shapes of a small training step: 8 sequences of 128
//! tokens, d 128, 4 heads, ffn 384, vocabulary 2,048.

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{AdamW, AdamWConfig, AttentionBlockSpec, AttentionSpec, FeedForwardSpec, KvCache, Segments, oracle};
use std::hint::black_box;

const BATCH: usize = 8;
const LEN: usize = 128;
const WIDTH: usize = 128;
const FFN: usize = 384;
const VOCAB: usize = 2_048;
const EPS: f64 = 1e-5;
const SPEC: AttentionSpec = AttentionSpec { n_heads: 4, n_kv_heads: 4, head_dim: 32, rope_theta: 10_000.0 };

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

fn draw(dims: &[usize]) -> Tensor {
    Tensor::randn(0_f32, 1.0, dims, &Device::Cpu).unwrap()
}

/// Measures `fast` and `slow` with their backward passes, one after the other.
fn measure(criterion: &mut Criterion, name: &str, dims: &[&[usize]], fast: Op<'_>, slow: Op<'_>) {
    let inputs: Vec<Tensor> =
        dims.iter().map(|dims| Var::from_tensor(&draw(dims)).unwrap().as_tensor().clone()).collect();
    let mut group = criterion.benchmark_group(format!("cpu/{name}"));
    for (side, op) in [("fused", fast), ("oracle", slow)] {
        group.bench_function(side, |bencher| bencher.iter(|| op(black_box(&inputs)).unwrap().backward().unwrap()));
    }
    group.finish();
}

fn differentiable(criterion: &mut Criterion) {
    kernels::keep_freed_pages();
    kernels::set_threads(std::thread::available_parallelism().map_or(1, usize::from)).unwrap();
    let rows = BATCH * LEN;
    measure(criterion, "rms_norm", &[&[rows, WIDTH], &[WIDTH]], &|i| Ok(kernels::rms_norm(&i[0], &i[1], EPS)?), &|i| {
        oracle::rms_norm(&i[0], &i[1], EPS)
    });
    measure(criterion, "linear", &[&[rows, WIDTH], &[2 * FFN, WIDTH]], &|i| Ok(kernels::linear(&i[0], &i[1])?), &|i| {
        oracle::linear(&i[0], &i[1])
    });
    measure(criterion, "swiglu", &[&[rows, 2 * FFN]], &|i| Ok(kernels::swiglu(&i[0])?), &|i| oracle::swiglu(&i[0]));
    let segments = Segments::whole_rows(BATCH, LEN);
    measure(
        criterion,
        "rope_attention",
        &[&[BATCH, LEN, SPEC.qkv_width()]],
        &|i| Ok(kernels::rope_attention(&i[0], &SPEC, &segments)?),
        &|i| oracle::rope_attention(&i[0], &SPEC, &segments),
    );
    let spec = AttentionBlockSpec { width: WIDTH, eps: EPS, attention: SPEC, recomputes: false };
    measure(
        criterion,
        "attention_block",
        &[&[BATCH, LEN, WIDTH], &[spec.n_weights()]],
        &|i| Ok(kernels::attention_block(&i[0], &i[1], &spec, &segments)?),
        &|i| oracle::attention_block(&i[0], &i[1], &spec, &segments),
    );
    let spec = FeedForwardSpec { width: WIDTH, inner: FFN, eps: EPS, recomputes: false };
    measure(
        criterion,
        "feed_forward",
        &[&[rows, WIDTH], &[spec.n_weights()]],
        &|i| Ok(kernels::feed_forward(&i[0], &i[1], &spec)?),
        &|i| oracle::feed_forward(&i[0], &i[1], &spec),
    );
    let ids: Vec<u32> = (0..rows).map(|i| (i * 7_919 % VOCAB) as u32).collect();
    let tensor = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
    measure(criterion, "embedding", &[&[VOCAB, WIDTH]], &|i| Ok(kernels::embedding(&tensor, &i[0])?), &|i| {
        oracle::embedding(&tensor, &i[0])
    });
    let weights = vec![1.0 / rows as f32; rows];
    measure(
        criterion,
        "linear_cross_entropy",
        &[&[rows, WIDTH], &[VOCAB, WIDTH]],
        &|i| Ok(kernels::linear_cross_entropy(&i[0], &i[1], &ids, &weights)?),
        &|i| oracle::linear_cross_entropy(&i[0], &i[1], &ids, &weights),
    );
}

fn others(criterion: &mut Criterion) {
    let params = [("p".to_owned(), Var::from_tensor(&draw(&[1_000_000])).unwrap())];
    let grads = [draw(&[1_000_000])];
    let mut optimizer = AdamW::new(&params, AdamWConfig { max_norm: Some(1.0), ..AdamWConfig::default() }, |_, _| true);
    criterion.bench_function("cpu/adamw/1M", |bencher| {
        bencher.iter(|| optimizer.step(&params, black_box(&grads), 1e-6).unwrap());
    });

    let (n_rows, n_cached) = (32, 64);
    let mut cache = KvCache::new(1, n_rows, n_cached + 1, &SPEC);
    let spec = SPEC.into();
    let prompt_rows: Vec<usize> = (0..n_rows * n_cached).map(|i| i / n_cached).collect();
    let prompt = draw(&[n_rows * n_cached, SPEC.qkv_width()]);
    kernels::decode_attention(&prompt, &spec, &prompt_rows, &mut cache, 0).unwrap();
    cache.advance(&prompt_rows).unwrap();
    let rows: Vec<usize> = (0..n_rows).collect();
    let token = draw(&[n_rows, SPEC.qkv_width()]);
    criterion.bench_function("cpu/decode_attention/32_rows_behind_64", |bencher| {
        bencher.iter(|| kernels::decode_attention(black_box(&token), &spec, &rows, &mut cache, 0).unwrap());
    });
}

criterion_group!(benches, differentiable, others);
criterion_main!(benches);
