//! The optimizer: Adam with decoupled weight decay and a bound on the gradient norm.

#[cfg(feature = "cuda")]
use crate::cuda::DeviceMoments;
use crate::element::sum_terms;
use crate::error::{Error, Result};
use crate::parallel::{for_each_block, map_blocks};
use crate::simd::vectorize;
use crate::storage::{Values, slice_of};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Tensor, Var};
use std::borrow::Cow;
use std::cell::RefCell;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// Elements of one unit of parallel work and of one partial sum of the norm.
///
/// Where the parameters are divided among processes, each part of one begins at a multiple of this: then neither the norm nor an
/// update depends on the division.
pub const BLOCK_LEN: usize = 8_192;

/// What stays the same over all steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the corrected mean of squares.
    pub eps: f64,
    /// Rate of the decoupled decay, for the parameters that decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; `None` leaves them alone.
    pub max_norm: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: None }
    }
}

/// The running means of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Name of the parameter.
    pub name: String,
    /// Whether weight decay applies to it.
    pub decays: bool,
    /// Mean of gradients.
    pub m: Vec<f32>,
    /// Mean of squared gradients.
    pub v: Vec<f32>,
}

/// AdamW with visible state.
///
/// ```text
/// g = clip(gradient);  p = p - lr wd p
/// m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
/// p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
/// ```
///
/// Parameters are changed in place; what was computed from them before keeps their old values only as far as it was
/// copied, exactly as with [`Var::set`].
///
/// # Reference
/// Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the order of operations of `torch.optim.AdamW`.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    /// Where the parameters are on a GPU, only what they began with.
    moments: Vec<Moments>,
    #[cfg(feature = "cuda")]
    device: Option<Arc<DeviceMoments>>,
}

