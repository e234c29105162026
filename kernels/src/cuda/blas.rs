//! cuBLASLt: how a product is described to it, and the algorithms that it chose.

use super::{Buffer, Gpu, Span};
use crate::cuda::product::{Into, Matrix};
use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::{CudaDevice, DType, Error, Result};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// What an algorithm may use besides, bytes: as many as cuBLAS takes for itself on an H100.
const WORKSPACE: usize = 32 << 20;
/// Algorithms ask for no larger alignment, bytes.
const MAX_ALIGNMENT: u64 = 256;

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Task {
    dims: [usize; 3],
    are_transposed: [bool; 2],
    from: DType,
    to: DType,
    adds: bool,
    /// Bytes that the addresses are multiples of: operands as cuBLAS counts them, what is added to, result.
    alignments: [u32; 4],
}

/// A task as cuBLASLt knows it; kept for good.
#[derive(Clone, Copy)]
struct Plan {
    task: sys::cublasLtMatmulDesc_t,
    operands: [sys::cublasLtMatrixLayout_t; 2],
    result: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle, and what was planned with it.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    plans: Mutex<HashMap<Task, Plan>>,
    workspace: Buffer,
}

// SAFETY: cuBLASLt's handles may be used by several threads, and descriptions are only read once they are in a plan.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

fn failed(error: result::CublasError) -> Error {
    Error::msg(format!("a matrix product failed in cuBLASLt: {:?}", error.0))
}

fn kind(dtype: DType) -> sys::cudaDataType {
    if dtype == DType::BF16 { sys::cudaDataType_t::CUDA_R_16BF } else { sys::cudaDataType_t::CUDA_R_32F }
}

fn pointer<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

impl Plan {
    /// cuBLAS goes by column, so that it is asked for the transpose of the product, whose operands are those that lie in memory, in
    /// the other order.
    fn new(
        handle: sys::cublasLtHandle_t,
        task: &Task,
        [a, b]: [Matrix<'_>; 2],
    ) -> std::result::Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Of;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preferred;
        let [rows, cols, _] = task.dims;
        let layout = |matrix: Matrix<'_>| {
            let (lines, stride) = matrix.as_it_lies();
            result::create_matrix_layout(kind(task.from), stride as u64, lines as u64, stride as i64)
        };
        let operands = [layout(b)?, layout(a)?];
        let to = result::create_matrix_layout(kind(task.to), cols as u64, rows as u64, cols as i64)?;
        let product =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F)?;
        let [a_transposed, b_transposed] = task.are_transposed.map(i32::from);
        let alignments = [
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        let preference = result::create_matmul_pref()?;
        // SAFETY: all descriptions were made above and none is freed before its last use; an attribute is told by a number of
        // its type.
        unsafe {
            for (attribute, value) in
                [(Of::CUBLASLT_MATMUL_DESC_TRANSA, b_transposed), (Of::CUBLASLT_MATMUL_DESC_TRANSB, a_transposed)]
            {
                result::set_matmul_desc_attribute(product, attribute, pointer(&value), size_of::<i32>())?;
            }
            let most = Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, most, pointer(&WORKSPACE), size_of::<usize>())?;
            // Parts of a sum are added up in f32 too, not in the type of the result.
            let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let schemes = Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            result::set_matmul_pref_attribute(preference, schemes, pointer(&scheme), size_of::<u32>())?;
            for (attribute, bytes) in alignments.into_iter().zip(task.alignments) {
                result::set_matmul_pref_attribute(preference, attribute, pointer(&bytes), size_of::<u32>())?;
            }
            let [first, second] = operands;
            let chosen = result::get_matmul_algo_heuristic(handle, product, first, second, to, to, preference)?;
            result::destroy_matmul_pref(preference)?;
            Ok(Self { task: product, operands, result: to, algorithm: chosen.algo })
        }
    }
}

impl Blas {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: an algorithm writes what it reads there.
        let storage = unsafe { device.alloc_uninit(&WORKSPACE.into(), DType::U8)? };
        Ok(Self { handle, plans: Mutex::default(), workspace: Buffer { storage } })
    }

    fn plan(&self, task: Task, operands: [Matrix<'_>; 2]) -> Result<Plan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&task) {
            return Ok(*plan);
        }
        let plan = Plan::new(self.handle, &task, operands).map_err(failed)?;
        plans.insert(task, plan);
        Ok(plan)
    }
}

impl Gpu {
    /// `to = a b`, and what `into` says besides, summed in f32; `to` (rows of a, columns of b) is of the operands' type or f32.
    pub(super) fn multiply(&self, to: Span<'_>, a: Matrix<'_>, b: Matrix<'_>, into: Into<'_>) -> Result<()> {
        let [rows, inner] = a.dims();
        let [_, cols] = b.dims();
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let (adds, more) = match into {
            Into::Overwrite => (false, to),
            Into::Add => (true, to),
            Into::Sum(more) => (true, more),
        };
        let addresses = [b.address(), a.address(), more.address, to.address];
        let plan = self.blas.plan(
            Task {
                dims: [rows, cols, inner],
                are_transposed: [a.is_transposed(), b.is_transposed()],
                from: a.dtype(),
                to: to.dtype,
                adds,
                alignments: addresses.map(|address| (1 << address.trailing_zeros().min(63)).min(MAX_ALIGNMENT) as u32),
            },
            [a, b],
        )?;
        let (alpha, beta) = (1.0_f32, if adds { 1.0_f32 } else { 0.0 });
        let [first, second, more, to] = addresses;
        // SAFETY: the spans hold matrices of these shapes on this device; the workspace is used by one product of the stream after
        // the other.
        unsafe {
            result::matmul(
                self.blas.handle,
                plan.task,
                pointer(&alpha),
                pointer(&beta),
                first as *const c_void,
                plan.operands[0],
                second as *const c_void,
                plan.operands[1],
                more as *const c_void,
                plan.result,
                to as *mut c_void,
                plan.result,
                &raw const plan.algorithm,
                self.blas.workspace.span().address as *mut c_void,
                WORKSPACE,
                self.device.cuda_stream().cu_stream().cast(),
            )
        }
        .map_err(failed)
    }
}
