//! Matrix products: `dst = A B`, optionally added to what is there.
//!
//! `B` is packed once per call into panels as wide as a register tile, in the order in which the tile loop reads it; `A`
//! is read in place (transposed blocks are copied). Each element of the result is one sum over the inner dimension in
//! ascending order, cut only at multiples of [`DEPTH`]; so it depends neither on how rows are shared among threads nor
//! on how many rows there are, and a product computed for one row equals that row of a larger product.
//!
//! An own product rather than the `gemm` crate because the shapes here are small (inner dimension 32..1,024): packing
//! per call and per thread costs it up to a third, and without a feature that would rebuild candle it has no AVX-512.

use crate::element::Element;
use crate::parallel::{SharedSlice, build_blocks, for_each_block, map_blocks};
use crate::simd::{Level, Portable, Vector, level};
use std::any::TypeId;

/// Inner elements that are summed in registers before they are added to the result.
const DEPTH: usize = 256;
/// Rows of one unit of parallel work, for tall and for other results.
const TALL_ROWS: usize = 48;
const SHORT_ROWS: usize = 24;
/// Up to this many rows `x W^T` is cheaper as `(W x^T)^T`, because then the small factor is packed.
pub(crate) const FEW_ROWS: usize = 96;

/// A matrix that is read in place.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Element> View<'a, T> {
    /// Row-major `rows x cols` with `row_stride` elements from one row to the next.
    pub(crate) fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride || rows <= 1, "rows overlap");
        assert!(rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(), "matrix exceeds its storage");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Row-major `rows x cols` without gaps.
    pub(crate) fn dense(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Some of the rows.
    pub(crate) fn part(self, rows: std::ops::Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }

    /// The transpose, without moving anything.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// The right factor of a product, rearranged into panels of `width` columns, `panel[inner][width]`, zero-padded.
#[derive(Clone, Debug)]
pub(crate) struct Packed<T> {
    panels: Vec<T>,
    inner: usize,
    cols: usize,
    width: usize,
}

impl<T: Element> Packed<T> {
    /// Packs `b` on all threads.
    pub(crate) fn new(b: View<T>) -> Self {
        let width = tile_width::<T>(b.cols);
        let panels = build_blocks(b.cols.div_ceil(width) * width * b.rows, b.rows * width, |idx, panel| {
            pack_panel(panel, b, idx * width, width);
        });
        Self { panels, inner: b.rows, cols: b.cols, width }
    }

    /// Packs `b` on the calling thread.
    pub(crate) fn new_here(b: View<T>) -> Self {
        let mut packed = Self::empty();
        packed.refill(b);
        packed
    }

    /// Column `col`, one element for each inner index.
    pub(crate) fn column(&self, col: usize) -> impl Iterator<Item = T> {
        let panel = &self.panels[col / self.width * self.inner * self.width..];
        panel.chunks_exact(self.width).take(self.inner).map(move |row| row[col % self.width])
    }

    /// Rows of the factor, the inner dimension of a product with it.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// Columns of the factor.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Columns of a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Packs `b` on the calling thread, reusing the memory of `self`.
    pub(crate) fn refill(&mut self, b: View<T>) {
        let fresh_width = tile_width::<T>(b.cols);
        self.width = fresh_width;
        self.inner = b.rows;
        self.cols = b.cols;
        self.panels.resize(b.cols.div_ceil(fresh_width) * fresh_width * b.rows, T::ZERO);
        let panel_len = (b.rows * fresh_width).max(1);
        for (idx, panel) in self.panels.chunks_mut(panel_len).enumerate() {
            pack_panel(panel, b, idx * fresh_width, fresh_width);
        }
    }

    /// An empty one, to be filled by [`Packed::refill`].
    pub(crate) fn empty() -> Self {
        Self { panels: Vec::new(), inner: 0, cols: 0, width: 1 }
    }
}

/// What becomes of the values that stand in the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// They are replaced.
    Overwrite,
    /// The product is added to them.
    Add,
    /// The sums of the product start from them: a product of factors that come in pieces is then, to the last bit, the same
    /// however its inner dimension was cut.
    Continue,
}

/// `dst (m x n) = a (m x k) b (k x n)` on all threads; `dst` without gaps.
pub(crate) fn multiply<T: Element>(dst: &mut [T], a: View<T>, b: &Packed<T>, into: Into) {
    assert_eq!(dst.len(), a.rows * b.cols, "destination size");
    let block_rows = block_rows(a);
    for_each_block(dst, block_rows * b.cols, |idx, rows| multiply_rows(rows, idx * block_rows, a, b, into));
}

