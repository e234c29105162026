//! The output head: log-probabilities and their gradients, never all rows by the vocabulary at once.

use super::product::{Into, Matrix, either};
use super::{Buffer, Gpu, Grid, Node, Operation, Span, int};
use crate::logits::Draw;
use candle_core::{DType, Error, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Logits that exist at the same time.
const MAX_LOGITS: usize = if cfg!(test) { 1 << 15 } else { 1 << 28 };
/// Bytes of a row of logits from which on it is held in shared memory between its two readings: of shorter ones several are in
/// work at a time.
const MIN_RESIDENT: usize = if cfg!(test) { 4_000 } else { 96 << 10 };
/// Fewest rows whose logits exist at the same time.
const MIN_ROWS: usize = 128;

/// The rows that take part and their targets.
struct Head {
    vocab: usize,
    width: usize,
    n_rows: usize,
    rows: Vec<u32>,
    targets: Vec<u32>,
}

/// Gradients of `h` and of `weight`.
struct Gradient {
    h: Buffer,
    weight: Buffer,
}

impl Head {
    fn new(weight: &Tensor, targets: &[u32], rows: &[usize]) -> Result<Self> {
        let (vocab, width) = weight.dims2()?;
        let active = rows.iter().map(|&row| targets[row]).collect();
        let rows = rows.iter().map(|&row| row as u32).collect();
        Ok(Self { vocab, width, n_rows: targets.len(), rows, targets: active })
    }

    fn is_whole(&self) -> bool {
        self.rows.len() == self.n_rows
    }

    /// Log-probabilities of the targets of the rows that take part, f32; where `scales` has a number for each, also the
    /// gradient of the sum of the scaled log-probabilities.
    fn differentiate(
        &self,
        gpu: &Gpu,
        [h, given]: [Span<'_>; 2],
        scales: Option<Span<'_>>,
    ) -> Result<(Buffer, Option<Gradient>)> {
        let (vocab, width, n) = (self.vocab, self.width, self.rows.len());
        let targets = gpu.upload(&self.targets)?;
        let rows = if self.is_whole() { None } else { Some(gpu.upload(&self.rows)?) };
        let picked = rows.as_ref().map(|rows| gpu.pick(h, rows.span(), n, width)).transpose()?;
        let values = either(picked.as_ref(), h);
        let rounded = gpu.rounded(given, vocab * width, values.dtype)?;
        let weight = Matrix::new(either(rounded.as_ref(), given), vocab, width);

        let chunk_rows = (MAX_LOGITS / vocab).max(MIN_ROWS).min(n);
        // Whole tiles, which products are fastest with.
        let chunk_rows = if chunk_rows < n { chunk_rows / MIN_ROWS * MIN_ROWS } else { chunk_rows };
        let log_probs = gpu.alloc(n, DType::F32)?;
        let logits = gpu.alloc(chunk_rows * vocab, DType::F32)?;
        let grads = scales
            .map(|scales| {
                let of_logits = gpu.alloc(chunk_rows * vocab, values.dtype)?;
                // Each chunk adds to it.
                Ok::<_, Error>((
                    scales,
                    of_logits,
                    gpu.alloc(n * width, values.dtype)?,
                    gpu.zeros(vocab * width, given.dtype)?,
                ))
            })
            .transpose()?;
        for first in (0..n).step_by(chunk_rows.max(1)) {
            let n_chunk = chunk_rows.min(n - first);
            let h = Matrix::new(values.from(first * width), n_chunk, width);
            gpu.multiply(logits.span(), h, weight.transposed(), Into::Overwrite)?;
            let mut args = vec![
                log_probs.span().from(first).into(),
                grads.as_ref().map(|(_, of_logits, ..)| of_logits.span()).into(),
                logits.span().into(),
                targets.span().from(first).into(),
                scales.map(|scales| scales.from(first)).into(),
                int(vocab),
            ];
            let row_bytes = vocab * size_of::<f32>();
            // The kernel has some shared memory of its own besides.
            let is_resident = (MIN_RESIDENT..gpu.shared_memory - 256).contains(&row_bytes) && vocab.is_multiple_of(4);
            if is_resident && scales.is_some() && values.dtype == DType::BF16 {
                args.push(int(n_chunk));
                let blocks = [gpu.n_multiprocessors.min(n_chunk), 1, 1];
                let grid = Grid { blocks, threads: [1024, 1], shared_bytes: row_bytes };
                gpu.launch("log_softmax_resident_bf16".to_owned(), grid, &args)?;
            } else {
                let n_threads = if vocab >= 8_192 { 512 } else { 256 };
                let way = if vocab.is_multiple_of(4) { "wide" } else { "1" };
                let grid = Grid::blocks([n_chunk, 1, 1], n_threads);
                gpu.launch(format!("log_softmax_{way}_{}", values.suffix()), grid, &args)?;
            }
            if let Some((_, of_logits, of_h, of_weight)) = &grads {
                let of_logits = Matrix::new(of_logits.span(), n_chunk, vocab);
                gpu.multiply(of_h.span().from(first * width), of_logits, weight, Into::Overwrite)?;
                gpu.multiply(of_weight.span(), of_logits.transposed(), h, Into::Add)?;
            }
        }
        let Some((_, _, of_h, of_weight)) = grads else { return Ok((log_probs, None)) };
        let of_h = match rows {
            None => of_h,
            Some(rows) => gpu.place(of_h.span(), rows.span(), n, self.n_rows, width)?,
        };
        Ok((log_probs, Some(Gradient { h: of_h, weight: of_weight })))
    }
}

/// [`crate::linear_cross_entropy`] on a GPU, the loss in f32; shapes and targets are checked, `rows` are those that count.
pub(crate) fn linear_cross_entropy(
    h: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    weights: &[f32],
    rows: &[usize],
) -> Result<Tensor> {
    let n = targets.len();
    let (head, scales) = if n - rows.len() < rows.len() / 16 {
        // All are taken, the few that do not count with weight 0: cheaper than to pick the others and put gradients back.
        let (mut known, mut scales) = (vec![0; n], vec![0.0; n]);
        for &row in rows {
            known[row] = targets[row];
            scales[row] = -weights[row];
        }
        (Head::new(weight, &known, &(0..n).collect::<Vec<_>>())?, scales)
    } else {
        (Head::new(weight, targets, rows)?, rows.iter().map(|&row| -weights[row]).collect())
    };
    let with_gradient = h.track_op() || weight.track_op();
    let op = CrossEntropy { head, scales, with_gradient, gradient: OnceLock::new() };
    h.apply_op2(weight, Node(op))
}

struct CrossEntropy {
    head: Head,
    /// Of the log-probability of each row that is taken.
    scales: Vec<f32>,
    with_gradient: bool,
    /// Of `h` and of `weight`, found with the value.
    gradient: OnceLock<(Tensor, Tensor)>,
}

impl Operation<2> for CrossEntropy {
    const OP: &'static str = "linear_cross_entropy";

    fn forward(&self, gpu: &Gpu, inputs: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let scales = gpu.upload(&self.scales)?;
        let wanted = self.with_gradient.then(|| scales.span());
        let (log_probs, gradient) = self.head.differentiate(gpu, inputs, wanted)?;
        if let Some(Gradient { h, weight }) = gradient {
            let Head { vocab, width, n_rows, .. } = self.head;
            // An op is applied once; were it applied again, the first gradient is the same.
            let _ = self.gradient.set((h.into_tensor((n_rows, width)), weight.into_tensor((vocab, width))));
        }
        let loss = gpu.alloc(1, DType::F32)?;
        let args = [loss.span().into(), log_probs.span().into(), scales.span().into(), int(self.scales.len())];
        gpu.launch("weighted_sum".to_owned(), Grid::blocks([1, 1, 1], 256), &args)?;
        Ok((loss, Shape::from(())))
    }

    fn backward(&self, gpu: &Gpu, _: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (of_h, of_weight) =
            self.gradient.get().ok_or_else(|| Error::msg("linear_cross_entropy: no gradient was kept"))?;
        let factor = Span::of(dy)?;
        let scaled = |grad: &Tensor| -> Result<Option<Tensor>> {
            let scaled = gpu.scaled(Span::of(grad)?, factor, grad.elem_count())?;
            Ok(Some(scaled.into_tensor(grad.shape())))
        };
        Ok([scaled(of_h)?, scaled(of_weight)?])
    }
}

/// [`crate::linear_log_probs`] on a GPU, the result in f32; shapes and targets are checked, `rows` are those that count.
pub(crate) fn linear_log_probs(h: &Tensor, weight: &Tensor, targets: &[u32], rows: &[usize]) -> Result<Tensor> {
    h.apply_op2(weight, Node(LogProbs { head: Head::new(weight, targets, rows)? }))
}

struct LogProbs {
    head: Head,
}

impl Operation<2> for LogProbs {
    const OP: &'static str = "linear_log_probs";

    fn forward(&self, gpu: &Gpu, inputs: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let head = &self.head;
        let (log_probs, _) = head.differentiate(gpu, inputs, None)?;
        let rows = gpu.upload(&head.rows)?;
        let all = gpu.place(log_probs.span(), rows.span(), head.rows.len(), head.n_rows, 1)?;
        Ok((all, head.n_rows.into()))
    }

    fn backward(&self, gpu: &Gpu, [h, weight]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let rows = gpu.upload(&self.head.rows)?;
        let scales = gpu.pick(Span::of(dy)?, rows.span(), self.head.rows.len(), 1)?;
        let inputs = [Span::of(h)?, Span::of(weight)?];
        let (_, gradient) = self.head.differentiate(gpu, inputs, Some(scales.span()))?;
        let Some(gradient) = gradient else { return Ok([None, None]) };
        Ok([Some(gradient.h.into_tensor(h.shape())), Some(gradient.weight.into_tensor(weight.shape()))])
    }
}

/// [`crate::choose`]; the rows exist.
pub(crate) fn choose(logits: &Tensor, picks: &[(usize, Draw)]) -> Result<Vec<(u32, f32)>> {
    let gpu = Gpu::of(logits)?;
    let (_, vocab) = logits.dims2()?;
    let n = picks.len();
    let rows: Vec<u32> = picks.iter().map(|&(row, _)| row as u32).collect();
    let split = |&(_, draw): &(usize, Draw)| match draw {
        Draw::Greedy => (0.0, 0.0),
        Draw::Softmax { temperature, u } => (temperature as f32, u),
    };
    let (temperatures, us): (Vec<f32>, Vec<f64>) = picks.iter().map(split).unzip();
    let (rows, temperatures, us) = (gpu.upload(&rows)?, gpu.upload(&temperatures)?, gpu.upload(&us)?);
    let (ids, log_probs) = (gpu.alloc(n, DType::U32)?, gpu.alloc(n, DType::F32)?);
    let args = [
        ids.span().into(),
        log_probs.span().into(),
        Span::of(logits)?.into(),
        rows.span().into(),
        temperatures.span().into(),
        us.span().into(),
        int(vocab),
    ];
    gpu.launch("choose".to_owned(), Grid::blocks([n, 1, 1], 256), &args)?;
    let (ids, log_probs) = (ids.into_tensor(n).to_vec1()?, log_probs.into_tensor(n).to_vec1()?);
    Ok(ids.into_iter().zip(log_probs).collect())
}
