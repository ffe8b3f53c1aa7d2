//! Curves in one plot: losses over images seen, similarities over sigma.

use std::path::Path;

use anyhow::Result;
use strata_datasets::RgbImage;

use super::{
    axis::Axis,
    canvas::{Align, Canvas, INK, Rgb},
};
use crate::grid;

/// Colours that differ for the colour-blind as well (Okabe & Ito 2008), the first ones for the stages.
const PALETTE: [Rgb; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [90, 90, 90]];
const WHITE: Rgb = [255, 255, 255];
const GRID: Rgb = [228, 230, 234];
const FAINT: Rgb = [110, 114, 122];

/// Drawn twice as large, then halved.
const WIDTH: f64 = 1800.0;
const HEIGHT: f64 = 1080.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 50.0;
const TOP: f64 = 100.0;
const BOTTOM: f64 = 130.0;
const LABEL: f64 = 28.0;
const TITLE: f64 = 36.0;
/// Length of a curve's line in the legend.
const SAMPLE: f64 = 40.0;

/// One curve; its points in the order of x. Points that cannot be shown (not finite; not above 0 on a logarithmic axis)
/// interrupt it.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// What the legend says.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The curves of points that are called by their curve, in the order in which these first occur, each along x.
    pub fn of(points: impl IntoIterator<Item = (String, (f64, f64))>) -> Vec<Self> {
        let mut curves: Vec<Self> = Vec::new();
        for (name, point) in points {
            match curves.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Self { name, points: vec![point] }),
            }
        }
        curves.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        curves
    }
}

/// What is in a plot.
#[derive(Clone, Debug, Default)]
pub struct LinePlot {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x_label: String,
    /// At its left.
    pub y_label: String,
    /// In the order of the legend, which is left out for a single unnamed curve.
    pub curves: Vec<Curve>,
    /// Logarithmic x axis.
    pub log_x: bool,
    /// Logarithmic y axis.
    pub log_y: bool,
    /// Points over which a centred moving average is taken; each curve is then drawn pale below its average. 0 or 1: none.
    pub smooth: usize,
    /// Dashed vertical lines, for example where stages meet.
    pub boundaries: Vec<f64>,
    /// Whether the points of the curves are marked: where there are few.
    pub marks: bool,
}

