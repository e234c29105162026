//! Each operation against its oracle, its difference quotients and itself on other numbers of threads, over shapes and data
//! that nobody chose.

use crate::attention::{AttentionSpec, PAD_SEGMENT, Segments, rope_attention};
use crate::check::{
    assert_block_equals_oracle, assert_close, assert_equals_differences, assert_equals_oracle,
    assert_same_for_any_threads, draw, values,
};
use crate::{
    AdamW, AdamWConfig, AttentionBlockSpec, DecodeSpec, FeedForwardSpec, IGNORE, KvCache, Positions, attention_block,
    decode_attention, embedding, feed_forward, linear, linear_cross_entropy, linear_log_probs, oracle, rms_norm,
    swiglu,
};
use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;

const EPS: f64 = 1e-5;

/// What a function of `inputs` must hold: the oracle's value and gradients, and the same bits on any number of threads.
fn check(
    inputs: &[Tensor],
    fast: &(dyn Fn(&[Tensor]) -> Result<Tensor> + Sync),
    slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    assert_equals_oracle(inputs, fast, slow);
    assert_same_for_any_threads(inputs, fast);
}

/// [`check`] for the halves of a layer.
fn check_block(
    inputs: &[Tensor],
    fast: &(dyn Fn(&[Tensor]) -> Result<Tensor> + Sync),
    slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    assert_block_equals_oracle(inputs, fast, slow);
    assert_same_for_any_threads(inputs, fast);
}

/// Documents of random lengths; where `pads`, some tokens and some whole rows are padding.
fn segments(batch: usize, len: usize, mean_len: usize, pads: bool, seed: u64) -> Segments {
    let chance = values(&draw(seed, &[batch * (len + 1)], DType::F64));
    let (mut ids, mut positions) = (Vec::new(), Vec::new());
    for chance in chance.chunks(len + 1) {
        let is_empty = pads && chance[len] > 0.6;
        let (mut id, mut position) = (0, 0);
        for &x in &chance[..len] {
            if (x + 1.0) * (mean_len as f64) < 2.0 {
                (id, position) = (id + 1, 0);
            }
            let is_padding = is_empty || (pads && x > 0.9);
            ids.push(if is_padding { PAD_SEGMENT } else { id });
            positions.push(position);
            position += 1;
        }
    }
    Segments { ids, positions, batch, len }
}

/// Shapes of attention: heads, key heads, width of a head.
fn specs() -> impl Strategy<Value = AttentionSpec> {
    (1_usize..4, 1_usize..4, 1_usize..8).prop_map(|(n_kv_heads, group, half)| AttentionSpec {
        n_heads: n_kv_heads * group,
        n_kv_heads,
        head_dim: 2 * half,
        rope_theta: 10_000.0,
    })
}

/// Attention as published decoders have it: scores and positions of every kind, windows shorter and longer than the documents.
pub(crate) fn decode_specs() -> impl Strategy<Value = DecodeSpec> {
    let window = prop_oneof![Just(None), (1_usize..80).prop_map(Some)];
    let soft_cap = prop_oneof![Just(None), (0.1_f64..5.0).prop_map(Some)];
    (specs(), 0_usize..4, 0.05_f64..3.0, window, soft_cap).prop_map(|(shape, kind, scale, window, soft_cap)| {
        let frequencies = (0..shape.head_dim / 2).map(|i| 1.3 / (i as f64 + 1.0));
        let positions = match kind {
            0 => Positions::None,
            1 => Positions::Frequencies(frequencies.collect()),
            2 => Positions::Theta,
            _ => return shape.into(),
        };
        DecodeSpec { shape, positions, scale, window, soft_cap }
    })
}

