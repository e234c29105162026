//! Ranks with a GPU each, whose tensors go over NCCL.

use super::watch::Watch;
use super::{Communicator, Ranks, parts};
use crate::error::{Error, Result};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::nccl::result::{NcclError, NcclStatus, get_nccl_version};
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Storage, Tensor};
use std::ffi::c_char;
use std::fmt;
use std::time::Duration;

/// Ranks that compute on a GPU each. Their tensors are f32, stay there, and are summed there; all else they tell each other as they did
/// before.
///
/// Calls with tensors return at once: they take their turn behind the work that the GPU has already. A rank that is lost within such a call
/// lets the others wait on their GPUs; the watch ends this process where that takes longer than its patience.
pub struct Nccl {
    comm: Comm,
    device: CudaDevice,
    host: Ranks,
    watch: Watch,
}

impl fmt::Debug for Nccl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} of {} over NCCL", self.rank(), self.size())
    }
}

impl Nccl {
    /// Joins ranks that can speak to each other already, each with a GPU of its own. Where a call waits for others for longer than
    /// `patience`, `give_up` is called, on another thread, and is to end the process.
    ///
    /// # Errors
    /// [`Error::NoNccl`] where the library is not there, and [`Error::Nccl`] where GPUs do not reach each other, or two ranks have the same.
    pub fn join(host: Ranks, device: &Device, patience: Duration, give_up: impl Fn() + Send + 'static) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(candle_core::Error::msg("NCCL is for GPUs").into());
        };
        get_nccl_version().map_err(|error| Error::NoNccl { reason: reason(&error) })?;
        let mut id = [0; 128];
        if host.is_first() {
            id = Id::new().map_err(failed("making an id"))?.internal().map(|byte| byte as u8);
        }
        host.0.broadcast(&mut id)?;
        let id = Id::uninit(id.map(|byte| byte as c_char));
        let watch = Watch::begin(patience, give_up);
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let comm = watch.during(|| Comm::from_rank(stream, host.rank(), host.size(), id));
        Ok(Self { comm: comm.map_err(failed("connecting the GPUs"))?, device: device.clone(), host, watch })
    }

    /// Puts a call with a tensor, which has its storage to itself, into the stream; it fills `n` numbers.
    fn enqueue(
        &self,
        what: &'static str,
        tensor: &Tensor,
        n: usize,
        call: impl FnOnce(&CudaSlice<f32>, &mut CudaSlice<f32>) -> Result<NcclStatus, NcclError>,
    ) -> Result<Tensor> {
        let mut filled = self.device.alloc_zeros::<f32>(n)?;
        {
            let (storage, _) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(candle_core::Error::msg("expected a tensor on a GPU").into());
            };
            call(storage.as_cuda_slice()?, &mut filled).map_err(failed(what))?;
        }
        let end = self.device.cuda_stream().record_event(None).w()?;
        self.watch.until(move || end.is_complete());
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(filled, self.device.clone()));
        Ok(Tensor::from_storage(storage, n, BackpropOp::none(), false))
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn size(&self) -> usize {
        self.host.size()
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.host.0.sum(values)
    }

    fn reduce_scatter(&self, whole: Tensor, counts: &[usize]) -> Result<Tensor> {
        let len = parts::longest(counts);
        let padded = parts::pad(&whole, counts)?;
        drop(whole);
        let part = self.enqueue("reduce-scatter", &padded, len, |padded, part| {
            self.comm.reduce_scatter(padded, part, &ReduceOp::Sum)
        })?;
        Ok(part.narrow(0, 0, counts[self.rank()])?)
    }

    fn all_gather(&self, part: &Tensor, counts: &[usize]) -> Result<Tensor> {
        let len = parts::longest(counts);
        let filled_up = Tensor::zeros(len, DType::F32, &Device::Cuda(self.device.clone()))?;
        if counts[self.rank()] > 0 {
            filled_up.slice_set(part, 0, 0)?;
        }
        let padded = self
            .enqueue("all-gather", &filled_up, counts.len() * len, |part, padded| self.comm.all_gather(part, padded))?;
        parts::unpad(&padded, counts)
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        self.host.0.broadcast(bytes)
    }

    fn wait(&self) -> Result<()> {
        self.host.0.wait()
    }
}

fn failed(what: &'static str) -> impl Fn(NcclError) -> Error {
    move |error| Error::Nccl { what, reason: reason(&error) }
}

/// NCCL's name for an error, such as `ncclSystemError`.
fn reason(error: &NcclError) -> String {
    format!("{:?}", error.0)
}

#[cfg(test)]
mod tests {
    use super::Nccl;
    use crate::ranks::{Communicator, Ranks};
    use candle_core::Tensor;
    use std::time::Duration;

    #[test]
    fn one_rank_gets_back_what_it_gives() {
        let Ok(gpu) = lm::device::open("cuda") else { return };
        let nccl = Nccl::join(Ranks::default(), &gpu, Duration::from_secs(60), || panic!("NCCL hangs")).unwrap();
        let row: Vec<f32> = (0..100_000).map(|i| i as f32 / 3.0).collect();
        let whole = || Tensor::from_vec(row.clone(), row.len(), &gpu).unwrap();
        let part = nccl.reduce_scatter(whole(), &[row.len()]).unwrap();
        assert_eq!(part.to_vec1::<f32>().unwrap(), row);
        assert_eq!(nccl.all_gather(&part, &[row.len()]).unwrap().to_vec1::<f32>().unwrap(), row);
    }
}
