//! throwaway: full training step
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use candle_core::{DType, Device, Tensor, Var};
use kernels::*;
use std::time::Instant;
fn draw(seed: u64, dims: &[usize], s: f64) -> Tensor {
    let mut st = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5;
    let v: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| {
            st = st.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442695040888963407);
            (((st >> 11) as f64 / (1u64 << 53) as f64) * 2.0 - 1.0) as f32 * s as f32
        })
        .collect();
    Tensor::from_vec(v, dims, &Device::Cpu).unwrap()
}
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(2, |a| a.parse().unwrap());
    let steps: usize = std::env::args().nth(2).map_or(60, |a| a.parse().unwrap());
    keep_freed_pages();
    set_threads(threads).unwrap();
    let (b, t, d, f, v, layers) = (8, 128, 128, 384, 768, 3);
    let spec = AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 32, rope_theta: 1e4 };
    let mut params: Vec<(String, Var)> = vec![];
    let mut add = |n: String, dims: &[usize], s: f64, ones: bool| {
        let seed = params.len() as u64 + 1;
        let x = if ones { Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap() } else { draw(seed, dims, s) };
        params.push((n, Var::from_tensor(&x).unwrap()));
    };
    add("emb".into(), &[v, d], 0.05, false);
    for l in 0..layers {
        add(format!("{l}.n1"), &[d], 1., true);
        add(format!("{l}.qkv"), &[spec.qkv_width(), d], 0.1, false);
        add(format!("{l}.o"), &[d, d], 0.1, false);
        add(format!("{l}.n2"), &[d], 1., true);
        add(format!("{l}.gu"), &[2 * f, d], 0.1, false);
        add(format!("{l}.down"), &[d, f], 0.05, false);
    }
    add("nf".into(), &[d], 1., true);
    let n: usize = params.iter().map(|p| p.1.elem_count()).sum();
    let mut opt = AdamW::new(&params, AdamWConfig { max_norm: Some(1.0), ..Default::default() }, |_, v| v.rank() > 1);
    let seg = Segments::whole_rows(b, t);
    let ids: Vec<u32> = (0..b * t).map(|i| ((i * 7919 + i / 3) % v) as u32).collect();
    let targets: Vec<u32> = ids.iter().skip(1).chain([&0]).copied().collect();
    let idt = Tensor::from_vec(ids, (b, t), &Device::Cpu).unwrap();
    let w = vec![1.0 / (b * t) as f32; b * t];
    let (mut tf, mut tb, mut to) = (0.0, 0.0, 0.0);
    let mut best = f64::MAX;
    let mut loss0 = 0f32;
    for step in 0..steps + 5 {
        if step == 5 {
            tf = 0.;
            tb = 0.;
            to = 0.;
        }
        let t0 = Instant::now();
        let p = |i: usize| params[i].1.as_tensor();
        let mut x = embedding(&idt, p(0)).unwrap();
        for l in 0..layers {
            let o = 1 + 6 * l;
            let h = rms_norm(&x, p(o), 1e-5).unwrap();
            let a = rope_attention(&linear(&h, p(o + 1)).unwrap(), &spec, &seg).unwrap();
            x = (&x + linear(&a, p(o + 2)).unwrap()).unwrap();
            let h = rms_norm(&x, p(o + 3), 1e-5).unwrap();
            let g = swiglu(&linear(&h, p(o + 4)).unwrap()).unwrap();
            x = (&x + linear(&g, p(o + 5)).unwrap()).unwrap();
        }
        let x = rms_norm(&x, p(1 + 6 * layers), 1e-5).unwrap().reshape((b * t, d)).unwrap();
        let loss = linear_cross_entropy(&x, p(0), &targets, &w).unwrap();
        let t1 = Instant::now();
        let g = loss.backward().unwrap();
        let t2 = Instant::now();
        let grads: Vec<Tensor> = params.iter().map(|(_, v)| g.get(v).unwrap().clone()).collect();
        opt.step(&params, &grads, 1e-3).unwrap();
        let t3 = Instant::now();
        tf += (t1 - t0).as_secs_f64();
        tb += (t2 - t1).as_secs_f64();
        to += (t3 - t2).as_secs_f64();
        if step >= 5 {
            best = best.min((t3 - t0).as_secs_f64());
        }
        loss0 = loss.to_scalar().unwrap();
    }
    let s = steps as f64;
    println!(
        "{n} params, {threads} threads: fwd {:.2} bwd {:.2} opt {:.2} ms; {:.0} tok/s mean, {:.0} best; loss {loss0}",
        tf / s * 1e3,
        tb / s * 1e3,
        to / s * 1e3,
        (b * t) as f64 * s / (tf + tb + to),
        (b * t) as f64 / best
    );
}
