//! Where tensors live.

use crate::{Error, Result};
use candle_core::Device;

/// Opens a device by the name that people know: `cpu`, `cuda` or `cuda:0`.
///
/// # Errors
/// [`Error::UnknownDevice`] for another name, for a GPU that is not there, and for any GPU where this build has no CUDA.
pub fn open(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let idx = if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:").and_then(|idx| idx.parse().ok()) };
    let opened = match idx {
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

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn a_device_that_is_not_there_is_named_with_the_reason_in_one_line() {
        assert!(open("cpu").is_ok());
        let message = |name| open(name).unwrap_err().to_string();
        assert!(message("tpu").contains("known are cpu"));
        assert!(message("cuda:x").contains("known are cpu"));
        let absent = message("cuda:999");
        assert!(absent.starts_with("device `cuda:999` is not available: "), "{absent}");
        assert_eq!(absent.lines().count(), 1);
        #[cfg(not(feature = "cuda"))]
        assert!(absent.ends_with("this build has no CUDA"));
    }
}