impl LinePlot {
    /// Draws it and writes it as a PNG file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        grid::write_png(&self.draw(), path)
    }

    /// The picture, 900×540.
    pub fn draw(&self) -> RgbImage {
        let mut canvas = Canvas::new(WIDTH as usize, HEIGHT as usize, WHITE);
        canvas.text(&self.title, LEFT, TOP / 2.0, Align::Left, TITLE, INK);
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = Axis::around(points().map(|p| p.0).chain(self.boundaries.iter().copied()), self.log_x, 0.0);
        let y = Axis::around(points().map(|p| p.1), self.log_y, 0.05);
        match (x, y) {
            (Some(x), Some(y)) => self.draw_in(&Frame { x, y }, &mut canvas),
            _ => canvas.text("no data", WIDTH / 2.0, HEIGHT / 2.0, Align::Center, TITLE, FAINT),
        }
        canvas.finish_halved()
    }

    fn draw_in(&self, frame: &Frame, canvas: &mut Canvas) {
        frame.draw(canvas, &self.x_label, &self.y_label);
        for boundary in self.boundaries.iter().filter_map(|v| frame.x.place(*v)) {
            let x = Frame::x_pixel(boundary);
            canvas.dashes((x, TOP), (x, HEIGHT - BOTTOM), 3, FAINT);
        }
        let smooth = self.smooth > 1;
        let curves = || self.curves.iter().zip(PALETTE.iter().cycle()).enumerate();
        for (i, (curve, &color)) in curves() {
            let raw = if smooth { pale(color) } else { color };
            frame.curve(canvas, i, &curve.points, if smooth { 2 } else { 4 }, raw);
        }
        for (i, (curve, &color)) in curves().filter(|_| smooth) {
            frame.curve(canvas, i, &averaged(&curve.points, self.smooth, self.log_y), 5, color);
        }
        for (_, (curve, &color)) in curves().filter(|_| self.marks) {
            curve.points.iter().for_each(|point| frame.mark(canvas, point, color));
        }
        if self.curves.len() > 1 || self.curves.iter().any(|curve| !curve.name.is_empty()) {
            self.legend(canvas);
        }
    }

    /// In the upper right corner, on the title's line; where it finds no room there, one below the other inside the axes.
    fn legend(&self, canvas: &mut Canvas) {
        let widths: Vec<f64> = self.curves.iter().map(|curve| Canvas::text_width(&curve.name, LABEL) as f64).collect();
        let room = WIDTH - LEFT - RIGHT - Canvas::text_width(&self.title, TITLE) as f64;
        if widths.iter().map(|width| width + SAMPLE + 50.0).sum::<f64>() > room {
            let left = WIDTH - RIGHT - 30.0 - widths.iter().fold(0.0, |m: f64, width| m.max(*width));
            let y = |i: usize| TOP + 30.0 + 34.0 * i as f64;
            canvas.fill((left - 30.0 - SAMPLE, TOP + 4.0), (WIDTH - RIGHT - 4.0, y(self.curves.len()) - 6.0), WHITE);
            for (i, curve) in self.curves.iter().enumerate() {
                canvas.text(&curve.name, left, y(i), Align::Left, LABEL, INK);
                stroke(canvas, i, &[(left - 14.0 - SAMPLE, y(i)), (left - 14.0, y(i))], 6, PALETTE[i % PALETTE.len()]);
            }
            return;
        }
        let mut x = WIDTH - RIGHT;
        for (i, curve) in self.curves.iter().enumerate().rev() {
            let y = TOP - 30.0;
            canvas.text(&curve.name, x, y, Align::Right, LABEL, INK);
            x -= Canvas::text_width(&curve.name, LABEL) as f64 + 14.0;
            stroke(canvas, i, &[(x - SAMPLE, y), (x, y)], 6, PALETTE[i % PALETTE.len()]);
            x -= SAMPLE + 36.0;
        }
    }
}

/// The rectangle between the axes.
struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn x_pixel(place: f64) -> f64 {
        LEFT + place * (WIDTH - LEFT - RIGHT)
    }

    fn y_pixel(place: f64) -> f64 {
        HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, canvas: &mut Canvas, x_label: &str, y_label: &str) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (place, label) in self.x.ticks(8) {
            let x = Self::x_pixel(place);
            canvas.line(&[(x, TOP), (x, bottom)], 2, GRID);
            canvas.text(&label, x, bottom + 26.0, Align::Center, LABEL, INK);
        }
        for (place, label) in self.y.ticks(7) {
            let y = Self::y_pixel(place);
            canvas.line(&[(LEFT, y), (right, y)], 2, GRID);
            canvas.text(&label, LEFT - 16.0, y, Align::Right, LABEL, INK);
        }
        canvas.line(&[(LEFT, TOP), (LEFT, bottom), (right, bottom)], 3, INK);
        canvas.text(x_label, f64::midpoint(LEFT, right), HEIGHT - 42.0, Align::Center, LABEL, INK);
        canvas.text(y_label, 36.0, f64::midpoint(TOP, bottom), Align::Upward, LABEL, INK);
    }

    fn place(&self, (x, y): &(f64, f64)) -> Option<(f64, f64)> {
        Some((Self::x_pixel(self.x.place(*x)?), Self::y_pixel(self.y.place(*y)?)))
    }

    fn mark(&self, canvas: &mut Canvas, point: &(f64, f64), color: Rgb) {
        if let Some(place) = self.place(point) {
            square(canvas, place, 9.0, color);
        }
    }

    fn curve(&self, canvas: &mut Canvas, i: usize, points: &[(f64, f64)], width: u32, color: Rgb) {
        for run in points.iter().map(|point| self.place(point)).collect::<Vec<_>>().split(Option::is_none) {
            let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
            match run.as_slice() {
                [] => {}
                [(x, y)] => square(canvas, (*x, *y), 5.0, color),
                _ => stroke(canvas, i, &run, width, color),
            }
        }
    }
}