/// `a (m x k) b (k x n)` on all threads.
pub(crate) fn product<T: Element>(a: View<T>, b: &Packed<T>) -> Vec<T> {
    let block_rows = block_rows(a);
    build_blocks(a.rows * b.cols, block_rows * b.cols, |idx, rows| {
        multiply_rows(rows, idx * block_rows, a, b, Into::Overwrite);
    })
}

/// `a (m x k) b (k x n)` for few rows: shared among the threads by panels of `b` rather than by rows.
pub(crate) fn product_of_few_rows<T: Element>(a: View<T>, b: &Packed<T>) -> Vec<T> {
    assert_eq!(a.cols, b.inner, "inner dimension");
    let (m, n) = (a.rows, b.cols);
    let mut dst = vec![T::ZERO; m * n];
    let shared = SharedSlice::new(&mut dst);
    map_blocks(n.div_ceil(b.width), |idx| {
        let cols = idx * b.width..n.min((idx + 1) * b.width);
        let mut block = vec![T::ZERO; m * cols.len()];
        multiply_here(&mut block, cols.len(), a, b, 0..b.inner, cols.clone(), Into::Overwrite);
        for (row, values) in block.chunks_exact(cols.len()).enumerate() {
            // SAFETY: each block has columns of the result of its own, and one row of them is written at a time.
            unsafe { shared.part(row * n + cols.start, cols.len()) }.copy_from_slice(values);
        }
    });
    dst
}

/// Rows of one unit of parallel work.
fn block_rows<T: Element>(a: View<T>) -> usize {
    if a.rows >= 16 * TALL_ROWS { TALL_ROWS } else { SHORT_ROWS }
}

/// The rows of the product from `first` on that `dst` has room for.
fn multiply_rows<T: Element>(dst: &mut [T], first: usize, a: View<T>, b: &Packed<T>, into: Into) {
    assert_eq!(a.cols, b.inner, "inner dimension");
    let rows = View { data: &a.data[first * a.row_stride..], rows: dst.len() / b.cols, ..a };
    multiply_whole(dst, rows, b, into);
}

/// `x (m x k) w^T` for `w (n x k)`, the forward product of a linear layer.
pub(crate) fn multiply_transposed<T: Element>(x: View<T>, w: View<T>) -> Vec<T> {
    let (m, n) = (x.rows, w.rows);
    if m > FEW_ROWS || m == 0 || n == 0 {
        return product(x, &Packed::new(w.transposed()));
    }
    let mut dst = vec![T::ZERO; m * n];
    let packed = Packed::new(x.transposed());
    let shared = SharedSlice::new(&mut dst);
    map_blocks(n.div_ceil(TALL_ROWS), |idx| {
        let first = idx * TALL_ROWS;
        let n_rows = TALL_ROWS.min(n - first);
        let part = View { data: &w.data[first * w.row_stride..], rows: n_rows, ..w };
        let mut block = vec![T::ZERO; n_rows * m];
        multiply_here(&mut block, m, part, &packed, 0..w.cols, 0..m, Into::Overwrite);
        for col in 0..m {
            // SAFETY: each block has columns of the result of its own, and one row of them is written at a time.
            let values = unsafe { shared.part(col * n + first, n_rows) };
            for (value, row) in values.iter_mut().zip(block.chunks_exact(m)) {
                *value = row[col];
            }
        }
    });
    dst
}

/// All of `dst = a b` on the calling thread, without gaps.
pub(crate) fn multiply_whole<T: Element>(dst: &mut [T], a: View<T>, b: &Packed<T>, into: Into) {
    multiply_here(dst, b.cols, a, b, 0..b.inner, 0..b.cols, into);
}

