//! 3×3 convolutions of stride 1 by F(2×2, 3×3) (Winograd 1980; Lavin & Gray 2016): 16 products of tiles for 4 pixels of 9 taps.
//!
//! `y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A` for a 4×4 piece d of the source; the gradient of g is `Gᵀ[Σ (Bᵀ d B) ⊙ (A dy Aᵀ)]G`.
//! Larger tiles would save more, but lose digits; these lose none against the direct sum.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    bias::Bias,
    gather::Gather,
    gemm::{Matrix, Packed, gemm},
    reduce::sum_spans,
    scratch::{fresh, with_scratch},
    simd::vectorized,
};

/// Tiles of one product, about.
const TILES: usize = 112;
/// Floats between the ends of one tile's sixteen rows and the next tile's: keeps tiles out of the same cache sets.
const GAP: usize = 16;

/// Whether this way is open and pays: below about a thousand pixels the transformed weights cost more than they save.
pub(crate) fn applies(gather: &Gather, n: usize) -> bool {
    gather.taps == [3, 3] && gather.stride == 1 && gather.source[3] >= 16 && n >= 16 && gather.pixels() >= 1024
}

/// The 2×2 tiles of a grid.
struct Tiles<'a> {
    gather: &'a Gather,
    down: usize,
    across: usize,
}

impl<'a> Tiles<'a> {
    fn new(gather: &'a Gather) -> Self {
        let [h, w] = gather.grid;
        Self { gather, down: h.div_ceil(2), across: w.div_ceil(2) }
    }

    /// Rows of tiles that one piece of work takes.
    fn rows_at_once(&self) -> usize {
        (TILES / self.across).clamp(1, self.down)
    }

    /// Image, row and column of a tile's first pixel.
    fn pixel(&self, tile: usize) -> [usize; 3] {
        let row = tile / self.across;
        [row / self.down, row % self.down * 2, tile % self.across * 2]
    }

    /// `Bᵀ d B` of some channels of the tiles.
    fn data(&self, source: &[f32], tiles: Range<usize>, channels: Range<usize>, out: &mut [f32]) {
        let c = channels.len();
        let zero = vec![0.0; c];
        with_scratch(16 * c, |half| {
            for (tile, out) in tiles.zip(out.chunks_exact_mut(16 * c + GAP)) {
                let [image, oy, ox] = self.pixel(tile);
                let d = |i: usize, j: usize| {
                    let at = [oy as isize + self.gather.origin[0] + i as isize, ox as isize + self.gather.origin[1] + j as isize];
                    pixel(source, self.gather.source, image, at).map_or(&zero[..], |p| &p[channels.clone()])
                };
                for (j, half) in half.chunks_exact_mut(4 * c).enumerate() {
                    data_four([d(0, j), d(1, j), d(2, j), d(3, j)], half);
                }
                for (i, out) in out.chunks_exact_mut(4 * c).enumerate() {
                    data_four(std::array::from_fn(|j| &half[(4 * j + i) * c..(4 * j + i + 1) * c]), out);
                }
            }
        });
    }

    /// `A dy Aᵀ` of the tiles.
    fn gradient(&self, dy: &[f32], n: usize, tiles: Range<usize>, out: &mut [f32]) {
        let ([h, w], zero) = (self.gather.grid, vec![0.0; n]);
        with_scratch(8 * n, |half| {
            for (tile, out) in tiles.zip(out.chunks_exact_mut(16 * n + GAP)) {
                let [image, oy, ox] = self.pixel(tile);
                let y = |i: usize, j: usize| {
                    let at = [(oy + i) as isize, (ox + j) as isize];
                    pixel(dy, [0, h, w, n], image, at).unwrap_or(&zero)
                };
                for (j, half) in half.chunks_exact_mut(4 * n).enumerate() {
                    gradient_two([y(0, j), y(1, j)], half);
                }
                for (i, out) in out.chunks_exact_mut(4 * n).enumerate() {
                    gradient_two([&half[i * n..(i + 1) * n], &half[(4 + i) * n..(5 + i) * n]], out);
                }
            }
        });
    }

