//! Convolution and both its gradients as matrix products over tiles of windows.

use rayon::prelude::*;

use super::{
    bias::{self, Bias},
    few,
    gather::Gather,
    gemm::{Matrix, Packed, gemm},
    kernel::Kernel,
    linear::{self, Sizes},
    narrow,
    reduce::sum_spans,
    scratch::{fresh, row_distance, with_scratch},
    weights::{unpack, unpack_turned},
    winograd,
};

/// Shapes of one convolution, all known to agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Batch, height, width and channels of the input.
    pub input: [usize; 4],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// `[C_out, C_in, kh, kw]`.
    pub weight: [usize; 4],
    /// Step.
    pub stride: usize,
    /// Zeros above and at the left.
    pub top_left: [usize; 2],
}

impl Geometry {
    fn gradients(&self, x: &[f32], w: &[f32], wanted: [bool; 2], dy: &[f32]) -> [Option<Vec<f32>>; 2] {
        [wanted[0].then(|| input_gradient(self, dy, w)), wanted[1].then(|| weight_gradient(self, x, dy))]
    }

    fn result_shape(&self) -> Vec<usize> {
        vec![self.input[0], self.output[0], self.output[1], self.weight[0]]
    }
}

impl Kernel<2> for Geometry {
    const NAME: &'static str = "conv2d";

    fn shape(&self) -> Vec<usize> {
        self.result_shape()
    }

    fn forward(&self, [x, w]: [&[f32]; 2]) -> Vec<f32> {
        forward(self, x, w, None)
    }

    fn backward(&self, [x, w]: [&[f32]; 2], wanted: [bool; 2], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 2] {
        self.gradients(x, w, wanted, dy)
    }
}

impl Kernel<3> for Geometry {
    const NAME: &'static str = "conv2d";

    fn shape(&self) -> Vec<usize> {
        self.result_shape()
    }

    fn forward(&self, [x, w, b]: [&[f32]; 3]) -> Vec<f32> {
        forward(self, x, w, Some(Bias::new(b, self.weight[0], self.windows().pixels())))
    }

    fn backward(&self, [x, w, b]: [&[f32]; 3], wanted: [bool; 3], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        let [dx, dw] = self.gradients(x, w, [wanted[0], wanted[1]], dy);
        [dx, dw, wanted[2].then(|| bias::gradient(dy, self.weight[0], b.len()))]
    }
}

/// Elements of the windows that are gathered at a time: those of a tile of pixels stay in the second-level cache.
const WINDOW_PART: usize = 768;

/// `[B, H', W', C_out]` of x and weight, plus bias.
fn forward(g: &Geometry, x: &[f32], weight: &[f32], bias: Option<Bias<'_>>) -> Vec<f32> {
    let [c_out, c_in, kh, kw] = g.weight;
    let gather = g.windows();
    if few::applies(&gather, c_out) {
        return few::forward(&gather, x, weight, bias);
    }
    if gather.is_identity() {
        return linear::forward(g.sizes(), x, weight, bias);
    }
    let area = kh * kw;
    let taps: Vec<_> = (0..area).map(|tap| Matrix::strided(&weight[tap..], area, c_in * area)).collect();
    product(&gather, x, &taps, c_out, bias)
}

/// Gradient of the input, `[B, H, W, C_in]`, from that of the output.
fn input_gradient(g: &Geometry, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let gather = g.windows();
    if few::applies(&gather, g.weight[0]) {
        return few::input_gradient(&gather, dy, weight);
    }
    if gather.is_identity() {
        return linear::input_gradient(g.sizes(), dy, weight);
    }
    if g.stride == 1 {
        return phase(g, dy, weight, [0, 0]);
    }
    let [batch, h, w, c] = g.input;
    let mut dx = fresh(batch * h * w * c);
    for py in 0..g.stride.min(h) {
        for px in 0..g.stride.min(w) {
            let part = phase(g, dy, weight, [py, px]);
            interleave(&mut dx, &part, g, [py, px]);
        }
    }
    dx
}

