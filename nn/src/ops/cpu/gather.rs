//! Convolution windows as rows of a matrix (im2col), over any range of pixels and of window elements.

use std::ops::Range;

/// For every pixel (oy, ox) of a grid, the window of `taps` source pixels that begins at `(oy, ox) · stride + origin`.
/// A window is `taps[0]` runs of `taps[1] · channels` contiguous numbers; what lies outside the source is zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gather {
    /// Source images: batch, height, width, channels.
    pub source: [usize; 4],
    /// Height and width of the grid.
    pub grid: [usize; 2],
    /// Step in the source from one grid pixel to the next.
    pub stride: usize,
    /// Window: rows and columns.
    pub taps: [usize; 2],
    /// Where the window of grid pixel (0, 0) begins in the source.
    pub origin: [isize; 2],
}

impl Gather {
    /// Number of windows.
    pub(crate) const fn pixels(&self) -> usize {
        self.source[0] * self.grid[0] * self.grid[1]
    }

    /// Numbers in one window.
    pub(crate) const fn window(&self) -> usize {
        self.taps[0] * self.taps[1] * self.source[3]
    }

    /// Whether the windows are the source itself, row by row: a 1×1 window without stride or offset.
    pub(crate) fn is_identity(&self) -> bool {
        let [_, h, w, _] = self.source;
        self.taps == [1, 1] && self.stride == 1 && self.origin == [0, 0] && self.grid == [h, w]
    }

    /// For each tap of the window of `pixel`, where the channels of its source pixel begin, if it is inside.
    pub(crate) fn sources(&self, pixel: usize) -> impl Iterator<Item = Option<usize>> {
        let [_, h, w, c] = self.source;
        let (image, oy, ox) = (pixel / (self.grid[0] * self.grid[1]), pixel / self.grid[1] % self.grid[0], pixel % self.grid[1]);
        let (y0, x0) = ((oy * self.stride) as isize + self.origin[0], (ox * self.stride) as isize + self.origin[1]);
        let across = self.taps[1];
        (0..self.taps[0] * across).map(move |tap| {
            let (y, x) = (y0 + (tap / across) as isize, x0 + (tap % across) as isize);
            let inside = y >= 0 && x >= 0 && (y as usize) < h && (x as usize) < w;
            inside.then(|| ((image * h + y as usize) * w + x as usize) * c)
        })
    }

    /// Writes elements `range` of the windows of `pixels`, their beginnings `distance` apart.
    pub(crate) fn columns(
        &self,
        source: &[f32],
        pixels: Range<usize>,
        range: Range<usize>,
        (out, distance): (&mut [f32], usize),
    ) {
        let [height, width] = self.grid;
        for (row, pixel) in out.chunks_exact_mut(distance).zip(pixels) {
            let row = &mut row[..range.len()];
            let (image, rest) = (pixel / (height * width), pixel % (height * width));
            self.window_of(source, [image, rest / width, rest % width], range.clone(), row);
        }
    }

    fn window_of(&self, source: &[f32], [image, oy, ox]: [usize; 3], range: Range<usize>, out: &mut [f32]) {
        let [_, h, w, c] = self.source;
        let run = self.taps[1] * c;
        let y0 = (oy * self.stride) as isize + self.origin[0];
        let x0 = (ox * self.stride) as isize + self.origin[1];
        let first = (-x0).clamp(0, self.taps[1] as isize) as usize * c;
        let last = (w as isize - x0).clamp(0, self.taps[1] as isize) as usize * c;
        let mut done = 0;
        while done < out.len() {
            let (ty, begin) = ((range.start + done) / run, (range.start + done) % run);
            let end = run.min(begin + out.len() - done);
            let target = &mut out[done..done + end - begin];
            done += end - begin;
            let y = y0 + ty as isize;
            let (a, b) = (first.clamp(begin, end), last.clamp(begin, end));
            if y < 0 || y >= h as isize || a >= b {
                target.fill(0.0);
                continue;
            }
            target[..a - begin].fill(0.0);
            target[b - begin..].fill(0.0);
            let line = ((image * h + y as usize) * w * c) as isize + x0 * c as isize;
            let at = (line + a as isize) as usize;
            copy(&mut target[a - begin..b - begin], &source[at..at + b - a]);
        }
    }
}

/// Copies a run; short ones, those of images of few channels, without a call: by two overlapping pieces of known length.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    match from.len() {
        4..8 => copy_ends::<4>(to, from),
        8..16 => copy_ends::<8>(to, from),
        16..32 => copy_ends::<16>(to, from),
        _ => to.copy_from_slice(from),
    }
}

#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [f32], from: &[f32]) {
    let last = from.len() - N;
    to[..N].copy_from_slice(&from[..N]);
    to[last..last + N].copy_from_slice(&from[last..last + N]);
}
