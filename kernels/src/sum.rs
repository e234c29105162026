//! Sums of tensors that are wider than their terms.

use crate::adamw::BLOCK_LEN;
use crate::error::Result;
use crate::parallel::for_each_block;
use crate::storage::Values;
use candle_core::Tensor;

/// Adds an f32 tensor on the CPU to a sum in f64, element by element.
///
/// The sum of some f32 numbers in f64 is all but always exact (their exponents would have to lie 29 bits apart), so that rounded to f32 it does
/// not depend on the order in which they come, nor on how they are grouped.
///
/// # Errors
/// [`crate::Error`] for a tensor that is not f32 or not on the CPU.
///
/// # Panics
/// Where the tensor has another number of elements than the sum.
pub fn add_to(sum: &mut [f64], term: &Tensor) -> Result<()> {
    assert_eq!(sum.len(), term.elem_count(), "a sum has as many elements as its terms");
    let term = term.contiguous()?;
    let values = Values::of(&term);
    let values = values.as_slice::<f32>()?;
    for_each_block(sum, BLOCK_LEN, |idx, block| {
        for (sum, &value) in block.iter_mut().zip(&values[idx * BLOCK_LEN..]) {
            *sum += f64::from(value);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::add_to;
    use crate::check::draw;
    use candle_core::DType;

    #[test]
    fn a_sum_rounded_to_f32_does_not_depend_on_the_order_of_its_terms() {
        let terms: Vec<_> = (1..=7).map(|seed| draw(seed, &[3, 5000], DType::F32)).collect();
        let sum = |order: &[usize]| {
            let mut sum = vec![0.0; 15_000];
            for &i in order {
                add_to(&mut sum, &terms[i]).unwrap();
            }
            sum.into_iter().map(|x| (x as f32).to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(sum(&[0, 1, 2, 3, 4, 5, 6]), sum(&[5, 3, 0, 6, 2, 4, 1]));
        let narrow = terms.iter().skip(1).fold(terms[0].clone(), |sum, term| (sum + term).unwrap());
        let narrow = narrow.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let off =
            sum(&[0, 1, 2, 3, 4, 5, 6]).iter().zip(&narrow).filter(|(wide, narrow)| **wide != narrow.to_bits()).count();
        assert!(off > 1000, "f32 itself rounds at each term: {off}");
    }
}
