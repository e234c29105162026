//! Where tensors live.

use crate::{Error, Result};
use candle_core::Device;

/// Opens a device by the name that people know: `cpu`, `cuda` or `cuda:0`.
///
/// # Errors
/// [`Error::UnknownDevice`] for any but `cpu`: this build has no CUDA.
pub fn open(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let is_cuda = name == "cuda" || name.strip_prefix("cuda:").is_some_and(|idx| idx.parse::<usize>().is_ok());
    let reason = if is_cuda { "this build has no CUDA" } else { "known are cpu, cuda and cuda:N" };
    Err(Error::UnknownDevice { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn cuda_says_that_it_is_not_built_in() {
        assert!(open("cpu").is_ok());
        assert_eq!(open("cuda:0").unwrap_err().to_string(), "device `cuda:0` is not available: this build has no CUDA");
        assert!(open("tpu").unwrap_err().to_string().contains("known are cpu"));
    }
}
