//! Pointwise activations.

use rayon::prelude::*;

use super::{
    exp::{exp, normal, sigmoid},
    kernel::Kernel,
    scratch::fresh,
    simd::vectorized,
};

/// Numbers that one piece of work maps.
const PIECE: usize = 1 << 14;

/// Which function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    LeakyRelu,
}

/// A function applied to each element.
pub(crate) struct Pointwise {
    pub function: Function,
    pub shape: Vec<usize>,
}

impl Kernel<1> for Pointwise {
    const NAME: &'static str = "activation";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        let map = match self.function {
            Function::Silu => silu,
            Function::Gelu => gelu,
            Function::GeluTanh => gelu_tanh,
            Function::Relu => relu,
            Function::LeakyRelu => leaky_relu,
        };
        let mut y = fresh(x.len());
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| map(x, y));
        y
    }

    fn backward(&self, [x]: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        let map = match self.function {
            Function::Silu => silu_gradient,
            Function::Gelu => gelu_gradient,
            Function::GeluTanh => gelu_tanh_gradient,
            Function::Relu => relu_gradient,
            Function::LeakyRelu => leaky_relu_gradient,
        };
        let mut dx = fresh(x.len());
        let pieces = dx.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).zip(dy.par_chunks(PIECE));
        pieces.for_each(|((dx, x), dy)| map(x, dy, dx));
        [Some(dx)]
    }
}

/// `a · gelu(g)` of the halves (a, g) of each row.
pub(crate) struct Geglu {
    pub shape: Vec<usize>,
}

impl Geglu {
    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn rows_at_once(&self) -> usize {
        (PIECE / self.width()).max(1)
    }
}

impl Kernel<1> for Geglu {
    const NAME: &'static str = "geglu";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        let (n, rows) = (self.width(), self.rows_at_once());
        let mut y = fresh(x.len() / 2);
        y.par_chunks_mut(rows * n).zip(x.par_chunks(rows * 2 * n)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(2 * n)) {
                geglu(&x[..n], &x[n..], y);
            }
        });
        y
    }

    fn backward(&self, [x]: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        let (n, rows) = (self.width(), self.rows_at_once());
        let mut dx = fresh(x.len());
        let pieces = dx.par_chunks_mut(rows * 2 * n).zip(x.par_chunks(rows * 2 * n)).zip(dy.par_chunks(rows * n));
        pieces.for_each(|((dx, x), dy)| {
            for ((dx, x), dy) in dx.chunks_exact_mut(2 * n).zip(x.chunks_exact(2 * n)).zip(dy.chunks_exact(n)) {
                let (da, dg) = dx.split_at_mut(n);
                geglu_gradient(&x[..n], &x[n..], dy, da, dg);
            }
        });
        [Some(dx)]
    }
}

/// Slope of the leaky rectifier below 0.
pub(crate) const LEAK: f32 = 0.2;

/// sqrt(2/π) and the cubic coefficient of the tanh approximation (Hendrycks & Gimpel 2016).
const TANH: (f32, f32) = (0.797_884_6, 0.044_715);

vectorized! {
    fn silu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(x);
        }
    }

    fn silu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * silu_slope(x);
        }
    }

    fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal(x).0;
        }
    }

    fn gelu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (phi, density) = normal(x);
            *dx = dy * (phi + x * density);
        }
    }

    fn gelu_tanh(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(2.0 * TANH.0 * (x + TANH.1 * x * x * x));
        }
    }

    fn gelu_tanh_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let e = exp(-2.0 * TANH.0 * (x + TANH.1 * x * x * x));
            let s = 1.0 / (1.0 + e);
            // e·s² is s' and vanishes with e; written so, nothing overflows.
            *dx = dy * (s + x * (s * (1.0 - s)) * (2.0 * TANH.0 * (1.0 + 3.0 * TANH.1 * x * x)));
        }
    }

    fn relu(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x });
    }

    fn relu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = if x <= 0.0 { 0.0 } else { dy };
        }
    }

    fn leaky_relu(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { LEAK * x } else { x });
    }

    fn leaky_relu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = if x <= 0.0 { LEAK * dy } else { dy };
        }
    }

    fn geglu(a: &[f32], g: &[f32], y: &mut [f32]) {
        for ((y, &a), &g) in y.iter_mut().zip(a).zip(g) {
            *y = a * (g * normal(g).0);
        }
    }

    fn geglu_gradient(a: &[f32], g: &[f32], dy: &[f32], da: &mut [f32], dg: &mut [f32]) {
        for ((((da, dg), &a), &g), &dy) in da.iter_mut().zip(dg).zip(a).zip(g).zip(dy) {
            let (phi, density) = normal(g);
            *da = dy * g * phi;
            *dg = dy * a * (phi + g * density);
        }
    }
}

/// Derivative of `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}
