//! The gradient of a convolution's weight, from the layout of the matrix products to that on disk.

use rayon::prelude::*;

use super::scratch::fresh;

/// `[kh, kw, C_in, C_out]` -> `[C_out, C_in, kh, kw]`.
pub(crate) fn unpack(packed: &[f32], [c_out, c_in, kh, kw]: [usize; 4]) -> Vec<f32> {
    let area = kh * kw;
    let mut weight = fresh(packed.len());
    weight.par_chunks_mut(c_in * area).enumerate().with_min_len(4).for_each(|(co, out)| {
        for (ci, out) in out.chunks_exact_mut(area).enumerate() {
            for (tap, v) in out.iter_mut().enumerate() {
                *v = packed[(tap * c_in + ci) * c_out + co];
            }
        }
    });
    weight
}