/// Targets with some ignored, and weights with some zero.
fn labels(n: usize, vocab: usize, seed: u64) -> (Vec<u32>, Vec<f32>) {
    let pick = values(&draw(seed, &[n], DType::F64));
    let target = |x: f64| if x > 0.6 { IGNORE } else { ((x + 1.0) * 0.625 * vocab as f64) as u32 };
    let targets = pick.iter().map(|&x| target(x).min(if x > 0.6 { IGNORE } else { vocab as u32 - 1 })).collect();
    let weights = pick.iter().map(|&x| if x < -0.8 { 0.0 } else { (x as f32 + 1.5) / n as f32 }).collect();
    (targets, weights)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rms_norm_equals_its_oracle(rows in 1_usize..150, width in 1_usize..70, seed in 0_u64..1_000) {
        // The gradient of a short row is a difference of almost equal terms, of which f32 leaves little.
        let dtype = if width < 8 { DType::F64 } else { DType::F32 };
        let inputs = [draw(seed, &[rows, width], dtype), draw(seed + 1, &[width], dtype)];
        check(&inputs, &|i| Ok(rms_norm(&i[0], &i[1], EPS)?), &|i| oracle::rms_norm(&i[0], &i[1], EPS));
    }

    #[test]
    fn linear_equals_its_oracle(rows in 1_usize..200, n_in in 1_usize..300, n_out in 1_usize..150, seed in 0_u64..1_000) {
        let inputs = [draw(seed, &[rows, n_in], DType::F32), draw(seed + 1, &[n_out, n_in], DType::F32)];
        check(&inputs, &|i| Ok(linear(&i[0], &i[1])?), &|i| oracle::linear(&i[0], &i[1]));
    }

    #[test]
    fn embedding_equals_its_oracle(n in 1_usize..700, rows in 1_usize..150, width in 1_usize..20, seed in 0_u64..1_000) {
        let ids: Vec<u32> = values(&draw(seed, &[n], DType::F64))
            .iter()
            .map(|x| ((0.5 * (x + 1.0) * rows as f64) as u32).min(rows as u32 - 1))
            .collect();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        let inputs = [draw(seed + 1, &[rows, width], DType::F32)];
        check(&inputs, &|i| Ok(embedding(&ids, &i[0])?), &|i| oracle::embedding(&ids, &i[0]));
    }

    #[test]
    fn swiglu_equals_its_oracle(rows in 1_usize..120, width in 1_usize..70, size in 0.1_f64..30.0, seed in 0_u64..1_000) {
        let inputs = [(draw(seed, &[rows, 2 * width], DType::F32) * size).unwrap()];
        check(&inputs, &|i| Ok(swiglu(&i[0])?), &|i| oracle::swiglu(&i[0]));
    }

    #[test]
    fn attention_equals_its_oracle(
        spec in specs(),
        batch in 1_usize..4,
        len in prop_oneof![Just(1_usize), 2_usize..130],
        mean_len in 1_usize..60,
        pads in any::<bool>(),
        seed in 0_u64..1_000,
    ) {
        let segments = segments(batch, len, mean_len, pads, seed);
        let inputs = [draw(seed + 1, &[batch, len, spec.qkv_width()], DType::F32)];
        check(
            &inputs,
            &|i| Ok(rope_attention(&i[0], &spec, &segments)?),
            &|i| oracle::rope_attention(&i[0], &spec, &segments),
        );
    }

    #[test]
    fn the_blocks_of_a_layer_equal_their_oracles(
        attention in specs(),
        batch in 1_usize..4,
        len in prop_oneof![Just(1_usize), 2_usize..70],
        width in 8_usize..40,
        inner in 1_usize..60,
        pads in any::<bool>(),
        seed in 0_u64..1_000,
    ) {
        let segments = segments(batch, len, 20, pads, seed);
        let x = draw(seed + 1, &[batch, len, width], DType::F32);
        let spec = AttentionBlockSpec { width, eps: EPS, attention, recomputes: false };
        check_block(
            &[x.clone(), draw(seed + 2, &[spec.n_weights()], DType::F32)],
            &|i| Ok(attention_block(&i[0], &i[1], &spec, &segments)?),
            &|i| oracle::attention_block(&i[0], &i[1], &spec, &segments),
        );
        let spec = FeedForwardSpec { width, inner, eps: EPS, recomputes: false };
        check_block(
            &[x, draw(seed + 3, &[spec.n_weights()], DType::F32)],
            &|i| Ok(feed_forward(&i[0], &i[1], &spec)?),
            &|i| oracle::feed_forward(&i[0], &i[1], &spec),
        );
    }

    #[test]
    fn cross_entropy_and_log_probs_equal_their_oracles(
        rows in prop_oneof![1_usize..80, 250_usize..300],
        vocab in 1_usize..150,
        width in 1_usize..50,
        seed in 0_u64..1_000,
    ) {
        let (targets, weights) = labels(rows, vocab, seed);
        let inputs = [draw(seed + 1, &[rows, width], DType::F32), draw(seed + 2, &[vocab, width], DType::F32)];
        check(
            &inputs,
            &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?),
            &|i| oracle::linear_cross_entropy(&i[0], &i[1], &targets, &weights),
        );
        check(
            &inputs,
            &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?),
            &|i| oracle::linear_log_probs(&i[0], &i[1], &targets),
        );
    }

    #[test]
    fn decoding_in_pieces_equals_attention_over_the_whole(
        spec in decode_specs(),
        lengths in prop::collection::vec(1_usize..70, 1..5),
        pieces in prop::collection::vec(1_usize..20, 1..6),
        seed in 0_u64..1_000,
    ) {
        let documents: Vec<Tensor> =
            lengths.iter().zip(seed..).map(|(&n, seed)| draw(seed, &[n, spec.shape.qkv_width()], DType::F32)).collect();
        let mut cache = KvCache::new(1, lengths.len(), 70, &spec.shape);
        let mut read = vec![Vec::new(); lengths.len()];
        for turn in 0.. {
            let (mut tokens, mut rows) = (Vec::new(), Vec::new());
            for (row, document) in documents.iter().enumerate() {
                let start = cache.lengths()[row];
                let n = pieces[(turn + row) % pieces.len()].min(lengths[row] - start);
                if n > 0 {
                    tokens.push(document.narrow(0, start, n).unwrap());
                    rows.resize(rows.len() + n, row);
                }
            }
            if rows.is_empty() {
                break;
            }
            let y = decode_attention(&Tensor::cat(&tokens, 0).unwrap(), &spec, &rows, &mut cache, 0).unwrap();
            cache.advance(&rows).unwrap();
            for (i, &row) in rows.iter().enumerate() {
                read[row].push(y.narrow(0, i, 1).unwrap());
            }
        }
        for (document, found) in documents.iter().zip(&read) {
            let expected = oracle::decode_attention(document, &spec).unwrap();
            assert_close("row", &Tensor::cat(found, 0).unwrap(), &expected, 1e-5);
            if spec == spec.shape.into() {
                let whole = Segments::whole_rows(1, document.dim(0).unwrap());
                let plain = oracle::rope_attention(&document.unsqueeze(0).unwrap(), &spec.shape, &whole).unwrap();
                assert_close("plain row", &expected, &plain.squeeze(0).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn adamw_equals_its_formula(
        n in 1_usize..20_000,
        beta1 in 0.0_f64..0.99,
        beta2 in 0.5_f64..0.999,
        decay in 0.0_f64..0.5,
        max_norm in prop_oneof![Just(None), (0.1_f64..5.0).prop_map(Some)],
        seed in 0_u64..1_000,
    ) {
        let start = draw(seed, &[n], DType::F32);
        let params = [("p".to_owned(), Var::from_tensor(&start).unwrap())];
        let config = AdamWConfig { beta1, beta2, eps: 1e-8, weight_decay: decay, max_norm };
        let mut optimizer = AdamW::new(&params, config, |_, _| true);
        let (mut p, mut m, mut v) = (values(&start), vec![0.0; n], vec![0.0; n]);
        for step in 1..4 {
            let grad = draw(seed + step, &[n], DType::F32);
            optimizer.step(&params, std::slice::from_ref(&grad), 1e-2).unwrap();
            let grad = values(&grad);
            let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
            let clip = max_norm.map_or(1.0, |bound| (bound / norm).min(1.0));
            for i in 0..n {
                let g = grad[i] * clip;
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let (m, v) = (m[i] / (1.0 - beta1.powi(step as i32)), v[i] / (1.0 - beta2.powi(step as i32)));
                p[i] = p[i] * (1.0 - 1e-2 * decay) - 1e-2 * m / (v.sqrt() + 1e-8);
            }
        }
        assert_close("parameter", params[0].1.as_tensor(), &Tensor::new(p, &Device::Cpu).unwrap(), 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_are_difference_quotients(
        spec in specs(),
        rows in 1_usize..5,
        width in 1_usize..6,
        vocab in 1_usize..7,
        pads in any::<bool>(),
        seed in 0_u64..1_000,
    ) {
        let x = |dims: &[usize], offset: u64| draw(seed + offset, dims, DType::F64);
        assert_equals_differences(
            &[x(&[rows, width], 0), x(&[width], 1)],
            // A row near zero is too steep for a difference quotient where epsilon is small.
            &|i| Ok(rms_norm(&i[0], &i[1], 0.5)?),
        );
        assert_equals_differences(&[x(&[rows, width], 2), x(&[vocab, width], 3)], &|i| Ok(linear(&i[0], &i[1])?));
        assert_equals_differences(&[x(&[rows, 2 * width], 4)], &|i| Ok(swiglu(&i[0])?));
        let ids = Tensor::new((0..rows).map(|i| (i % vocab) as u32).collect::<Vec<_>>(), &Device::Cpu).unwrap();
        assert_equals_differences(&[x(&[vocab, width], 5)], &|i| Ok(embedding(&ids, &i[0])?));
        let segments = segments(2, rows, 3, pads, seed);
        assert_equals_differences(
            &[x(&[2, rows, spec.qkv_width()], 6)],
            &|i| Ok(rope_attention(&i[0], &spec, &segments)?),
        );
        let (targets, weights) = labels(rows, vocab, seed);
        let inputs = [x(&[rows, width], 7), x(&[vocab, width], 8)];
        assert_equals_differences(&inputs, &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?));
        assert_equals_differences(&inputs, &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?));
    }
}