impl AdamW {
    /// Zero moments for `params`; `decays` says which of them weight decay applies to.
    pub fn new(params: &[(String, Var)], config: AdamWConfig, decays: impl Fn(&str, &Var) -> bool) -> Self {
        let moments = params.iter().map(|(name, var)| Moments {
            name: name.clone(),
            decays: decays(name, var),
            m: vec![0.0; var.elem_count()],
            v: vec![0.0; var.elem_count()],
        });
        Self {
            config,
            step: 0,
            moments: moments.collect(),
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Updates `params`, which are those of [`AdamW::new`] in the same order, and returns the global norm of the
    /// gradients before it was bounded.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for other parameters, [`Error::NonFiniteGradient`] when the norm is infinite or not
    /// a number; nothing is updated then.
    pub fn step(&mut self, params: &[(String, Var)], grads: &[Tensor], lr: f64) -> Result<f64> {
        self.check(params, grads)?;
        #[cfg(feature = "cuda")]
        if are_on_gpu(params) {
            return self.step_on_gpu(params, grads, lr);
        }
        let norms = squared_norms(grads)?;
        let norm = norms.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            let worst = norms.iter().position(|norm| !norm.is_finite()).unwrap_or(0);
            return Err(Error::NonFiniteGradient { name: params[worst].0.clone() });
        }
        self.update(params, grads, lr, norm)?;
        Ok(norm)
    }

    /// As [`AdamW::step`], for parameters that are a part of a larger set: `norm` is the finite global norm of the gradients of the whole
    /// set, which bounds these.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for other parameters; nothing is updated then.
    pub fn step_part(&mut self, params: &[(String, Var)], grads: &[Tensor], lr: f64, norm: f64) -> Result<()> {
        self.check(params, grads)?;
        #[cfg(feature = "cuda")]
        if are_on_gpu(params) {
            let device = self.on_gpu(params)?;
            self.step += 1;
            let (keeps, rates) = self.rates_on_gpu(lr);
            return device.step_part(params, grads, &keeps, rates, norm);
        }
        self.update(params, grads, lr, norm)
    }

    /// The sum of the squares of each gradient that [`AdamW::step_part`] is to take.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] for other parameters.
    pub fn squared_norms(&mut self, params: &[(String, Var)], grads: &[Tensor]) -> Result<Vec<f64>> {
        self.check(params, grads)?;
        #[cfg(feature = "cuda")]
        if are_on_gpu(params) {
            return self.on_gpu(params)?.squared_norms(params, grads);
        }
        squared_norms(grads)
    }

    fn update(&mut self, params: &[(String, Var)], grads: &[Tensor], lr: f64, norm: f64) -> Result<()> {
        let clip = match self.config.max_norm {
            Some(max_norm) if norm > max_norm => max_norm / norm,
            _ => 1.0,
        };
        self.step += 1;
        let mut rates = self.rates(clip, lr);
        for (((_, var), grad), moments) in params.iter().zip(grads).zip(&mut self.moments) {
            rates.keep = kept_of_decay(moments, &self.config, lr);
            let update = Update { rates, moments: RefCell::new((&mut moments.m, &mut moments.v)) };
            var.inplace_op2(&grad.detach().contiguous()?, &update)?;
        }
        Ok(())
    }

    /// The numbers of the step that was just counted.
    fn rates(&self, clip: f64, lr: f64) -> Rates<f32> {
        let (beta1, beta2) = (self.config.beta1, self.config.beta2);
        let age = self.step as f64;
        Rates {
            clip: clip as f32,
            keep: 1.0,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            fresh1: (1.0 - beta1) as f32,
            fresh2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powf(age))) as f32,
            correction: (1.0 / (1.0 - beta2.powf(age)).sqrt()) as f32,
            eps: self.config.eps as f32,
        }
    }

    /// [`AdamW::step`] for parameters on a GPU.
    #[cfg(feature = "cuda")]
    fn step_on_gpu(&mut self, params: &[(String, Var)], grads: &[Tensor], lr: f64) -> Result<f64> {
        let device = self.on_gpu(params)?;
        self.step += 1;
        let (keeps, rates) = self.rates_on_gpu(lr);
        let norm = device.step(params, grads, &keeps, rates)?;
        if norm.is_finite() {
            return Ok(norm);
        }
        self.step -= 1;
        let mut worst = 0;
        for (idx, grad) in grads.iter().enumerate().rev() {
            if !grad.sqr()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                worst = idx;
            }
        }
        Err(Error::NonFiniteGradient { name: params[worst].0.clone() })
    }

    /// The moments on the GPU that the parameters lie on.
    #[cfg(feature = "cuda")]
    fn on_gpu(&mut self, params: &[(String, Var)]) -> Result<Arc<DeviceMoments>> {
        let device = match self.device.take() {
            Some(device) => device,
            None => Arc::new(DeviceMoments::new(params, self.step > 0, &self.moments)?),
        };
        Ok(Arc::clone(self.device.insert(device)))
    }

    /// The numbers of the step that was just counted, as the GPU takes them: what weight decay leaves of each parameter, and the rates.
    #[cfg(feature = "cuda")]
    fn rates_on_gpu(&self, lr: f64) -> (Vec<f32>, [f32; 8]) {
        let keeps = self.moments.iter().map(|moments| kept_of_decay(moments, &self.config, lr)).collect();
        let Rates { beta1, beta2, fresh1, fresh2, step_size, correction, eps, .. } = self.rates(1.0, lr);
        let max_norm = self.config.max_norm.map_or(0.0, |max_norm| max_norm as f32);
        (keeps, [beta1, beta2, fresh1, fresh2, step_size, correction, eps, max_norm])
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The moments, in the order of the parameters.
    ///
    /// # Errors
    /// Where they cannot be copied from a GPU.
    pub fn state(&self) -> Result<Cow<'_, [Moments]>> {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            let pairs = self.moments.iter().zip(device.download()?);
            let moments =
                pairs.map(|(moments, (m, v))| Moments { name: moments.name.clone(), decays: moments.decays, m, v });
            return Ok(Cow::Owned(moments.collect()));
        }
        Ok(Cow::Borrowed(&self.moments))
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// [`Error::ParameterMismatch`] when names, order or sizes differ from those this optimizer was made for.
    pub fn restore(&mut self, steps: u64, state: Vec<Moments>) -> Result<()> {
        let of = |moments: &Moments| format!("{} of {}", moments.name, moments.m.len());
        for index in 0..self.moments.len().max(state.len()) {
            let expected = self.moments.get(index).map_or_else(|| "nothing".to_owned(), of);
            let found = state.get(index).map_or_else(|| "nothing".to_owned(), of);
            let halves_agree = state.get(index).is_none_or(|one| one.m.len() == one.v.len());
            if expected != found || !halves_agree {
                return Err(Error::ParameterMismatch { index, expected, found });
            }
        }
        for (moments, saved) in self.moments.iter_mut().zip(state) {
            moments.m = saved.m;
            moments.v = saved.v;
        }
        #[cfg(feature = "cuda")]
        {
            self.device = None;
        }
        self.step = steps;
        Ok(())
    }

    fn check(&self, params: &[(String, Var)], grads: &[Tensor]) -> Result<()> {
        let n = self.moments.len();
        if params.len() != n || grads.len() != n {
            return Err(Error::ParameterMismatch {
                index: params.len().min(grads.len()).min(n),
                expected: format!("one of {n} parameters"),
                found: format!("one of {} parameters with {} gradients", params.len(), grads.len()),
            });
        }
        for (index, ((name, var), (moments, grad))) in params.iter().zip(self.moments.iter().zip(grads)).enumerate() {
            let fits = *name == moments.name
                && var.elem_count() == moments.m.len()
                && var.dtype() == DType::F32
                && var.is_contiguous()
                && grad.dtype() == DType::F32
                && grad.shape() == var.shape();
            if !fits {
                return Err(Error::ParameterMismatch {
                    index,
                    expected: format!("{} of {} f32", moments.name, moments.m.len()),
                    found: format!(
                        "{name} of {:?} {:?}, gradient {:?} {:?}",
                        var.dims(),
                        var.dtype(),
                        grad.dims(),
                        grad.dtype()
                    ),
                });
            }
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn are_on_gpu(params: &[(String, Var)]) -> bool {
    params.first().is_some_and(|(_, var)| var.device().is_cuda())
}

/// What weight decay leaves of a parameter.
fn kept_of_decay(moments: &Moments, config: &AdamWConfig, lr: f64) -> f32 {
    let decay = if moments.decays { lr * config.weight_decay } else { 0.0 };
    (1.0 - decay) as f32
}

/// Euclidean norm over all gradients together, summed in a fixed order.
///
/// # Errors
/// [`Error`] for gradients that are not f32.
pub fn global_norm(grads: &[Tensor]) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if grads.first().is_some_and(|grad| grad.device().is_cuda()) {
        let squares = grads.iter().map(|grad| Ok(f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?)));
        return Ok(squares.sum::<candle_core::Result<f64>>()?.sqrt());
    }
    Ok(squared_norms(grads)?.iter().sum::<f64>().sqrt())
}

