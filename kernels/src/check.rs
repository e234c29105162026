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

/// Panics unless `fast` and `slow` have the same value and gradients, in f32.
pub(crate) fn assert_equals_oracle(
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