/// Gradient of the weight, `[C_out, C_in, kh, kw]`, from the input and the gradient of the output.
fn weight_gradient(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let gather = g.windows();
    if few::applies(&gather, g.weight[0]) {
        return few::weight_gradient(&gather, x, dy);
    }
    if gather.is_identity() {
        return linear::weight_gradient(g.sizes(), x, dy);
    }
    if winograd::applies(&gather, g.weight[0]) {
        return unpack(&winograd::weight_gradient(&gather, x, dy, g.weight[0]), g.weight);
    }
    if narrow::applies(&gather, g.weight[0]) {
        // The windows of the narrow side are the smaller ones: the two change places, and every tap becomes its opposite.
        return unpack_turned(&window_products(&g.turned_windows(), dy, x), g.weight);
    }
    unpack(&window_products(&gather, x, dy), g.weight)
}

/// `Σ windowᵀ · line` over the windows of `source` and as many `lines`: `[window, width of a line]`.
fn window_products(gather: &Gather, source: &[f32], lines: &[f32]) -> Vec<f32> {
    let (k, pixels) = (gather.window(), gather.pixels());
    let width = lines.len() / pixels;
    let (rows, spans) = weight_blocks(k, pixels);
    let blocks = k.div_ceil(rows);
    let mut partial = fresh(spans * k * width);
    let tasks: Vec<(usize, &mut [f32])> =
        partial.chunks_mut(k * width).flat_map(|span| span.chunks_mut(rows * width)).enumerate().collect();
    tasks.into_par_iter().for_each(|(i, out)| {
        let (span, first) = (i / blocks, (i % blocks) * rows);
        let span = span * pixels / spans..(span + 1) * pixels / spans;
        weight_block(gather, source, lines, span, first, out);
    });
    sum_spans(partial, k * width)
}

impl Geometry {
    /// A 1×1 convolution as an affine map.
    fn sizes(&self) -> Sizes {
        Sizes { rows: self.input[..3].iter().product(), n_in: self.weight[1], n_out: self.weight[0] }
    }

    fn windows(&self) -> Gather {
        let [_, _, kh, kw] = self.weight;
        let [top, left] = self.top_left;
        Gather {
            source: self.input,
            grid: self.output,
            stride: self.stride,
            taps: [kh, kw],
            origin: [-(top as isize), -(left as isize)],
        }
    }

    /// For every input pixel the window of output pixels that it enters, at stride 1: the taps in reverse order.
    fn turned_windows(&self) -> Gather {
        let [batch, height, width, _] = self.input;
        let [c_out, _, kh, kw] = self.weight;
        let [top, left] = self.top_left;
        Gather {
            source: [batch, self.output[0], self.output[1], c_out],
            grid: [height, width],
            stride: 1,
            taps: [kh, kw],
            origin: [(top + 1) as isize - kh as isize, (left + 1) as isize - kw as isize],
        }
    }
}