    /// Writes `Aᵀ m A`, plus bias, to rows of pixels that begin with that of tile `first`.
    fn result(&self, m: &[f32], n: usize, first: usize, bias: Option<&[f32]>, y: &mut [f32]) {
        let w = self.gather.grid[1];
        let rows = y.len() / (w * n);
        with_scratch(12 * n, |scratch| {
            let (half, whole) = scratch.split_at_mut(8 * n);
            for (t, m) in m.chunks_exact(16 * n + GAP).enumerate() {
                let [_, top, ox] = self.pixel(first + t);
                let oy = top - self.pixel(first)[1];
                for (j, half) in half.chunks_exact_mut(2 * n).enumerate() {
                    result_two(std::array::from_fn(|i| &m[(4 * i + j) * n..(4 * i + j + 1) * n]), half);
                }
                for (i, whole) in whole.chunks_exact_mut(2 * n).enumerate() {
                    result_two(std::array::from_fn(|j| &half[(2 * j + i) * n..(2 * j + i + 1) * n]), whole);
                }
                for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    if oy + i < rows && ox + j < w {
                        let at = ((oy + i) * w + ox + j) * n;
                        store(&whole[(2 * i + j) * n..(2 * i + j + 1) * n], bias, &mut y[at..at + n]);
                    }
                }
            }
        });
    }
}

/// The channels of one pixel, if it is inside the image.
fn pixel(x: &[f32], [_, h, w, c]: [usize; 4], image: usize, [y, x0]: [isize; 2]) -> Option<&[f32]> {
    let inside = y >= 0 && x0 >= 0 && (y as usize) < h && (x0 as usize) < w;
    let at = inside.then(|| ((image * h + y as usize) * w + x0 as usize) * c)?;
    Some(&x[at..at + c])
}

