//! What the tests of all operations share: inputs, comparisons, gradients.

use candle_core::{DType, Device, Result, Tensor, Var};

/// Values in -1..1 that depend on `seed` only.
pub(crate) fn draw(seed: u64, dims: &[usize], dtype: DType) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let values: Vec<f64> = (0..dims.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 / (1_u64 << 53) as f64) * 2.0 - 1.0
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// All values of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Panics unless all values agree within `tolerance` of the largest one.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shape");
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(1e-3_f64, |best, value| best.max(value.abs()));
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a} instead of {b} (largest {largest})");
    }
}

/// The result of `f` and the gradients of a random weighting of it for all inputs.
pub(crate) fn differentiate(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let grads = weigh(&y).backward().unwrap();
    let grads = vars.iter().map(|var| grads.get(var).expect("a gradient for every input").clone());
    (y.clone(), grads.collect())
}

/// [`assert_equals_oracle`] for the halves of a layer: a chain of half a dozen steps, which on a GPU in bf16 are rounded each.
pub(crate) fn assert_block_equals_oracle(
    inputs: &[Tensor],
    fast: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    assert_equals_oracle_on_the_cpu(inputs, fast, slow);
    #[cfg(feature = "cuda")]
    on_gpu::assert_equals_oracle(inputs, fast, slow, 2e-2);
}

/// Panics unless `fast` and `slow` have the same value and gradients, in f32; with the feature `cuda` also on a GPU.
pub(crate) fn assert_equals_oracle(
    inputs: &[Tensor],
    fast: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    assert_equals_oracle_on_the_cpu(inputs, fast, slow);
    #[cfg(feature = "cuda")]
    on_gpu::assert_equals_oracle(inputs, fast, slow, 1e-2);
}

fn assert_equals_oracle_on_the_cpu(
    inputs: &[Tensor],
    fast: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (fast_y, fast_grads) = differentiate(inputs, fast);
    let (slow_y, slow_grads) = differentiate(inputs, slow);
    assert_close("value", &fast_y, &slow_y, 1e-5);
    for (i, (fast, slow)) in fast_grads.iter().zip(&slow_grads).enumerate() {
        assert_close(&format!("gradient of input {i}"), fast, slow, 1e-5);
    }
}

/// Panics unless the gradients of `f` are its central differences; inputs in f64.
pub(crate) fn assert_equals_differences(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f64 = 1e-5;
    let (_, grads) = differentiate(inputs, f);
    for (input_idx, grad) in grads.iter().enumerate() {
        let original = values(&inputs[input_idx]);
        let mut expected = Vec::with_capacity(original.len());
        for i in 0..original.len() {
            let shifted = |by: f64| {
                let mut moved = original.clone();
                moved[i] += by;
                let mut inputs = inputs.to_vec();
                inputs[input_idx] = Tensor::from_vec(moved, inputs[input_idx].dims(), &Device::Cpu).unwrap();
                weigh(&f(&inputs).unwrap()).to_scalar::<f64>().unwrap()
            };
            expected.push((shifted(STEP) - shifted(-STEP)) / (2.0 * STEP));
        }
        let expected = Tensor::from_vec(expected, grad.dims(), &Device::Cpu).unwrap();
        assert_close(&format!("difference quotient of input {input_idx}"), grad, &expected, 1e-6);
    }
}

/// Panics unless value and gradients have the same bits with one and with two threads.
pub(crate) fn assert_same_for_any_threads(inputs: &[Tensor], f: &(dyn Fn(&[Tensor]) -> Result<Tensor> + Sync)) {
    let run = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let (y, grads) = differentiate(inputs, f);
            let bits = |tensor: &Tensor| values(tensor).iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            std::iter::once(&y).chain(&grads).map(bits).collect::<Vec<_>>()
        })
    };
    let alone = run(1);
    assert_eq!(alone, run(2));
    assert_eq!(alone, run(3));
}

