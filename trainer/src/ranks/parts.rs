//! Rows that are cut into a part for each rank, in the form that NCCL wants: parts of one length.

use crate::error::Result;
use candle_core::Tensor;

/// Length of the longest part.
pub(super) fn longest(counts: &[usize]) -> usize {
    counts.iter().copied().max().unwrap_or(0)
}

/// Fills each part of a row up with zeros to the length of the longest.
///
/// # Shapes
/// (sum of counts) to (parts * longest)
///
/// # Errors
/// Where memory lacks.
pub(super) fn pad(row: &Tensor, counts: &[usize]) -> Result<Tensor> {
    let len = longest(counts);
    let padded = Tensor::zeros(counts.len() * len, row.dtype(), row.device())?;
    let mut start = 0;
    for (rank, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        padded.slice_set(&row.narrow(0, start, count)?, 0, rank * len)?;
        start += count;
    }
    Ok(padded)
}

/// Takes away what [`pad`] has filled up.
///
/// # Errors
/// As there.
pub(super) fn unpad(padded: &Tensor, counts: &[usize]) -> Result<Tensor> {
    let len = longest(counts);
    let parts = counts.iter().enumerate().filter(|&(_, &count)| count > 0);
    let parts: Vec<Tensor> =
        parts.map(|(rank, &count)| padded.narrow(0, rank * len, count)).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::{pad, unpad};
    use candle_core::{Device, Tensor};

    #[test]
    fn parts_are_filled_up_and_cut_to_what_they_were() {
        let row = Tensor::new(&[1_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &Device::Cpu).unwrap();
        let padded = pad(&row, &[2, 0, 3, 1]).unwrap();
        let expected = [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0];
        assert_eq!(padded.to_vec1::<f32>().unwrap(), expected);
        for counts in [&[2, 0, 3, 1][..], &[6], &[0, 6], &[3, 3]] {
            let found = unpad(&pad(&row, counts).unwrap(), counts).unwrap();
            assert_eq!(found.to_vec1::<f32>().unwrap(), row.to_vec1::<f32>().unwrap(), "{counts:?}");
        }
    }
}
