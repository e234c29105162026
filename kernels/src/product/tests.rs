//! Products against their definition.

use super::*;
use crate::check::{draw, values};
use candle_core::{DType, Tensor};
use proptest::prelude::*;

fn by_hand(a: &Tensor, b: &Tensor) -> Vec<f64> {
    values(&a.to_dtype(DType::F64).unwrap().matmul(&b.to_dtype(DType::F64).unwrap()).unwrap())
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() < 1e-4, "element {i}: {a} instead of {b}");
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_definition_for_any_shape_and_layout(m in 1_usize..120, n in 1_usize..140, k in 1_usize..300) {
        let (a, b) = (draw(1, &[m, k], DType::F32), draw(2, &[k, n], DType::F32));
        let expected = by_hand(&a, &b);
        let (a_t, b_t) = (flat(&a.t().unwrap()), flat(&b.t().unwrap()));
        let (a, b) = (flat(&a), flat(&b));
        let packed = Packed::new(View::dense(&b, k, n));
        let mut dst = vec![0.0; m * n];
        multiply(&mut dst, View::dense(&a, m, k), &packed, Into::Overwrite);
        assert_close(&dst, &expected);
        multiply(&mut dst, View::dense(&a_t, k, m).transposed(), &packed, Into::Add);
        let twice: Vec<f64> = expected.iter().map(|value| 2.0 * value).collect();
        assert_close(&dst, &twice);
        assert_close(&multiply_transposed(View::dense(&a, m, k), View::dense(&b_t, n, k)), &expected);
    }
}

#[test]
fn every_width_of_registers_gives_the_product() {
    let (m, n, k) = (29, 75, 40);
    let (a, b) = (draw(3, &[m, k], DType::F64), draw(4, &[k, n], DType::F64));
    let expected = by_hand(&a, &b);
    let width = 2 * Portable::<f64>::LANES;
    let (a, b) = (values(&a), values(&b));
    let view = View::dense(&b, k, n);
    let mut panels = vec![0.0; n.div_ceil(width) * width * k];
    for (idx, panel) in panels.chunks_mut(width * k).enumerate() {
        pack_panel(panel, view, idx * width, width);
    }
    let mut dst = vec![0.0; m * n];
    let job = Job {
        dst: dst.as_mut_ptr(),
        dst_stride: n,
        left: a.as_ptr(),
        row_stride: k,
        col_stride: 1,
        rows: m,
        depth: k,
        panels: panels.as_ptr(),
        panel_len: k * width,
        first_inner: 0,
        cols: n,
        width,
        into: Into::Overwrite,
    };
    // SAFETY: the job describes the whole of the three buffers above.
    unsafe { narrow_panels::<Portable<f64>>(&job) };
    assert!(dst.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn a_product_in_pieces_is_the_same_to_the_last_bit_however_it_is_cut() {
    for (m, n, k) in [(1, 64, 90), (7, 40, 300), (20, 200, 33)] {
        let (a, b) = (flat(&draw(7, &[m, k], DType::F32)), flat(&draw(8, &[k, n], DType::F32)));
        let in_pieces = |cuts: &[usize]| {
            let mut dst = vec![0.0; m * n];
            for piece in cuts.windows(2) {
                let (start, len) = (piece[0], piece[1] - piece[0]);
                let packed = Packed::new_here(View::dense(&b[start * n..], len, n));
                multiply_here(
                    &mut dst,
                    n,
                    View::strided(&a[start..], m, len, k),
                    &packed,
                    0..len,
                    0..n,
                    Into::Continue,
                );
            }
            dst
        };
        let whole = in_pieces(&[0, k]);
        assert_eq!(whole, in_pieces(&[0, 1, 17, 32, k]));
        let packed = Packed::new_here(View::dense(&b, k, n));
        let mut dst = vec![0.0; m * n];
        multiply(&mut dst, View::dense(&a, m, k), &packed, Into::Overwrite);
        assert!(dst.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[test]
fn parts_of_the_inner_dimension_and_of_the_columns_can_be_taken() {
    let (m, n, k) = (5, 200, 90);
    let (a, b) = (draw(5, &[m, 20], DType::F32), draw(6, &[k, n], DType::F32));
    let packed = Packed::new(View::dense(&flat(&b), k, n));
    let (from, to) = (packed.width(), packed.width() + 17);
    let expected = by_hand(&a, &b.narrow(0, 30, 20).unwrap().narrow(1, from, 17).unwrap());
    let mut dst = vec![0.0; m * 17];
    multiply_here(&mut dst, 17, View::dense(&flat(&a), m, 20), &packed, 30..50, from..to, Into::Overwrite);
    assert_close(&dst, &expected);
}