/// Windows times the nine `taps` (`[channels, n]` each), plus bias.
pub(crate) fn product(gather: &Gather, source: &[f32], taps: &[Matrix<'_>], n: usize, bias: Option<Bias<'_>>) -> Vec<f32> {
    let ([batch, _, _, c], [h, w]) = (gather.source, gather.grid);
    let (tiles, weights) = (Tiles::new(gather), transformed_weights(taps, c, n));
    let rows = tiles.rows_at_once();
    let mut y = fresh(batch * h * w * n);
    let tasks: Vec<_> = y
        .chunks_mut(h * w * n)
        .enumerate()
        .flat_map(|(i, y)| y.chunks_mut(2 * rows * w * n).enumerate().map(move |(j, y)| (i, j * rows, y)))
        .collect();
    tasks.into_par_iter().for_each(|(image, row, y)| {
        let first = (image * tiles.down + row) * tiles.across;
        let count = (y.len() / (w * n)).div_ceil(2) * tiles.across;
        let (dc, dn) = (16 * c + GAP, 16 * n + GAP);
        with_scratch(count * dc, |v| {
            tiles.data(source, first..first + count, 0..c, v);
            with_scratch(count * dn, |m| {
                for (p, weight) in weights.iter().enumerate() {
                    weight.product_wide((&mut m[p * n..], dn), count, Matrix::rows(&v[p * c..], dc));
                }
                tiles.result(m, n, first, bias.map(|b| b.of(image * h * w)), y);
            });
        });
    });
    y
}

/// Gradient of the nine taps, `[3, 3, channels, n]`.
pub(crate) fn weight_gradient(gather: &Gather, source: &[f32], dy: &[f32], n: usize) -> Vec<f32> {
    let c = gather.source[3];
    let tiles = Tiles::new(gather);
    let count = gather.source[0] * tiles.down * tiles.across;
    let width = c.div_ceil(c.div_ceil(128));
    let blocks = c.div_ceil(width);
    let spans = 8usize.div_ceil(blocks).min(count.div_ceil(TILES));
    // Channels first, then the sixteen positions: `[spans][blocks][16][channels of the block][n]`.
    let mut partial = fresh(spans * 16 * c * n);
    let pieces: Vec<(usize, &mut [f32])> =
        partial.chunks_mut(16 * c * n).flat_map(|span| span.chunks_mut(16 * width * n)).enumerate().collect();
    pieces.into_par_iter().for_each(|(i, out)| {
        let (span, first) = (i / blocks, i % blocks * width);
        let channels = first..first + out.len() / (16 * n);
        let span = span * count / spans..(span + 1) * count / spans;
        weight_block(&tiles, source, dy, n, span, channels, out);
    });
    let total = sum_spans(partial, 16 * c * n);
    let mut taps = fresh(9 * c * n);
    let mut block = 0;
    while block * width < c {
        let channels = block * width..c.min((block + 1) * width);
        let from = &total[16 * channels.start * n..16 * channels.end * n];
        gradient_of_taps(from, channels.len() * n, &mut taps, (c * n, channels.start * n));
        block += 1;
    }
    taps
}

fn weight_block(
    tiles: &Tiles<'_>,
    source: &[f32],
    dy: &[f32],
    n: usize,
    span: Range<usize>,
    channels: Range<usize>,
    out: &mut [f32],
) {
    let (c, start) = (channels.len(), span.start);
    let (dc, dn) = (16 * c + GAP, 16 * n + GAP);
    for first in span.clone().step_by(TILES) {
        let part = first..span.end.min(first + TILES);
        with_scratch(part.len() * dc, |v| {
            tiles.data(source, part.clone(), channels.clone(), v);
            with_scratch(part.len() * dn, |z| {
                tiles.gradient(dy, n, part.clone(), z);
                for (p, out) in out.chunks_exact_mut(c * n).enumerate() {
                    let (v, z) = (Matrix::rows(&v[p * c..], dc), Matrix::rows(&z[p * n..], dn));
                    gemm([c, n, part.len()], (out, n), first > start, 1.0, v.t(), z);
                }
            });
        });
    }
}

/// `G g Gᵀ`: sixteen matrices `[channels, n]`.
fn transformed_weights(taps: &[Matrix<'_>], c: usize, n: usize) -> Vec<Packed> {
    let mut dense = fresh(16 * c * n);
    dense.par_chunks_exact_mut(16 * n).enumerate().for_each(|(ci, out)| {
        for co in 0..n {
            let g: [[f32; 3]; 3] = std::array::from_fn(|y| std::array::from_fn(|x| taps[3 * y + x].at(ci, co)));
            let rows = g.map(weight_three);
            for x in 0..4 {
                for (y, u) in weight_three([rows[0][x], rows[1][x], rows[2][x]]).into_iter().enumerate() {
                    out[(4 * y + x) * n + co] = u;
                }
            }
        }
    });
    (0..16).map(|p| Packed::new(&[Matrix::rows(&dense[p * n..], 16 * n)], c, n)).collect()
}

/// G times three numbers.
fn weight_three([a, b, c]: [f32; 3]) -> [f32; 4] {
    [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]
}

/// Gᵀ times four numbers.
#[inline(always)]
fn taps_of([a, b, c, d]: [f32; 4]) -> [f32; 3] {
    [a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d]
}

/// `Gᵀ s G` of `len` elements of sixteen positions, to nine taps at `offset`, `tap` apart.
fn gradient_of_taps(s: &[f32], len: usize, out: &mut [f32], (tap, offset): (usize, usize)) {
    for i in 0..len {
        let rows: [[f32; 3]; 4] = std::array::from_fn(|y| taps_of(std::array::from_fn(|x| s[(4 * y + x) * len + i])));
        for x in 0..3 {
            for (y, v) in taps_of([rows[0][x], rows[1][x], rows[2][x], rows[3][x]]).into_iter().enumerate() {
                out[(3 * y + x) * tap + offset + i] = v;
            }
        }
    }
}

vectorized! {
    /// Bᵀ times four rows.
    fn data_four(d: [&[f32]; 4], out: &mut [f32]) {
        let c = d[0].len();
        let (upper, lower) = out.split_at_mut(2 * c);
        let ((o0, o1), (o2, o3)) = (upper.split_at_mut(c), lower.split_at_mut(c));
        let (d0, d1, d2, d3) = (&d[0][..c], &d[1][..c], &d[2][..c], &d[3][..c]);
        let (o2, o3) = (&mut o2[..c], &mut o3[..c]);
        for i in 0..c {
            o0[i] = d0[i] - d2[i];
            o1[i] = d1[i] + d2[i];
            o2[i] = d2[i] - d1[i];
            o3[i] = d1[i] - d3[i];
        }
    }

    /// A times two rows.
    fn gradient_two(y: [&[f32]; 2], out: &mut [f32]) {
        let n = y[0].len();
        let (upper, lower) = out.split_at_mut(2 * n);
        let ((o0, o1), (o2, o3)) = (upper.split_at_mut(n), lower.split_at_mut(n));
        let (y0, y1) = (&y[0][..n], &y[1][..n]);
        let (o2, o3) = (&mut o2[..n], &mut o3[..n]);
        for i in 0..n {
            o0[i] = y0[i];
            o1[i] = y0[i] + y1[i];
            o2[i] = y0[i] - y1[i];
            o3[i] = -y1[i];
        }
    }

    /// Aᵀ times four rows.
    fn result_two(m: [&[f32]; 4], out: &mut [f32]) {
        let n = m[0].len();
        let (o0, o1) = out.split_at_mut(n);
        let (m0, m1, m2, m3) = (&m[0][..n], &m[1][..n], &m[2][..n], &m[3][..n]);
        let o1 = &mut o1[..n];
        for i in 0..n {
            o0[i] = m0[i] + m1[i] + m2[i];
            o1[i] = m1[i] - m2[i] - m3[i];
        }
    }

    fn store(x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        match bias {
            Some(bias) => y.iter_mut().zip(x).zip(bias).for_each(|((y, x), b)| *y = x + b),
            None => y.copy_from_slice(x),
        }
    }
}