fn squared_norms(grads: &[Tensor]) -> Result<Vec<f64>> {
    grads.iter().map(|grad| Ok(block_squares(grad)?.iter().sum())).collect()
}

/// Sums of squares over the successive blocks of [`BLOCK_LEN`] elements of an f32 gradient on the CPU; the last may be shorter.
///
/// The square of the global norm is their sum over each gradient, summed over the gradients.
///
/// # Errors
/// [`Error`] for a gradient that is not f32.
pub fn block_squares(grad: &Tensor) -> Result<Vec<f64>> {
    let grad = grad.contiguous()?;
    let values = Values::of(&grad);
    let values = values.as_slice::<f32>()?;
    Ok(map_blocks(values.len().div_ceil(BLOCK_LEN), |idx| {
        let start = idx * BLOCK_LEN;
        f64::from(sum_squares(&values[start..values.len().min(start + BLOCK_LEN)]))
    }))
}

vectorize! {
    fn sum_squares<T>(values: &[T]) -> T {
        sum_terms(values.len(), |i| values[i] * values[i])
    }
}

/// The numbers of one step, for one parameter.
#[derive(Clone, Copy)]
struct Rates<T> {
    clip: T,
    keep: T,
    beta1: T,
    beta2: T,
    fresh1: T,
    fresh2: T,
    step_size: T,
    correction: T,
    eps: T,
}

struct Update<'a> {
    rates: Rates<f32>,
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> candle_core::Result<()> {
        let grad = slice_of::<f32>(grad, grad_layout)?;
        let (CpuStorage::F32(param), Some((start, end))) = (param, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::RequiresContiguous { op: "adamw" });
        };
        let mut moments = self.moments.borrow_mut();
        let (m, v) = &mut *moments;
        let blocks = param[start..end]
            .chunks_mut(BLOCK_LEN)
            .zip(m.chunks_mut(BLOCK_LEN))
            .zip(v.chunks_mut(BLOCK_LEN))
            .zip(grad.chunks(BLOCK_LEN));
        let mut blocks: Vec<_> = blocks.collect();
        let rates = self.rates;
        for_each_block(&mut blocks, 1, |_, block| {
            for (((param, m), v), grad) in block {
                update(param, m, v, grad, rates);
            }
        });
        Ok(())
    }
}