/// Curve `i`'s line: of dashes where the colours begin anew.
fn stroke(canvas: &mut Canvas, i: usize, points: &[(f64, f64)], width: u32, color: Rgb) {
    match i < PALETTE.len() {
        true => canvas.line(points, width, color),
        false => points.windows(2).for_each(|ends| canvas.dashes(ends[0], ends[1], width, color)),
    }
}

fn square(canvas: &mut Canvas, (x, y): (f64, f64), half: f64, color: Rgb) {
    canvas.fill((x - half, y - half), (x + half, y + half), color);
}

fn pale(color: Rgb) -> Rgb {
    color.map(|v| 255 - (255 - v) / 4)
}

/// Moving average over `window` points that can be shown, centred, fewer at the ends: of the logarithms on a logarithmic axis, as
/// the eye does.
fn averaged(points: &[(f64, f64)], window: usize, log: bool) -> Vec<(f64, f64)> {
    let shown: Vec<(f64, f64)> = points.iter().copied().filter(|(_, y)| y.is_finite() && (!log || *y > 0.0)).collect();
    let value = |y: f64| if log { y.ln() } else { y };
    let mean = |i: usize| {
        let part = &shown[i.saturating_sub(window / 2)..(i + window / 2 + 1).min(shown.len())];
        part.iter().map(|p| value(p.1)).sum::<f64>() / part.len() as f64
    };
    (0..shown.len()).map(|i| (shown[i].0, if log { mean(i).exp() } else { mean(i) })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(image: &RgbImage, color: Rgb) -> usize {
        image.pixels.chunks(3).filter(|p| *p == color).count()
    }

    #[test]
    fn every_curve_is_there_in_its_colour() {
        let curve = |i: usize| Curve {
            name: format!("stage {}", i + 1),
            points: (0..50).map(|x| (f64::from(x), 1.0 + i as f64)).collect(),
        };
        let plot = LinePlot { curves: (0..3).map(curve).collect(), boundaries: vec![25.0], ..LinePlot::default() };
        let image = plot.draw();
        assert_eq!((image.width, image.height), (900, 540));
        for color in &PALETTE[..3] {
            assert!(pixels(&image, *color) > 700, "{color:?}");
        }
        assert_eq!(pixels(&image, PALETTE[3]), 0);
    }

    #[test]
    fn a_long_legend_and_marks_find_room() {
        let curve = |i: usize| Curve { name: format!("a sampler with a long name, guidance {i}"), points: vec![(1.0, i as f64)] };
        let plot = LinePlot { curves: (0..6).map(curve).collect(), marks: true, ..LinePlot::default() };
        let image = plot.draw();
        for (i, color) in PALETTE[..6].iter().enumerate() {
            assert!(pixels(&image, *color) > 100, "curve {i}");
        }
        let dark = (0..image.height).any(|y| image.pixels[(y * image.width + 2) * 3] < 100);
        assert!(!dark, "nothing runs out of the picture at the left");
    }

    #[test]
    fn what_cannot_be_shown_does_not_hurt() {
        for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, 0.0)], vec![(1.0, 2.0)], vec![(0.0, 1.0), (1.0, f64::INFINITY)]]
        {
            for smooth in [0, 9] {
                let curves = vec![Curve { name: "a".to_string(), points: points.clone() }];
                let image = LinePlot { curves, log_x: true, log_y: true, smooth, ..LinePlot::default() }.draw();
                assert_eq!(image.pixels.len(), 900 * 540 * 3);
            }
        }
    }

    #[test]
    fn the_average_is_centred() {
        let points: Vec<(f64, f64)> = (0..5).map(|i| (f64::from(i), f64::from(i * i))).collect();
        let got: Vec<f64> = averaged(&points, 3, false).into_iter().map(|p| p.1).collect();
        assert_eq!(got, [0.5, 5.0 / 3.0, 14.0 / 3.0, 29.0 / 3.0, 12.5]);
        assert_eq!(averaged(&[(0.0, 0.0), (1.0, f64::NAN)], 3, true), []);
    }
}
