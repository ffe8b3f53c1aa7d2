//! A matrix as colours, with a scale beside it.

use std::path::Path;

use anyhow::Result;
use strata_datasets::RgbImage;

use super::{
    axis::number,
    canvas::{Align, Canvas, INK, Rgb},
};
use crate::grid;

/// Dark to bright, evenly for the eye and in grey (after Smith & van der Walt's viridis, at nine points).
const COLORS: [Rgb; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];
const MISSING: Rgb = [200, 200, 200];

/// Drawn twice as large, then halved.
const SIDE: f64 = 1000.0;
const LEFT: f64 = 190.0;
const TOP: f64 = 100.0;
const WIDTH: f64 = LEFT + SIDE + 220.0;
const HEIGHT: f64 = TOP + SIDE + 140.0;
const LABEL: f64 = 28.0;

/// A matrix and what is written around it.
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x_label: String,
    /// At its left.
    pub y_label: String,
    /// Rows of equal length; the first is at the bottom. What is not finite is grey.
    pub rows: Vec<Vec<f64>>,
    /// Where along the columns something is written: index and text.
    pub x_ticks: Vec<(usize, String)>,
    /// The same along the rows.
    pub y_ticks: Vec<(usize, String)>,
    /// Values of the darkest and the brightest colour; those of the matrix when absent.
    pub range: Option<(f64, f64)>,
}

impl HeatMap {
    /// Draws it and writes it as a PNG file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        grid::write_png(&self.draw(), path)
    }

    /// The picture, 705×620.
    pub fn draw(&self) -> RgbImage {
        let mut canvas = Canvas::new(WIDTH as usize, HEIGHT as usize, [255; 3]);
        canvas.text(&self.title, LEFT, TOP / 2.0, Align::Left, 36.0, INK);
        canvas.text(&self.x_label, LEFT + SIDE / 2.0, HEIGHT - 42.0, Align::Center, LABEL, INK);
        canvas.text(&self.y_label, 36.0, TOP + SIDE / 2.0, Align::Upward, LABEL, INK);
        let (low, high) = self.range.unwrap_or_else(|| self.extremes());
        self.cells(&mut canvas, low, high);
        self.ticks(&mut canvas);
        scale(&mut canvas, low, high);
        canvas.finish_halved()
    }

    fn columns(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn extremes(&self) -> (f64, f64) {
        let values = self.rows.iter().flatten().filter(|v| v.is_finite());
        values
            .fold(None, |range: Option<(f64, f64)>, &v| Some(range.map_or((v, v), |(a, b)| (a.min(v), b.max(v)))))
            .unwrap_or((0.0, 1.0))
    }

    fn cells(&self, canvas: &mut Canvas, low: f64, high: f64) {
        let (rows, columns) = (self.rows.len() as f64, self.columns() as f64);
        for (i, row) in self.rows.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                let (x, y) = (LEFT + SIDE * j as f64 / columns, TOP + SIDE * (1.0 - (i + 1) as f64 / rows));
                canvas.fill(
                    (x, y),
                    (x + SIDE / columns, y + SIDE / rows),
                    color((v - low) / (high - low).max(f64::MIN_POSITIVE)),
                );
            }
        }
    }

    fn ticks(&self, canvas: &mut Canvas) {
        let middle = |i: usize, n: usize| (i as f64 + 0.5) / n.max(1) as f64 * SIDE;
        for (j, label) in &self.x_ticks {
            let x = LEFT + middle(*j, self.columns());
            canvas.line(&[(x, TOP + SIDE), (x, TOP + SIDE + 10.0)], 2, INK);
            canvas.text(label, x, TOP + SIDE + 32.0, Align::Center, LABEL, INK);
        }
        for (i, label) in &self.y_ticks {
            let y = TOP + SIDE - middle(*i, self.rows.len());
            canvas.line(&[(LEFT - 10.0, y), (LEFT, y)], 2, INK);
            canvas.text(label, LEFT - 18.0, y, Align::Right, LABEL, INK);
        }
    }
}

/// The bar at the right: darkest below.
fn scale(canvas: &mut Canvas, low: f64, high: f64) {
    const STEPS: usize = 250;
    let x = LEFT + SIDE + 40.0;
    for k in 0..STEPS {
        let y = TOP + SIDE * (1.0 - (k + 1) as f64 / STEPS as f64);
        canvas.fill((x, y), (x + 40.0, y + SIDE / STEPS as f64), color((k as f64 + 0.5) / STEPS as f64));
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let label = number(low + part * (high - low));
        canvas.text(&label, x + 56.0, TOP + SIDE * (1.0 - part), Align::Left, LABEL, INK);
    }
}

/// The colour of `place` between 0 and 1.
fn color(place: f64) -> Rgb {
    if !place.is_finite() {
        return MISSING;
    }
    let at = place.clamp(0.0, 1.0) * (COLORS.len() - 1) as f64;
    let i = (at as usize).min(COLORS.len() - 2);
    let f = at - i as f64;
    std::array::from_fn(|c| (f64::from(COLORS[i][c]) * (1.0 - f) + f64::from(COLORS[i + 1][c]) * f).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_is_at_the_bottom() {
        let image = HeatMap { rows: vec![vec![0.0, 1.0], vec![f64::NAN, 0.5]], ..HeatMap::default() }.draw();
        assert_eq!((image.width, image.height), (705, 620));
        let pixel = |x: f64, y: f64| {
            let (x, y) = ((LEFT + x * SIDE) as usize / 2, (TOP + y * SIDE) as usize / 2);
            image.pixels[(y * image.width + x) * 3..][..3].to_vec()
        };
        assert_eq!(pixel(0.25, 0.75), COLORS[0]);
        assert_eq!(pixel(0.75, 0.75), COLORS[8]);
        assert_eq!(pixel(0.25, 0.25), MISSING);
        assert_eq!(pixel(0.75, 0.25), COLORS[4]);
    }

    #[test]
    fn nothing_and_a_constant_can_be_drawn() {
        for rows in [vec![], vec![vec![]], vec![vec![2.0; 3]; 3]] {
            assert_eq!(HeatMap { rows, ..HeatMap::default() }.draw().width, 705);
        }
    }
}