vectorize! {
    fn update<T>(param: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], rates: Rates<T>) {
        for (((param, m), v), &grad) in param.iter_mut().zip(m).zip(v).zip(grad) {
            let g = grad * rates.clip;
            *m = *m * rates.beta1 + g * rates.fresh1;
            *v = *v * rates.beta2 + g * g * rates.fresh2;
            let root = v.sqrt() * rates.correction + rates.eps;
            *param = *param * rates.keep - rates.step_size * *m / root;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{draw, values};
    use candle_core::Device;

    const CONFIG: AdamWConfig =
        AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: Some(1.0) };

    fn params() -> Vec<(String, Var)> {
        [("matrix", vec![70, 130]), ("norm", vec![5])]
            .iter()
            .zip(1..)
            .map(|((name, dims), seed)| ((*name).to_owned(), Var::from_tensor(&draw(seed, dims, DType::F32)).unwrap()))
            .collect()
    }

    fn grads(step: u64, size: f64) -> Vec<Tensor> {
        vec![
            (draw(10 + step, &[70, 130], DType::F32) * size).unwrap(),
            (draw(50 + step, &[5], DType::F32) * size).unwrap(),
        ]
    }

    fn decays(_: &str, var: &Var) -> bool {
        var.rank() > 1
    }

    /// One parameter in f64, after `torch.optim.AdamW`'s single-tensor path.
    fn step_by_hand(p: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64], age: i32, lr: f64, decay: f64) {
        for i in 0..p.len() {
            p[i] *= 1.0 - lr * decay;
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
            let denominator = v[i].sqrt() / (1.0 - 0.95_f64.powi(age)).sqrt() + 1e-8;
            p[i] -= lr / (1.0 - 0.9_f64.powi(age)) * m[i] / denominator;
        }
    }

    #[test]
    fn equals_the_algorithm_written_out_by_hand() {
        let params = params();
        let mut optimizer = AdamW::new(&params, CONFIG, decays);
        let mut by_hand: Vec<_> = params
            .iter()
            .map(|(_, var)| (values(var), vec![0.0; var.elem_count()], vec![0.0; var.elem_count()]))
            .collect();
        for (age, size) in [(1, 1.0), (2, 1e-4), (3, 0.1)] {
            let grads = grads(age, size);
            let lr = 0.01 * age as f64;
            let norm = optimizer.step(&params, &grads, lr).unwrap();
            let exact = grads.iter().flat_map(values).map(|g| g * g).sum::<f64>().sqrt();
            assert!((norm - exact).abs() < 1e-6 * exact, "{norm} instead of {exact}");
            let clip = (1.0 / exact).min(1.0);
            for (((_, var), grad), (p, m, v)) in params.iter().zip(&grads).zip(&mut by_hand) {
                let g: Vec<f64> = values(grad).iter().map(|g| g * clip).collect();
                let decay = if var.rank() > 1 { 0.1 } else { 0.0 };
                step_by_hand(p, m, v, &g, age as i32, lr, decay);
                let worst = values(var).iter().zip(&*p).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "step {age}: {worst}");
            }
        }
    }

    #[test]
    fn a_restored_optimizer_continues_to_the_same_bits() {
        let run = |interrupted: bool| {
            let params = params();
            let mut optimizer = AdamW::new(&params, CONFIG, decays);
            for step in 0..4 {
                if interrupted && step == 2 {
                    let (steps, state) = (optimizer.steps(), optimizer.state().unwrap().to_vec());
                    optimizer = AdamW::new(&params, CONFIG, decays);
                    optimizer.restore(steps, state).unwrap();
                }
                optimizer.step(&params, &grads(step, 1.0), 0.01).unwrap();
            }
            params.iter().flat_map(|(_, var)| values(var)).map(f64::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let run = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                let params = params();
                AdamW::new(&params, CONFIG, decays).step(&params, &grads(1, 1.0), 0.01).unwrap();
                params.iter().flat_map(|(_, var)| values(var)).map(f64::to_bits).collect::<Vec<_>>()
            })
        };
        assert_eq!(run(1), run(2));
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_and_changes_nothing() {
        let params = params();
        let before: Vec<f64> = params.iter().flat_map(|(_, var)| values(var)).collect();
        let mut optimizer = AdamW::new(&params, CONFIG, decays);
        let mut grads = grads(1, 1.0);
        grads[1] = Tensor::new(&[0.0, f32::NAN, 0.0, 0.0, 0.0], &Device::Cpu).unwrap();
        let error = optimizer.step(&params, &grads, 0.01).unwrap_err();
        assert_eq!(error.to_string(), "optimizer: the gradient of `norm` is not finite");
        assert_eq!(before, params.iter().flat_map(|(_, var)| values(var)).collect::<Vec<_>>());
        assert_eq!(optimizer.steps(), 0);
    }

    #[test]
    fn state_of_other_parameters_is_refused() {
        let params = params();
        let mut optimizer = AdamW::new(&params, CONFIG, decays);
        let mut state = optimizer.state().unwrap().to_vec();
        state.swap(0, 1);
        assert!(optimizer.restore(3, state).is_err());
        assert!(optimizer.restore(3, optimizer.state().unwrap()[..1].to_vec()).is_err());
        assert!(optimizer.step(&params[..1], &grads(1, 1.0), 0.1).is_err());
    }
}
