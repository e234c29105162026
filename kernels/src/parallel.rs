//! Work shared among threads so that no result depends on how many there are.
//!
//! Every parallel loop runs over blocks whose size is fixed by the problem, each block writes its own part of the output,
//! and partial sums are added in the order of the blocks.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Sets the number of threads that all operations share.
///
/// To be called once, before any other thread starts, from the thread that will call the operations: with more than one
/// thread the caller becomes a member of the pool, which spares a wake-up per operation.
///
/// # Errors
/// [`Error::Threads`] when the pool exists already with another number of threads.
pub fn set_threads(n_threads: usize) -> Result<()> {
    let n_threads = n_threads.max(1);
    quiet_candles_pool();
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
    if n_threads > 1 {
        pool = pool.use_current_thread();
    }
    match pool.build_global() {
        Ok(()) => Ok(()),
        Err(_) if rayon::current_num_threads() == n_threads => Ok(()),
        Err(error) => Err(Error::Threads { n_threads, reason: error.to_string() }),
    }
}

/// Keeps candle from starting threads of its own for element-wise operations, unless the user wants them.
///
/// They spin between two calls and so take the cores from ours; the few such operations left in a step are short.
fn quiet_candles_pool() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_alone && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: no other thread exists that could read the environment meanwhile.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

/// Calls `work(block_idx, block)` for consecutive blocks of `block_len` elements of `output`, the last may be shorter.
pub(crate) fn for_each_block<T: Send>(
    output: &mut [T],
    block_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let block_len = block_len.max(1);
    if is_serial(output.len().div_ceil(block_len)) {
        for (idx, block) in output.chunks_mut(block_len).enumerate() {
            work(idx, block);
        }
    } else {
        output.par_chunks_mut(block_len).enumerate().for_each(|(idx, block)| work(idx, block));
    }
}

/// A new vector of `len` elements, made by `work(block_idx, block)` from zeros, block by block as in [`for_each_block`].
///
/// Each thread clears a block when it is about to write it: clearing all of a large vector beforehand would go through
/// memory once more, on one thread.
pub(crate) fn build_blocks<T: Copy + Default + Send>(
    len: usize,
    block_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    for_each_block(&mut values.spare_capacity_mut()[..len], block_len, |idx, block| {
        block.fill(MaybeUninit::new(T::default()));
        // SAFETY: every element of the block was written in the line before.
        let block = unsafe { &mut *(std::ptr::from_mut(block) as *mut [T]) };
        work(idx, block);
    });
    // SAFETY: the blocks cover the first `len` elements, and each block was written.
    unsafe { values.set_len(len) };
    values
}

/// `len` zeros, cleared on all threads.
pub(crate) fn zeros<T: Copy + Default + Send>(len: usize) -> Vec<T> {
    const BLOCK_LEN: usize = 1 << 16;
    build_blocks(len, BLOCK_LEN, |_, _| {})
}

/// Matrices of `n_rows` rows and the given widths, made together by `work(rows, parts)` from zeros, `block_rows` rows at a
/// time, so that what one part needs of another is still in the cache; with what `work` returned, block by block.
pub(crate) fn build_rows<T: Copy + Default + Send + Sync, R: Send, const N: usize>(
    n_rows: usize,
    widths: [usize; N],
    block_rows: usize,
    work: impl Fn(Range<usize>, [&mut [T]; N]) -> R + Sync + Send,
) -> ([Vec<T>; N], Vec<R>) {
    let mut matrices = widths.map(|width| Vec::with_capacity(n_rows * width));
    let mut idx = 0;
    let shared = matrices.each_mut().map(|matrix: &mut Vec<T>| {
        let blank = SharedSlice::new(&mut matrix.spare_capacity_mut()[..n_rows * widths[idx]]);
        idx += 1;
        blank
    });
    let results = map_blocks(n_rows.div_ceil(block_rows), |block| {
        let rows = block * block_rows..n_rows.min((block + 1) * block_rows);
        let parts = std::array::from_fn(|i| {
            // SAFETY: each block has rows of its own, and each matrix gives out one part of them.
            let part = unsafe { shared[i].part(rows.start * widths[i], rows.len() * widths[i]) };
            part.fill(MaybeUninit::new(T::default()));
            // SAFETY: every element of the part was written in the line before.
            unsafe { &mut *(std::ptr::from_mut(part) as *mut [T]) }
        });
        work(rows, parts)
    });
    for (matrix, width) in matrices.iter_mut().zip(widths) {
        // SAFETY: the blocks cover all rows, and each block was written.
        unsafe { matrix.set_len(n_rows * width) };
    }
    (matrices, results)
}

/// As [`for_each_block`] for two outputs that are cut alike: block `i` of both is handed out together.
pub(crate) fn for_each_block_pair<T: Send, U: Send>(
    first: (&mut [T], usize),
    second: (&mut [U], usize),
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    let (first_len, second_len) = (first.1.max(1), second.1.max(1));
    if is_serial(first.0.len().div_ceil(first_len)) {
        let pairs = first.0.chunks_mut(first_len).zip(second.0.chunks_mut(second_len));
        for (idx, (a, b)) in pairs.enumerate() {
            work(idx, a, b);
        }
    } else {
        first
            .0
            .par_chunks_mut(first_len)
            .zip(second.0.par_chunks_mut(second_len))
            .enumerate()
            .for_each(|(idx, (a, b))| work(idx, a, b));
    }
}

/// The values of `work(idx)` for `idx` in `0..n`, in order.
pub(crate) fn map_blocks<R: Send>(n: usize, work: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if is_serial(n) { (0..n).map(work).collect() } else { (0..n).into_par_iter().map(work).collect() }
}

/// A slice whose disjoint parts are written by several threads.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it hands out nothing by itself; `part` leaves it to the caller that parts are disjoint.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.len, "part outside of the slice");
        // SAFETY: inside of the borrowed slice; the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

fn is_serial(n_blocks: usize) -> bool {
    n_blocks <= 1 || rayon::current_num_threads() == 1
}
