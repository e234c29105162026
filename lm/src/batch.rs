//! Token ids laid out for one forward pass.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use kernels::{PAD_SEGMENT, Segments};

/// A rectangle of token ids and, for each, which document it belongs to and where it stands in it.
#[derive(Debug, Clone)]
pub struct Batch {
    ids: Tensor,
    segments: Segments,
}

impl Batch {
    /// One sequence per row, filled up on the right to the longest.
    ///
    /// # Errors
    /// [`Error::Empty`] where there is no row or no token.
    pub fn pad<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self> {
        let len = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * len);
        let mut segments = Vec::with_capacity(rows.len() * len);
        for row in rows {
            let row = row.as_ref();
            ids.extend_from_slice(row);
            ids.resize(ids.len() + len - row.len(), 0);
            segments.resize(segments.len() + row.len(), 0);
            segments.resize(segments.len() + len - row.len(), PAD_SEGMENT);
        }
        Self::packed(ids, segments, rows.len())
    }

    /// Several documents per row: neighbours of equal segment id are one document, whose positions count from zero.
    ///
    /// `ids` and `segments` hold `n_rows` rows of equal length after one another; [`PAD_SEGMENT`] marks padding.
    ///
    /// # Errors
    /// [`Error::Empty`] where there are no tokens, [`Error::ShapeMismatch`] where they do not form a rectangle.
    pub fn packed(ids: Vec<u32>, segments: Vec<u32>, n_rows: usize) -> Result<Self> {
        if ids.is_empty() || n_rows == 0 {
            return Err(Error::Empty { what: "the batch".to_owned() });
        }
        let len = ids.len() / n_rows;
        if ids.len() != n_rows * len || segments.len() != ids.len() {
            let found = vec![ids.len(), segments.len()];
            return Err(Error::ShapeMismatch { what: "the batch".to_owned(), expected: vec![n_rows * len; 2], found });
        }
        let mut positions = Vec::with_capacity(ids.len());
        for row in segments.chunks(len) {
            let mut start = 0;
            for t in 0..len {
                if t > 0 && row[t] != row[t - 1] {
                    start = t;
                }
                positions.push((t - start) as u32);
            }
        }
        Ok(Self {
            ids: Tensor::from_vec(ids, (n_rows, len), &Device::Cpu)?,
            segments: Segments { ids: segments, positions, batch: n_rows, len },
        })
    }

    /// The token ids, (B, T).
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Document and position of each token.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Number of rows (B).
    pub fn n_rows(&self) -> usize {
        self.segments.batch
    }

    /// Length of each row (T).
    pub fn row_len(&self) -> usize {
        self.segments.len
    }
}

#[cfg(test)]
mod tests {
    use super::Batch;
    use kernels::PAD_SEGMENT;

    #[test]
    fn rows_are_filled_up_on_the_right() {
        let batch = Batch::pad(&[vec![5, 6, 7], vec![8]]).unwrap();
        assert_eq!(batch.ids().to_vec2::<u32>().unwrap(), [[5, 6, 7], [8, 0, 0]]);
        assert_eq!(batch.segments().ids, [0, 0, 0, 0, PAD_SEGMENT, PAD_SEGMENT]);
        assert_eq!(batch.segments().positions, [0, 1, 2, 0, 0, 1]);
    }

    #[test]
    fn positions_restart_with_each_document() {
        let batch = Batch::packed(vec![1; 8], vec![0, 0, 1, 1, 2, 3, 3, 3], 2).unwrap();
        assert_eq!(batch.segments().positions, [0, 1, 0, 1, 0, 0, 1, 2]);
    }

    #[test]
    fn empty_and_ragged_batches_are_refused() {
        assert!(Batch::pad::<Vec<u32>>(&[]).is_err());
        assert!(Batch::pad(&[Vec::<u32>::new()]).is_err());
        assert!(Batch::packed(vec![1; 5], vec![0; 5], 2).is_err());
        assert!(Batch::packed(vec![1; 4], vec![0; 3], 2).is_err());
    }
}
