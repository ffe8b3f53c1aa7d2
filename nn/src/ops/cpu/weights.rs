//! Weights of a convolution between their layout on disk and that of the matrix products.

use rayon::prelude::*;

/// `[C_out, C_in, kh, kw]` -> `[taps, C_in, C_out]`.
pub(crate) fn pack_forward(weight: &[f32], [c_out, c_in, kh, kw]: [usize; 4], taps: &[usize]) -> Vec<f32> {
    let area = kh * kw;
    let mut packed = vec![0.0; taps.len() * c_in * c_out];
    packed.par_chunks_mut(c_out).enumerate().with_min_len(64).for_each(|(row, out)| {
        let (tap, ci) = (taps[row / c_in], row % c_in);
        for (co, v) in out.iter_mut().enumerate() {
            *v = weight[(co * c_in + ci) * area + tap];
        }
    });
    packed
}

/// `[C_out, C_in, kh, kw]` -> `[taps, C_out, C_in]`.
pub(crate) fn pack_backward(weight: &[f32], [c_out, c_in, kh, kw]: [usize; 4], taps: &[usize]) -> Vec<f32> {
    let area = kh * kw;
    let mut packed = vec![0.0; taps.len() * c_out * c_in];
    packed.par_chunks_mut(c_in).enumerate().with_min_len(64).for_each(|(row, out)| {
        let (tap, co) = (taps[row / c_out], row % c_out);
        for (v, w) in out.iter_mut().zip(weight[co * c_in * area + tap..].iter().step_by(area)) {
            *v = *w;
        }
    });
    packed
}

/// `[kh, kw, C_in, C_out]` -> `[C_out, C_in, kh, kw]`.
pub(crate) fn unpack(packed: &[f32], [c_out, c_in, kh, kw]: [usize; 4]) -> Vec<f32> {
    let area = kh * kw;
    let mut weight = vec![0.0; packed.len()];
    weight.par_chunks_mut(c_in * area).enumerate().with_min_len(4).for_each(|(co, out)| {
        for (ci, out) in out.chunks_exact_mut(area).enumerate() {
            for (tap, v) in out.iter_mut().enumerate() {
                *v = packed[(tap * c_in + ci) * c_out + co];
            }
        }
    });
    weight
}