/// `dst = a b[inner, cols]` on the calling thread.
///
/// `dst` has `dst_stride` elements from row to row and starts at column `cols.start` of the product; `cols.start` is a
/// multiple of the panel width. `a` has as many columns as `inner` is long.
pub(crate) fn multiply_here<T: Element>(
    dst: &mut [T],
    dst_stride: usize,
    a: View<T>,
    b: &Packed<T>,
    inner: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
    into: Into,
) {
    let n_cols = cols.len();
    if a.rows == 0 || n_cols == 0 {
        return;
    }
    assert!(inner.end <= b.inner && cols.end <= b.cols && inner.start <= inner.end, "block outside of the factor");
    assert_eq!(cols.start % b.width, 0, "columns start inside of a panel");
    assert_eq!(a.cols, inner.len(), "inner dimension");
    assert!(n_cols <= dst_stride || a.rows == 1, "rows of the destination overlap");
    assert!((a.rows - 1) * dst_stride + n_cols <= dst.len(), "destination too small");
    assert!(
        inner.is_empty() || (a.rows - 1) * a.row_stride + (a.cols - 1) * a.col_stride < a.data.len(),
        "left factor exceeds its storage"
    );
    if inner.is_empty() {
        if into == Into::Overwrite {
            for row in dst.chunks_mut(dst_stride) {
                let len = n_cols.min(row.len());
                row[..len].fill(T::ZERO);
            }
        }
        return;
    }

    let mut copied = Vec::new();
    let mut start = 0;
    while start < inner.len() {
        let depth = DEPTH.min(inner.len() - start);
        let (mut left, mut row_stride, mut col_stride) = (&a.data[start * a.col_stride..], a.row_stride, a.col_stride);
        if col_stride > 1 && row_stride == 1 && a.rows > 1 {
            // A transposed block would touch a new cache line at every step of the inner loop.
            copied.clear();
            for p in 0..depth {
                copied.extend_from_slice(&left[p * col_stride..][..a.rows]);
            }
            (left, row_stride, col_stride) = (&copied, 1, a.rows);
        }
        let job = Job {
            dst: dst.as_mut_ptr(),
            dst_stride,
            left: left.as_ptr(),
            row_stride,
            col_stride,
            rows: a.rows,
            depth,
            panels: b.panels[cols.start * b.inner..].as_ptr(),
            panel_len: b.inner * b.width,
            first_inner: inner.start + start,
            cols: n_cols,
            width: b.width,
            into: if into == Into::Overwrite && start > 0 { Into::Add } else { into },
        };
        // SAFETY: the assertions above bound every row, column and inner index that the job reads or writes; `dst` is
        // borrowed mutably and overlaps no input.
        unsafe { run(&job) };
        start += depth;
    }
}

/// One depth block of a product, as pointers.
struct Job<T> {
    dst: *mut T,
    dst_stride: usize,
    left: *const T,
    row_stride: usize,
    col_stride: usize,
    rows: usize,
    depth: usize,
    panels: *const T,
    panel_len: usize,
    first_inner: usize,
    cols: usize,
    width: usize,
    into: Into,
}

/// Width of the panels for a factor with `cols` columns.
fn tile_width<T: Element>(cols: usize) -> usize {
    let lanes = lanes::<T>();
    if is_wide() && cols > 2 * lanes { 4 * lanes } else { 2 * lanes }
}

fn lanes<T: Element>() -> usize {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 64 / size_of::<T>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 32 / size_of::<T>(),
        Level::Portable => Portable::<T>::LANES,
    }
}

fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level() == Level::Avx512
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn pack_panel<T: Element>(panel: &mut [T], b: View<T>, first_col: usize, width: usize) {
    let n_cols = width.min(b.cols - first_col);
    if b.col_stride == 1 {
        for (p, row) in panel.chunks_mut(width).enumerate() {
            let from = &b.data[p * b.row_stride + first_col..][..n_cols];
            row[..n_cols].copy_from_slice(from);
            row[n_cols..].fill(T::ZERO);
        }
        return;
    }
    if n_cols < width {
        for row in panel.chunks_mut(width) {
            row[n_cols..].fill(T::ZERO);
        }
    }
    // Columns are contiguous: take a short run of each, so that both sides stay in the first-level cache.
    const RUN: usize = 16;
    let mut p = 0;
    while p < b.rows {
        let run = RUN.min(b.rows - p);
        for col in 0..n_cols {
            let from = (first_col + col) * b.col_stride + p * b.row_stride;
            for i in 0..run {
                panel[(p + i) * width + col] = b.data[from + i * b.row_stride];
            }
        }
        p += run;
    }
}