/// Windows times the matrices of their taps (`[channels, n]` each), plus bias.
fn product(gather: &Gather, source: &[f32], taps: &[Matrix<'_>], n: usize, bias: Option<Bias<'_>>) -> Vec<f32> {
    if narrow::applies(gather, n) {
        return narrow::product(gather, source, taps, n, bias);
    }
    if winograd::applies(gather, n) {
        return winograd::product(gather, source, taps, n, bias);
    }
    let matrix = Packed::new(taps, gather.source[3], n);
    let (k, pixels) = (gather.window(), gather.pixels());
    let mut y = fresh(pixels * n);
    let tile = tile_pixels(pixels);
    y.par_chunks_mut(tile * n).enumerate().for_each(|(i, y)| {
        let (count, first) = (y.len() / n, i * tile);
        if let Some(bias) = bias {
            bias.fill(first, y);
        }
        for part in (0..k).step_by(WINDOW_PART).map(|from| from..k.min(from + WINDOW_PART)) {
            let distance = row_distance(part.len());
            with_scratch(count * distance, |columns| {
                gather.columns(source, first..first + count, part.clone(), (columns, distance));
                matrix.product_part(part.clone(), y, bias.is_some() || part.start > 0, Matrix::rows(columns, distance));
            });
        }
    });
    y
}

/// Pixels of one tile: whole tiles of the matrix product, and some for every thread.
fn tile_pixels(pixels: usize) -> usize {
    pixels.div_ceil(8).min(252).next_multiple_of(14)
}

/// The pixels (py, px) + stride·(i, j) of the input's gradient: a convolution of dy with every stride-th tap, flipped.
fn phase(g: &Geometry, dy: &[f32], weight: &[f32], start: [usize; 2]) -> Vec<f32> {
    let [batch, h, w, c_in] = g.input;
    let [c_out, _, kh, kw] = g.weight;
    let y = Axis::new(start[0], g.top_left[0], g.stride, kh, h);
    let x = Axis::new(start[1], g.top_left[1], g.stride, kw, w);
    if y.taps.is_empty() || x.taps.is_empty() {
        return vec![0.0; batch * y.count * x.count * c_in];
    }
    let gather = Gather {
        source: [batch, g.output[0], g.output[1], c_out],
        grid: [y.count, x.count],
        stride: 1,
        taps: [y.taps.len(), x.taps.len()],
        origin: [y.origin, x.origin],
    };
    let area = kh * kw;
    let tap = |ky: usize, kx: usize| Matrix::strided(&weight[ky * kw + kx..], c_in * area, area);
    let taps: Vec<_> = y.taps.iter().flat_map(|ky| x.taps.iter().map(|kx| tap(*ky, *kx))).collect();
    product(&gather, dy, &taps, c_in, None)
}

/// One direction of a phase: which taps meet its pixels, in the order of the output pixels that they come from.
struct Axis {
    taps: Vec<usize>,
    origin: isize,
    count: usize,
}

impl Axis {
    /// Input position i = start + stride·q receives from output o = (i + before - tap) / stride where that is whole.
    fn new(start: usize, before: usize, stride: usize, kernel: usize, size: usize) -> Self {
        let residue = (start + before) % stride;
        let taps: Vec<usize> = (residue..kernel).step_by(stride).collect::<Vec<_>>().into_iter().rev().collect();
        let origin = ((start + before) / stride) as isize + 1 - taps.len() as isize;
        Self { taps, origin, count: size.saturating_sub(start).div_ceil(stride) }
    }
}

/// Writes the pixels of one phase to their places in dx.
fn interleave(dx: &mut [f32], part: &[f32], g: &Geometry, [py, px]: [usize; 2]) {
    let ([_, h, w, c], s) = (g.input, g.stride);
    let (rows, columns) = ((h - py).div_ceil(s), (w - px).div_ceil(s));
    dx.par_chunks_mut(w * c).enumerate().filter(|(row, _)| row % h % s == py).for_each(|(row, line)| {
        let first = (row / h * rows + row % h / s) * columns * c;
        for (j, pixel) in part[first..first + columns * c].chunks_exact(c).enumerate() {
            let x = px + s * j;
            line[x * c..(x + 1) * c].copy_from_slice(pixel);
        }
    });
}

/// How the weight's gradient is cut: rows of the `[window, C_out]` matrix per piece, and spans of pixels, summed afterwards.
fn weight_blocks(k: usize, pixels: usize) -> (usize, usize) {
    let rows = k.div_ceil(k.div_ceil(160)).next_multiple_of(8).min(k);
    let spans = (16 / k.div_ceil(rows)).clamp(1, pixels.div_ceil(512));
    (rows, spans)
}

/// `windows[span, first..]ᵀ · dy[span]` for as many window elements as `out` has rows.
fn weight_block(gather: &Gather, x: &[f32], dy: &[f32], span: std::ops::Range<usize>, first: usize, out: &mut [f32]) {
    let c_out = dy.len() / gather.pixels();
    let rows = out.len() / c_out;
    let tile = 256;
    for begin in span.clone().step_by(tile) {
        let end = span.end.min(begin + tile);
        let (count, dy) = (end - begin, Matrix::rows(&dy[begin * c_out..end * c_out], c_out));
        let again = begin > span.start;
        with_scratch(count * rows, |columns| {
            gather.columns(x, begin..end, first..first + rows, (columns, rows));
            gemm([rows, c_out, count], (out, c_out), again, 1.0, Matrix::rows(columns, rows).t(), dy);
        });
    }
}
