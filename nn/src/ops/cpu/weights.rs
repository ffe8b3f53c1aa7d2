//! The gradient of a convolution's weight, from the layout of the matrix products to that on disk.

use rayon::prelude::*;

use super::scratch::fresh;

/// `[kh, kw, C_in, C_out]` -> `[C_out, C_in, kh, kw]`.
pub(crate) fn unpack(packed: &[f32], shape: [usize; 4]) -> Vec<f32> {
    let [c_out, c_in, ..] = shape;
    rearranged(shape, |co, ci, tap| packed[(tap * c_in + ci) * c_out + co])
}

/// `[kh, kw, C_out, C_in]` with the taps in reverse order -> `[C_out, C_in, kh, kw]`.
pub(crate) fn unpack_turned(packed: &[f32], shape: [usize; 4]) -> Vec<f32> {
    let [c_out, c_in, kh, kw] = shape;
    rearranged(shape, |co, ci, tap| packed[((kh * kw - 1 - tap) * c_out + co) * c_in + ci])
}

fn rearranged([c_out, c_in, kh, kw]: [usize; 4], of: impl Fn(usize, usize, usize) -> f32 + Sync) -> Vec<f32> {
    let area = kh * kw;
    let mut weight = fresh(c_out * c_in * area);
    weight.par_chunks_mut(c_in * area).enumerate().with_min_len(4).for_each(|(co, out)| {
        for (ci, out) in out.chunks_exact_mut(area).enumerate() {
            out.iter_mut().enumerate().for_each(|(tap, v)| *v = of(co, ci, tap));
        }
    });
    weight
}