/// # Safety
/// Every row, column and inner index of the job must lie inside of what its pointers are valid for.
unsafe fn run<T: Element>(job: &Job<T>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m256d, __m512, __m512d};
        let is_f32 = TypeId::of::<T>() == TypeId::of::<f32>();
        let pointer = std::ptr::from_ref(job);
        // SAFETY: `level` found the instructions on this machine; the casts name the type that `T` is.
        unsafe {
            match (level(), is_f32) {
                (Level::Avx512, true) => return run_avx512::<__m512>(&*pointer.cast()),
                (Level::Avx512, false) => return run_avx512::<__m512d>(&*pointer.cast()),
                (Level::Avx2, true) => return run_avx2::<__m256>(&*pointer.cast()),
                (Level::Avx2, false) => return run_avx2::<__m256d>(&*pointer.cast()),
                (Level::Portable, _) => {}
            }
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { narrow_panels::<Portable<T>>(job) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
unsafe fn run_avx512<V: Vector>(job: &Job<V::Item>) {
    // SAFETY: passed on to the caller.
    unsafe {
        if job.width == 4 * V::LANES {
            for_each_panel::<V, 4>(job, |tile, rows| match rows {
                6.. => tile.run::<6>(),
                4 | 5 => tile.run::<4>(),
                2 | 3 => tile.run::<2>(),
                _ => tile.run::<1>(),
            });
        } else {
            for_each_panel::<V, 2>(job, |tile, rows| match rows {
                12.. => tile.run::<12>(),
                8..12 => tile.run::<8>(),
                4..8 => tile.run::<4>(),
                2 | 3 => tile.run::<2>(),
                _ => tile.run::<1>(),
            });
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<V: Vector>(job: &Job<V::Item>) {
    // SAFETY: passed on to the caller.
    unsafe { narrow_panels::<V>(job) }
}

#[allow(clippy::inline_always)]
#[inline(always)]
unsafe fn narrow_panels<V: Vector>(job: &Job<V::Item>) {
    // SAFETY: passed on to the caller.
    unsafe {
        for_each_panel::<V, 2>(job, |tile, rows| match rows {
            6.. => tile.run::<6>(),
            4 | 5 => tile.run::<4>(),
            2 | 3 => tile.run::<2>(),
            _ => tile.run::<1>(),
        });
    }
}

/// Walks over all panels of a job and, within each, down the rows; `run` computes a tile and returns its rows.
#[allow(clippy::inline_always)]
#[inline(always)]
unsafe fn for_each_panel<V: Vector, const NV: usize>(job: &Job<V::Item>, run: impl Fn(&Tile<V, NV>, usize) -> usize) {
    let width = NV * V::LANES;
    let mut col = 0;
    let mut panel = job.panels;
    while col < job.cols {
        let mut row = 0;
        while row < job.rows {
            // SAFETY: `row` and `col` are inside of the job.
            let tile = unsafe {
                Tile::<V, NV> {
                    dst: job.dst.add(row * job.dst_stride + col),
                    dst_stride: job.dst_stride,
                    left: job.left.add(row * job.row_stride),
                    row_stride: job.row_stride,
                    col_stride: job.col_stride,
                    right: panel.add(job.first_inner * width),
                    depth: job.depth,
                    cols: (job.cols - col).min(width),
                    into: job.into,
                }
            };
            row += run(&tile, job.rows - row);
        }
        col += width;
        // Only an address until the next round uses it.
        panel = panel.wrapping_add(job.panel_len);
    }
}

/// A part of the result that fits into registers: some rows by `NV` vectors.
struct Tile<V: Vector, const NV: usize> {
    dst: *mut V::Item,
    dst_stride: usize,
    left: *const V::Item,
    row_stride: usize,
    col_stride: usize,
    right: *const V::Item,
    depth: usize,
    cols: usize,
    into: Into,
}

#[allow(clippy::inline_always)]
impl<V: Vector, const NV: usize> Tile<V, NV> {
    /// Computes `MR` rows and returns `MR`.
    #[inline(always)]
    fn run<const MR: usize>(&self) -> usize {
        // SAFETY: a tile is only made by `for_each_panel`, inside of its job, for at least `MR` more rows and on a
        // machine with the instructions of `V`; partial widths go through a buffer of full width.
        unsafe {
            let is_whole = self.cols == NV * V::LANES;
            let mut sums = [[V::zero(); NV]; MR];
            if self.into == Into::Continue {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let mut from = self.dst.add(row * self.dst_stride).cast_const();
                    let mut full = [V::Item::ZERO; 64];
                    if !is_whole {
                        std::ptr::copy_nonoverlapping(from, full.as_mut_ptr(), self.cols);
                        from = full.as_ptr();
                    }
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(from.add(v * V::LANES));
                    }
                }
            }
            let mut right = self.right;
            let mut left = self.left;
            for _ in 0..self.depth {
                let mut b = [V::zero(); NV];
                for (v, b) in b.iter_mut().enumerate() {
                    *b = V::load(right.add(v * V::LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(left.add(row * self.row_stride));
                    for (sum, &b) in sums.iter_mut().zip(&b) {
                        *sum = sum.add_product(a, b);
                    }
                }
                right = right.add(NV * V::LANES);
                left = left.wrapping_add(self.col_stride);
            }
            if is_whole {
                for (row, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        let to = self.dst.add(row * self.dst_stride + v * V::LANES);
                        let sum = if self.into == Into::Add { V::load(to).plus(sum) } else { sum };
                        sum.store(to);
                    }
                }
            } else {
                for (row, sums) in sums.iter().enumerate() {
                    let mut full = [V::Item::ZERO; 64];
                    for (v, &sum) in sums.iter().enumerate() {
                        sum.store(full.as_mut_ptr().add(v * V::LANES));
                    }
                    let to = self.dst.add(row * self.dst_stride);
                    for (col, &value) in full.iter().enumerate().take(self.cols) {
                        let there = if self.into == Into::Add { *to.add(col) } else { V::Item::ZERO };
                        *to.add(col) = there + value;
                    }
                }
            }
        }
        MR
    }
}

#[cfg(test)]
mod tests;
