//! Rows of a table, picked by id.

use crate::element::Element;
use crate::error::{Error, Result, shape_mismatch};
use crate::parallel::build_blocks;
use crate::storage::{Values, dispatch, prepare, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

const OP: &str = "embedding";
/// Ids of one unit of parallel work.
const BLOCK_IDS: usize = 256;
/// Table rows of one unit of parallel work in the gradient.
const BLOCK_ROWS: usize = 64;

/// `y[.., :] = table[ids[..], :]`; the gradient adds the rows of equal ids in the order in which they stand in `ids`.
///
/// The slow twin is [`crate::oracle::embedding`].
///
/// # Shapes
/// `ids` (..) of u32, best on the CPU wherever the table is; `table` (V, d), result (.., d).
///
/// # Errors
/// [`crate::Error::IdOutOfRange`] for an id of V or more; [`crate::Error`] when shapes, element types or devices do not fit.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    embedding_as(ids, table, table.dtype())
}

/// [`embedding`] in another type than the table's, which the gradient has.
///
/// # Errors
/// As [`embedding`].
pub fn embedding_as(ids: &Tensor, table: &Tensor, dtype: DType) -> Result<Tensor> {
    let table = prepare(table, OP, "table")?;
    let &[n_rows, width] = table.dims() else {
        return Err(shape_mismatch(OP, "table", "[V, d]", table.shape()));
    };
    if ids.dtype() != DType::U32 {
        return Err(Error::UnsupportedDtype { op: OP, what: "ids", expected: "u32", found: ids.dtype() });
    }
    let mut dims = ids.dims().to_vec();
    dims.push(width);
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    if let Some((index, &id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= n_rows) {
        return Err(Error::IdOutOfRange { op: OP, what: "id", id, index, size: n_rows });
    }
    #[cfg(feature = "cuda")]
    if table.device().is_cuda() {
        let is_rounded = (table.dtype(), dtype) == (DType::F32, DType::BF16);
        let own = if is_rounded { dtype } else { table.dtype() };
        return Ok(crate::cuda::embedding(ids, dims, &table, own)?.to_dtype(dtype)?);
    }
    Ok(table.apply_op1(Embedding { ids, dims, n_rows, width })?.to_dtype(dtype)?)
}

struct Embedding {
    ids: Vec<u32>,
    dims: Vec<usize>,
    n_rows: usize,
    width: usize,
}

impl Embedding {
    fn forward<T: Element>(&self, table: &[T]) -> Vec<T> {
        build_blocks(self.ids.len() * self.width, BLOCK_IDS * self.width, |idx, y| {
            let ids = &self.ids[idx * BLOCK_IDS..];
            for (y, &id) in y.chunks_exact_mut(self.width).zip(ids) {
                y.copy_from_slice(&table[id as usize * self.width..][..self.width]);
            }
        })
    }

    fn backward<T: Element>(&self, dy: &[T]) -> Vec<T> {
        build_blocks(self.n_rows * self.width, BLOCK_ROWS * self.width, |idx, grad| {
            let first = idx * BLOCK_ROWS;
            for (&id, dy) in self.ids.iter().zip(dy.chunks_exact(self.width)) {
                let row = (id as usize).wrapping_sub(first);
                if row < BLOCK_ROWS {
                    let grad = &mut grad[row * self.width..][..self.width];
                    for (grad, &dy) in grad.iter_mut().zip(dy) {
                        *grad += dy;
                    }
                }
            }
        })
    }
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch!(table.dtype(), OP, T => {
            let y = self.forward::<T>(slice_of(table, layout)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), self.dims.clone().into()))
        })
    }

    fn bwd(&self, table: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dy_values = Values::of(&dy);
        dispatch!(table.dtype(), OP, T => {
            Ok(Some(tensor_of(self.backward::<T>(dy_values.as_slice()?), table.shape())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw};
    use crate::oracle;
    use candle_core::Device;

    fn ids(n_rows: usize, n: usize) -> Tensor {
        let ids: Vec<u32> = (0..n).map(|i| (i * i % n_rows) as u32).collect();
        Tensor::from_vec(ids, (1, n), &Device::Cpu).unwrap()
    }

    #[test]
    fn equals_the_oracle_with_repeated_and_unused_ids() {
        for (n_rows, n, width) in [(200, 300, 5), (1, 3, 1), (70, 1, 8)] {
            let ids = ids(n_rows, n);
            assert_equals_oracle(&[draw(1, &[n_rows, width], DType::F32)], &|i| Ok(embedding(&ids, &i[0])?), &|i| {
                oracle::embedding(&ids, &i[0])
            });
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let ids = ids(4, 6);
        assert_equals_differences(&[draw(2, &[4, 3], DType::F64)], &|i| Ok(embedding(&ids, &i[0])?));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let ids = ids(150, 700);
        let table = draw(3, &[150, 20], DType::F32);
        assert_same_for_any_threads(&[table], &|i| Ok(embedding(&ids, &i[0])?));
    }

    #[test]
    fn an_id_outside_of_the_table_is_named_with_its_place() {
        let ids = Tensor::new(&[[0_u32, 1], [4, 2]], &Device::Cpu).unwrap();
        let error = embedding(&ids, &draw(4, &[4, 2], DType::F32)).unwrap_err();
        assert_eq!(error.to_string(), "embedding: id 4 at index 2 is not below 4");
    }
}
