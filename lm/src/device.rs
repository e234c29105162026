//! Where tensors live, and what is computed with there.

use crate::{Error, Result};
use candle_core::DType;
pub use candle_core::Device;

/// Whether this is the name of a device as people know them: `cpu`, `cuda` (the first GPU) or `cuda:N`.
pub fn is_name(name: &str) -> bool {
    name == "cpu" || gpu_index(name).is_some()
}

fn gpu_index(name: &str) -> Option<usize> {
    if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:")?.parse().ok() }
}

/// Opens a device by its name, as [`is_name`] knows it.
///
/// # Errors
/// [`Error::UnknownDevice`] for another name, for a GPU that is not there, and for any GPU where this build has no CUDA.
pub fn open(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let opened = match gpu_index(name) {
        Some(idx) => open_gpu(idx),
        None => Err("known are cpu, cuda and cuda:N".to_owned()),
    };
    opened.map_err(|reason| Error::UnknownDevice { name: name.to_owned(), reason })
}

/// One stream does everything, so that nothing has to wait for anything but its turn.
#[cfg(feature = "cuda")]
fn open_gpu(idx: usize) -> std::result::Result<Device, String> {
    let opened = Device::new_cuda_with_stream(idx).and_then(|device| {
        kernels::prepare_gpu(&device)?;
        Ok(device)
    });
    // candle's message may go on with a backtrace.
    opened.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(_: usize) -> std::result::Result<Device, String> {
    Err("this build has no CUDA".to_owned())
}

/// What a phase computes in on a device: bf16 on a GPU, where products in it are many times faster, f32 on the CPU. Weights, their
/// gradients and the optimizer's state are f32 on both.
pub fn training_dtype(device: &Device) -> DType {
    if device.is_cpu() { DType::F32 } else { DType::BF16 }
}

/// The device as people read it: `cpu`, or `cuda:0, NVIDIA H200`.
pub fn describe(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        let stream = gpu.cuda_stream();
        let name = stream.context().name().unwrap_or_else(|_| "a GPU without a name".to_owned());
        return format!("cuda:{}, {name}", stream.context().ordinal());
    }
    if device.is_cpu() { "cpu".to_owned() } else { format!("{:?}", device.location()) }
}

#[cfg(test)]
mod tests {
    use super::{describe, is_name, open, training_dtype};
    use candle_core::DType;

    #[test]
    fn the_cpu_computes_in_f32_and_has_a_name() {
        let cpu = open("cpu").unwrap();
        assert_eq!((describe(&cpu).as_str(), training_dtype(&cpu)), ("cpu", DType::F32));
    }

    #[test]
    fn a_device_that_is_not_there_is_named_with_the_reason_in_one_line() {
        assert!(open("cpu").is_ok());
        let message = |name| open(name).unwrap_err().to_string();
        assert!(message("tpu").contains("known are cpu"));
        assert!(message("cuda:x").contains("known are cpu"));
        assert_eq!(
            ["cpu", "cuda", "cuda:1", "cuda:", "cuda:x", "tpu"].map(is_name),
            [true, true, true, false, false, false]
        );
        let absent = message("cuda:999");
        assert!(absent.starts_with("device `cuda:999` is not available: "), "{absent}");
        assert_eq!(absent.lines().count(), 1);
        #[cfg(not(feature = "cuda"))]
        assert!(absent.ends_with("this build has no CUDA"));
    }
}
