//! What only a GPU does: tensor-core tiles, the fused optimizer, the cache on the device. Without a GPU nothing is checked
//! here unless `KERNELS_NEED_GPU=1` forbids that.

use crate::attention::{AttentionSpec, Segments, rope_attention};
use crate::check::on_gpu::{assert_equals_oracle, both, distance, gpu};
use crate::check::{assert_close, draw, values};
use crate::{
    AdamW, AdamWConfig, AttentionBlockSpec, DecodeLayer, Draw, FeedForwardSpec, HandedOver, KvCache, LayersSpec,
    PackedWeight, attention_block, choose, decode_attention, decode_layers, embedding, embedding_as, feed_forward,
    layers, layers_of_parts, linear_cross_entropy, linear_log_probs, oracle,
};
use candle_core::{DType, Device, Tensor, Var};

thread_local! {
    /// Whether the kernels that run on any card are wanted where there are others for this one.
    pub(super) static ANY_CARD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn spec(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionSpec {
    AttentionSpec { n_heads, n_kv_heads, head_dim, rope_theta: 10_000.0 }
}

/// Documents of the given lengths in each row, filled up with padding.
fn packed(rows: &[&[usize]], len: usize) -> Segments {
    let mut segments = Segments { ids: vec![], positions: vec![], batch: rows.len(), len };
    for lengths in rows {
        let documents = lengths.iter().enumerate().flat_map(|(id, &n)| (0..n).map(move |t| (id as u32, t as u32)));
        let padding = std::iter::repeat((crate::PAD_SEGMENT, 0));
        let (ids, positions): (Vec<u32>, Vec<u32>) = documents.chain(padding).take(len).unzip();
        segments.ids.extend(ids);
        segments.positions.extend(positions);
    }
    segments
}

#[test]
fn tiles_of_every_width_equal_the_oracle() {
    for any_card in [false, true] {
        ANY_CARD.set(any_card);
        compare_tiles();
    }
}

fn compare_tiles() {
    for (head_dim, n_heads, n_kv_heads) in [(32, 4, 4), (32, 6, 2), (64, 2, 2), (64, 4, 1), (128, 1, 1), (128, 4, 2)] {
        let spec = spec(n_heads, n_kv_heads, head_dim);
        for segments in [
            Segments::whole_rows(1, 1),
            Segments::whole_rows(2, 64),
            Segments::whole_rows(1, 65),
            Segments::padded_rows(&[200, 0, 129, 1], 200),
            packed(&[&[70, 1, 130, 33], &[10; 20], &[250]], 257),
            // The last tile of queries is not full, and of other documents than most keys.
            packed(&[&[70, 60], &[100, 30]], 130),
        ] {
            let inputs = [draw(1, &[segments.batch, segments.len, spec.qkv_width()], DType::F32)];
            assert_equals_oracle(
                &inputs,
                &|i| Ok(rope_attention(&i[0], &spec, &segments)?),
                &|i| oracle::rope_attention(&i[0], &spec, &segments),
                1e-2,
            );
        }
    }
}

#[test]
fn wide_blocks_equal_their_oracles() {
    let (width, segments) = (128, packed(&[&[70, 60], &[100]], 130));
    let small = |seed: u64, n: usize| (draw(seed, &[n], DType::F32) * 0.2).unwrap();
    let spec = AttentionBlockSpec { width, eps: 1e-5, attention: spec(2, 1, 64), recomputes: false };
    let x = draw(1, &[2, 130, width], DType::F32);
    assert_equals_oracle(
        &[x.clone(), small(2, spec.n_weights())],
        &|i| Ok(attention_block(&i[0], &i[1], &spec, &segments)?),
        &|i| oracle::attention_block(&i[0], &i[1], &spec, &segments),
        1e-2,
    );
    let spec = FeedForwardSpec { width, inner: 264, eps: 1e-5, recomputes: false };
    assert_equals_oracle(
        &[x, small(3, spec.n_weights())],
        &|i| Ok(feed_forward(&i[0], &i[1], &spec)?),
        &|i| oracle::feed_forward(&i[0], &i[1], &spec),
        1e-2,
    );
}

#[test]
fn activations_computed_again_change_no_bit() {
    let (width, segments) = (128, packed(&[&[70, 60], &[100]], 130));
    let stack = |recomputes: bool| LayersSpec {
        n_layers: 2,
        attention: AttentionBlockSpec { width, eps: 1e-5, attention: spec(2, 1, 64), recomputes },
        feed_forward: FeedForwardSpec { width, inner: 264, eps: 1e-5, recomputes },
    };
    let weights = (draw(2, &[stack(true).n_weights()], DType::F32) * 0.2).unwrap();
    let inputs = [draw(1, &[2, 130, width], DType::F32), weights];
    let found = |recomputes: bool| {
        let stack = stack(recomputes);
        let oracle = |i: &[Tensor]| oracle::layers(&i[0], &i[1], &stack, &segments);
        both(&inputs, DType::BF16, &|i| Ok(layers(&i[0], &i[1], &stack, &segments)?), &oracle).map(|(found, _)| found)
    };
    let (Some(again), Some(kept)) = (found(true), found(false)) else { return };
    for (again, kept) in again.iter().zip(&kept) {
        assert_eq!(values(again), values(kept));
    }
}

#[test]
fn gradients_that_are_handed_over_are_those_of_the_graph() {
    let Some(gpu) = gpu() else { return };
    let (width, segments) = (128, packed(&[&[70, 60], &[100]], 130));
    let stack = LayersSpec {
        n_layers: 2,
        attention: AttentionBlockSpec { width, eps: 1e-5, attention: spec(2, 1, 64), recomputes: false },
        feed_forward: FeedForwardSpec { width, inner: 264, eps: 1e-5, recomputes: false },
    };
    let var = |tensor: &Tensor| Var::from_tensor(&tensor.to_device(gpu).unwrap()).unwrap();
    let x = var(&draw(1, &[2, 130, width], DType::F32).to_dtype(DType::BF16).unwrap());
    let whole = var(&(draw(2, &[stack.n_weights()], DType::F32) * 0.2).unwrap());
    let mut start = 0;
    let mut take = |n: usize| {
        start += n;
        var(&whole.narrow(0, start - n, n).unwrap()).into_inner()
    };
    let sizes = [stack.attention.n_weights(), stack.feed_forward.n_weights()].repeat(2);
    let halves: Vec<[Tensor; 3]> =
        sizes.into_iter().map(|n| [take(width), take(1_000), take(n - width - 1_000)]).collect();
    let halves: Vec<&[Tensor]> = halves.iter().map(<[Tensor; 3]>::as_slice).collect();
    let differentiate =
        |y: Tensor| y.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let in_graph = differentiate(layers(&x, &whole, &stack, &segments).unwrap());
    let gradients = HandedOver::default();
    let beside = differentiate(layers_of_parts(&x, &halves, &stack, &segments, &gradients).unwrap());
    let [of_weights] = <[Tensor; 1]>::try_from(gradients.take()).unwrap();
    assert_eq!(values(&of_weights), values(in_graph.get(&whole).unwrap()));
    assert_eq!(values(beside.get(&x).unwrap()), values(in_graph.get(&x).unwrap()));
    assert!(gradients.take().is_empty() && beside.get(&halves[0][0]).is_none());
}

#[test]
fn an_embedding_is_rounded_after_its_rows_are_picked() {
    let Some(gpu) = gpu() else { return };
    let ids = Tensor::new((0..500_u32).map(|i| i * i % 37).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    let table = Var::from_tensor(&draw(1, &[40, 96], DType::F32).to_device(gpu).unwrap()).unwrap();
    let above = draw(2, &[500, 96], DType::BF16).to_device(gpu).unwrap();
    let [(rounded, of_rounded), (apart, of_apart)] = [
        embedding_as(&ids, &table, DType::BF16).unwrap(),
        embedding(&ids, &table).unwrap().to_dtype(DType::BF16).unwrap(),
    ]
    .map(|y| {
        let grads = (&y * &above).unwrap().to_dtype(DType::F32).unwrap().sum_all().unwrap().backward().unwrap();
        (values(&y), values(grads.get(&table).unwrap()))
    });
    assert_eq!((rounded, of_rounded), (apart, of_apart));
}

#[test]
fn chunks_of_the_vocabulary_equal_the_oracle() {
    // Of the second a row is held in shared memory; with the last all rows are taken.
    for (vocab, ignored) in [(1_003, 7), (1_004, 7), (1_004, 40)] {
        compare_heads(vocab, ignored);
    }
}

/// Of every so many rows the first is ignored.
fn compare_heads(vocab: usize, ignored: usize) {
    let (n, width) = (300, 40);
    let targets: Vec<u32> =
        (0..n).map(|i| if i % ignored == 0 { crate::IGNORE } else { (i * 37 % vocab) as u32 }).collect();
    let weights: Vec<f32> = (0..n).map(|i| (i % 5) as f32 / n as f32).collect();
    let inputs = [draw(1, &[n, width], DType::F32), draw(2, &[vocab, width], DType::F32)];
    assert_equals_oracle(
        &inputs,
        &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?),
        &|i| oracle::linear_cross_entropy(&i[0], &i[1], &targets, &weights),
        1e-2,
    );
    assert_equals_oracle(
        &inputs,
        &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?),
        &|i| oracle::linear_log_probs(&i[0], &i[1], &targets),
        1e-2,
    );
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let (spec, segments) = (spec(4, 2, 64), packed(&[&[200, 57], &[257]], 257));
    let qkv = [draw(1, &[2, 257, spec.qkv_width()], DType::F32)];
    let ids: Vec<u32> = (0..5_000).map(|i| i * i % 37).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let table = [draw(2, &[40, 96], DType::F32)];
    for dtype in [DType::F32, DType::BF16] {
        let run = || {
            let attention = |i: &[Tensor]| Ok(rope_attention(&i[0], &spec, &segments)?);
            let picked = |i: &[Tensor]| Ok(embedding(&ids, &i[0])?);
            let slow = |i: &[Tensor]| Ok(i[0].clone());
            let (mut found, _) = both(&qkv, dtype, &attention, &slow)?;
            found.extend(both(&table, dtype, &picked, &slow)?.0);
            Some(found.iter().flat_map(values).map(f64::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn steps_of_the_optimizer_equal_those_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let config = AdamWConfig { beta2: 0.95, weight_decay: 0.1, max_norm: Some(1.0), ..AdamWConfig::default() };
    // More than one share of the work, and less than a warp.
    let shapes: [(&str, &[usize]); 3] = [("matrix", &[300, 131]), ("norm", &[5]), ("other", &[33, 3])];
    let params = |device: &Device| -> Vec<(String, Var)> {
        let var = |(seed, (name, dims)): (u64, &(&str, &[usize]))| {
            let tensor = draw(seed, dims, DType::F32).to_device(device).unwrap();
            ((*name).to_owned(), Var::from_tensor(&tensor).unwrap())
        };
        (1..).zip(&shapes).map(var).collect()
    };
    let (ours, theirs) = (params(gpu), params(&Device::Cpu));
    let decays = |_: &str, var: &Var| var.rank() > 1 && var.dim(0).unwrap() > 40;
    let (mut fast, mut slow) = (AdamW::new(&ours, config, decays), AdamW::new(&theirs, config, decays));
    for (step, size) in [(1, 1.0), (2, 1e-4), (3, 0.1), (4, 3.0)] {
        let grads: Vec<Tensor> = (10 * step..)
            .zip(&shapes)
            .map(|(seed, (_, dims))| (draw(seed, dims, DType::F32) * size).unwrap())
            .collect();
        let on_gpu: Vec<Tensor> = grads.iter().map(|grad| grad.to_device(gpu).unwrap()).collect();
        let (found, expected) = (fast.step(&ours, &on_gpu, 0.01).unwrap(), slow.step(&theirs, &grads, 0.01).unwrap());
        assert!((found - expected).abs() <= 1e-6 * expected, "norm {found} instead of {expected}");
        for ((name, found), (_, expected)) in ours.iter().zip(&theirs) {
            assert_close(name, &found.to_device(&Device::Cpu).unwrap(), expected, 1e-6);
        }
        // What is saved continues.
        let (steps, state) = (fast.steps(), fast.state().unwrap().into_owned());
        for (found, expected) in state.iter().zip(slow.state().unwrap().iter()) {
            let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
            for (found, expected) in [(&found.m, &expected.m), (&found.v, &expected.v)] {
                // Relative to the largest: the means of the second step are small.
                let by = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let scaled = |values: &[f32]| (tensor(values) / f64::from(by)).unwrap();
                assert_close("means", &scaled(found), &scaled(expected), 1e-6);
            }
        }
        fast = AdamW::new(&ours, config, decays);
        fast.restore(steps, state).unwrap();
    }
}

#[test]
fn steps_of_parts_are_a_step_of_the_whole_to_the_bit() {
    let Some(gpu) = gpu() else { return };
    let config = AdamWConfig { weight_decay: 0.1, max_norm: Some(1.0), ..AdamWConfig::default() };
    let on_gpu = |seed: u64| -> Vec<Tensor> {
        let draw = |(seed, n): (u64, usize)| draw(seed, &[n], DType::F32).to_device(gpu).unwrap();
        (seed..).zip([40_000, 5, 20_000]).map(draw).collect()
    };
    let params = || -> Vec<(String, Var)> {
        let var = |(i, tensor): (usize, Tensor)| (format!("p{i}"), Var::from_tensor(&tensor).unwrap());
        on_gpu(1).into_iter().enumerate().map(var).collect()
    };
    let (whole, divided) = (params(), params());
    let mut optimizer = AdamW::new(&whole, config, |name, _| name != "p1");
    let mut parts =
        [0..1, 1..3].map(|range| (AdamW::new(&divided[range.clone()], config, |name, _| name != "p1"), range));
    for step in 1..4 {
        let grads = on_gpu(10 * step);
        let norm = optimizer.step(&whole, &grads, 0.01).unwrap();
        let mut squares = Vec::new();
        for (part, range) in &mut parts {
            squares.extend(part.squared_norms(&divided[range.clone()], &grads[range.clone()]).unwrap());
            part.step_part(&divided[range.clone()], &grads[range.clone()], 0.01, norm).unwrap();
        }
        let found = squares.iter().sum::<f64>().sqrt();
        assert!((found - norm).abs() <= 1e-12 * norm, "norm {found} instead of {norm}");
        for ((name, found), (_, expected)) in divided.iter().zip(&whole) {
            let [found, expected] = [found, expected].map(|var| values(&var.to_device(&Device::Cpu).unwrap()));
            assert!(found == expected, "{name} after step {step}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_and_is_named() {
    let Some(gpu) = gpu() else { return };
    let var = |seed| Var::from_tensor(&draw(seed, &[70], DType::F32).to_device(gpu).unwrap()).unwrap();
    let params = [("first".to_owned(), var(1)), ("second".to_owned(), var(2))];
    let before = values(&params[0].1.to_device(&Device::Cpu).unwrap());
    let mut optimizer = AdamW::new(&params, AdamWConfig::default(), |_, _| true);
    let bad = (draw(3, &[70], DType::F32).to_device(gpu).unwrap() / 0.0).unwrap();
    let grads = [draw(4, &[70], DType::F32).to_device(gpu).unwrap(), bad];
    let error = optimizer.step(&params, &grads, 0.1).unwrap_err();
    assert!(matches!(error, crate::Error::NonFiniteGradient { name } if name == "second"));
    assert_eq!(values(&params[0].1.to_device(&Device::Cpu).unwrap()), before);
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn decoding_through_all_layers_equals_that_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let (width, inner, attention) = (128, 264, spec(2, 1, 64));
    let stack = LayersSpec {
        n_layers: 2,
        attention: AttentionBlockSpec { width, eps: 1e-5, attention, recomputes: false },
        feed_forward: FeedForwardSpec { width, inner, eps: 1e-5, recomputes: false },
    };
    let decode = |device: &Device, dtype: DType| -> Vec<f64> {
        let weight = |seed: u64, dims: &[usize]| {
            let drawn = (draw(seed, dims, DType::F32) * 0.2).unwrap().to_dtype(DType::BF16).unwrap();
            drawn.to_dtype(dtype).unwrap().to_device(device).unwrap()
        };
        let packed = |seed: u64, dims: &[usize]| PackedWeight::new(&weight(seed, dims)).unwrap();
        let weights: Vec<_> = (0..2)
            .map(|layer| {
                let norms = [weight(10 * layer + 1, &[width]), weight(10 * layer + 2, &[width])];
                let qkv = packed(10 * layer + 3, &[attention.qkv_width(), width]);
                let output = packed(10 * layer + 4, &[width, attention.output_width()]);
                let gate_up = packed(10 * layer + 5, &[2 * inner, width]);
                (norms, [qkv, output, gate_up, packed(10 * layer + 6, &[width, inner])])
            })
            .collect();
        let layers = weights.iter().map(|(norms, [qkv, output, gate_up, down])| DecodeLayer {
            attention_norm: &norms[0],
            qkv,
            output,
            feed_forward_norm: &norms[1],
            gate_up,
            down,
        });
        let layers: Vec<DecodeLayer> = layers.collect();
        let mut cache = KvCache::on((device, dtype), 2, 3, 10, &attention).unwrap();
        let mut found = Vec::new();
        for (seed, rows) in [vec![0, 0, 0, 2, 2], vec![2, 0], vec![1, 1, 1, 1, 0, 2], vec![0, 1, 2]].iter().enumerate()
        {
            let x = draw(100 + seed as u64, &[rows.len(), width], DType::BF16);
            let x = x.to_dtype(dtype).unwrap().to_device(device).unwrap();
            found.extend(values(&decode_layers(&x, &layers, &stack, rows, &mut cache).unwrap()));
            cache.advance(rows).unwrap();
        }
        assert!(decode_layers(&weight(1, &[1, width]), &layers[1..], &stack, &[0], &mut cache).is_err());
        found
    };
    let tensor = |found: Vec<f64>| Tensor::new(found, &Device::Cpu).unwrap();
    let expected = tensor(decode(&Device::Cpu, DType::F32));
    assert_close("f32", &tensor(decode(gpu, DType::F32)), &expected, 1e-5);
    let error = distance(&tensor(decode(gpu, DType::BF16)), &expected);
    assert!(error <= 1e-2, "bf16: {error} of its norm");
}

#[test]
fn attention_over_a_cache_equals_attention_over_whole_sequences() {
    let Some(gpu) = gpu() else { return };
    for (spec, lengths) in
        [(spec(4, 2, 64), [150_usize, 1, 37]), (spec(2, 2, 6), [20, 40, 3]), (spec(1, 1, 128), [9, 70, 2])]
    {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
            let max_len = lengths.iter().max().unwrap() + 5;
            let qkv = draw(1, &[3, max_len, spec.qkv_width()], DType::F32).to_dtype(dtype).unwrap();
            let exact = qkv.to_dtype(DType::F64).unwrap();
            let expected = oracle::rope_attention(&exact, &spec, &Segments::whole_rows(3, max_len)).unwrap();
            let on_gpu = qkv.to_device(gpu).unwrap();
            let mut cache = KvCache::on((gpu, dtype), 1, 4, max_len, &spec).unwrap();
            // Prompts of three rows, read into rows 3, 0 and 1; row 2 takes over row 3's.
            let slots = [3, 0, 1];
            let rows: Vec<usize> = (0..3).flat_map(|row| vec![slots[row]; lengths[row]]).collect();
            let prompt: Vec<Tensor> =
                (0..3).map(|row| on_gpu.get(row).unwrap().narrow(0, 0, lengths[row]).unwrap()).collect();
            let found =
                decode_attention(&Tensor::cat(&prompt, 0).unwrap(), &spec.into(), &rows, &mut cache, 0).unwrap();
            cache.advance(&rows).unwrap();
            let wanted: Vec<Tensor> =
                (0..3).map(|row| expected.get(row).unwrap().narrow(0, 0, lengths[row]).unwrap()).collect();
            let distance_of = |found: &Tensor, wanted: &[Tensor]| {
                distance(&found.to_device(&Device::Cpu).unwrap(), &Tensor::cat(wanted, 0).unwrap())
            };
            let error = distance_of(&found, &wanted);
            assert!(error <= tolerance, "prompts: {error}");
            cache.copy_prefix(3, lengths[0], &[2]).unwrap();
            for step in 0..5 {
                let sources = [1, 0, 2, 0];
                let rows = [0, 2, 1, 3];
                let at = |row: usize| lengths[row] + step;
                let tokens: Vec<Tensor> =
                    sources.iter().map(|&row| on_gpu.get(row).unwrap().narrow(0, at(row), 1).unwrap()).collect();
                let found =
                    decode_attention(&Tensor::cat(&tokens, 0).unwrap(), &spec.into(), &rows, &mut cache, 0).unwrap();
                cache.advance(&rows).unwrap();
                let wanted: Vec<Tensor> =
                    sources.iter().map(|&row| expected.get(row).unwrap().narrow(0, at(row), 1).unwrap()).collect();
                let error = distance_of(&found, &wanted);
                assert!(error <= tolerance, "token {step}: {error}");
            }
        }
    }
}

#[test]
fn documents_in_several_pieces_are_refused() {
    let Some(gpu) = gpu() else { return };
    let spec = spec(1, 1, 4);
    let segments = Segments { ids: vec![0, 1, 0], positions: vec![0, 0, 1], batch: 1, len: 3 };
    let qkv = draw(1, &[1, 3, spec.qkv_width()], DType::F32).to_device(gpu).unwrap();
    let error = rope_attention(&qkv, &spec, &segments).unwrap_err();
    assert!(error.to_string().contains("each document in one piece"), "{error}");
}

#[test]
fn tokens_are_chosen_by_the_softmax_of_their_logits() {
    let Some(gpu) = gpu() else { return };
    for vocab in [3, 257, 1_003] {
        let logits = (draw(1, &[4, vocab], DType::F32) * 6.0).unwrap();
        let us = [0.0, 0.1, 0.37, 0.5, 0.73, 0.999_999];
        let drawn = |row: usize| us.map(move |u| (row, Draw::Softmax { temperature: 0.7, u }));
        let picks: Vec<(usize, Draw)> =
            [0, 1, 3].into_iter().flat_map(|row| std::iter::once((row, Draw::Greedy)).chain(drawn(row))).collect();
        let chosen = choose(&logits.to_device(gpu).unwrap(), &picks).unwrap();
        let rows = logits.to_vec2::<f32>().unwrap();
        for (&(row, how), &(id, log_prob)) in picks.iter().zip(&chosen) {
            let (row, id) = (&rows[row], id as usize);
            let expected = f64::from(row[id]) - crate::log_sum_exp(row);
            assert!((f64::from(log_prob) - expected).abs() < 1e-5, "{log_prob} instead of {expected}");
            match how {
                Draw::Greedy => assert_eq!(id, crate::argmax(row)),
                Draw::Softmax { temperature, u } => {
                    let weights: Vec<f64> = row.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let below: f64 = weights[..id].iter().sum::<f64>() / total;
                    let above = below + weights[id] / total;
                    assert!(below - 1e-6 <= u && u <= above + 1e-6, "{u} chose {below}..{above}");
                }
            }
        }
    }
}