fn weigh(y: &Tensor) -> Tensor {
    let weights = draw(99, y.dims(), y.dtype());
    (y * weights).unwrap().sum_all().unwrap()
}

#[cfg(feature = "cuda")]
pub(crate) mod on_gpu {
    //! The same comparisons on a GPU, where there is one.

    use super::{assert_close, draw, values};
    use candle_core::{DType, Device, Result, Tensor, Var};
    use std::sync::OnceLock;

    /// The first GPU; `KERNELS_NEED_GPU=1` makes it an error that there is none.
    pub(crate) fn gpu() -> Option<&'static Device> {
        static GPU: OnceLock<Option<Device>> = OnceLock::new();
        let open = || match Device::new_cuda_with_stream(0) {
            Ok(device) => Some(device),
            Err(error) if std::env::var_os("KERNELS_NEED_GPU").is_some() => panic!("no GPU: {error}"),
            Err(_) => None,
        };
        GPU.get_or_init(open).as_ref()
    }

    /// Panics unless `fast` on the GPU equals `slow` on the CPU in f64: in f32 each number within 1e-5 of the largest, in bf16
    /// the whole within `tolerance` of its norm, the first input in bf16 and the others, which are weights, in f32.
    pub(crate) fn assert_equals_oracle(
        inputs: &[Tensor],
        fast: &dyn Fn(&[Tensor]) -> Result<Tensor>,
        slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
        tolerance: f64,
    ) {
        if inputs[0].dtype() != DType::F32 {
            return;
        }
        for dtype in [DType::F32, DType::BF16] {
            let Some((found, expected)) = both(inputs, dtype, fast, slow) else { return };
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = if i == 0 { "value".to_owned() } else { format!("gradient of input {}", i - 1) };
                if dtype == DType::F32 {
                    assert_close(&format!("{what} on the GPU"), found, expected, 1e-5);
                } else {
                    let error = distance(found, expected);
                    assert!(error <= tolerance, "{what} on the GPU in bf16: {error} of its norm");
                }
            }
        }
    }

    /// Value and gradients of `fast` on the GPU and of `slow` on the CPU; `None` where there is no GPU, or where documents
    /// lie in several pieces, which is refused there.
    pub(crate) fn both(
        inputs: &[Tensor],
        dtype: DType,
        fast: &dyn Fn(&[Tensor]) -> Result<Tensor>,
        slow: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Option<(Vec<Tensor>, Vec<Tensor>)> {
        let gpu = gpu()?;
        let rounded: Vec<Tensor> =
            inputs.iter().map(|x| x.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap()).collect();
        let own = |(i, x): (usize, &Tensor)| {
            let dtype = if i == 0 { dtype } else { DType::F32 };
            x.to_dtype(dtype).unwrap().to_device(gpu).unwrap()
        };
        let own: Vec<Tensor> = rounded.iter().enumerate().map(own).collect();
        match fast(&own) {
            Err(error) if error.to_string().contains("in one piece") => return None,
            result => result.map(drop).unwrap(),
        }
        Some((differentiate(&own, fast), differentiate(&rounded, slow)))
    }

    /// The result of `f` and the gradients of a weighting of it, on the CPU.
    fn differentiate(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
        let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let y = f(&tensors).unwrap();
        let weights = draw(99, y.dims(), DType::BF16).to_dtype(y.dtype()).unwrap().to_device(y.device()).unwrap();
        let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = vars.iter().map(|var| grads.get(var).expect("a gradient for every input").clone());
        std::iter::once(y.clone()).chain(grads).map(|x| x.to_device(&Device::Cpu).unwrap()).collect()
    }

    /// Norm of the difference over the norm of what is expected.
    pub(crate) fn distance(found: &Tensor, expected: &Tensor) -> f64 {
        assert_eq!(found.dims(), expected.dims());
        let (found, expected) = (values(found), values(expected));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        // Not-a-number is no small distance.
        if difference == 0.0 { 0.0 } else { difference / norm(&mut expected.iter().copied()).max(1e-30) }
    }
}
