//! Random holes for training to inpaint.

use strata_nn::random::{Key, uniform_f64};

/// Holes cover no less and no more than these shares of a picture.
const SHARES: (f64, f64) = (0.05, 0.75);
/// Draws after which a hole is a square in the middle.
const DRAWS: u64 = 32;

/// A hole in a square of `side` pixels, row after row, true where to draw: up to four rectangles, or a few thick strokes, half of the
/// time each. It covers from 5 to 75 % of the square, so that there is always something to draw and something to go by.
pub fn random_mask(key: Key, side: usize) -> Vec<bool> {
    let covered = |mask: &[bool]| mask.iter().filter(|drawn| **drawn).count() as f64 / mask.len().max(1) as f64;
    for draw in 0..DRAWS {
        let mut generator = key.step(draw).generator();
        let mut uniform = || uniform_f64(&mut generator);
        let mut canvas = Canvas { side, drawn: vec![false; side * side] };
        if uniform() < 0.5 {
            canvas.rectangles(&mut uniform);
        } else {
            canvas.strokes(&mut uniform);
        }
        if (SHARES.0..=SHARES.1).contains(&covered(&canvas.drawn)) {
            return canvas.drawn;
        }
    }
    let mut canvas = Canvas { side, drawn: vec![false; side * side] };
    canvas.rectangle([0.25, 0.25], [0.75, 0.75]);
    canvas.drawn
}

/// Positions are shares of the side.
struct Canvas {
    side: usize,
    drawn: Vec<bool>,
}

impl Canvas {
    fn rectangles(&mut self, uniform: &mut impl FnMut() -> f64) {
        for _ in 0..1 + (4.0 * uniform()) as usize {
            let size = [0.15 + 0.5 * uniform(), 0.15 + 0.5 * uniform()];
            let corner = [uniform() * (1.1 - size[0]), uniform() * (1.1 - size[1])];
            self.rectangle(corner, [corner[0] + size[0], corner[1] + size[1]]);
        }
    }

    fn rectangle(&mut self, from: [f64; 2], to: [f64; 2]) {
        let at = |v: f64| ((v * self.side as f64).round() as usize).min(self.side);
        for y in at(from[1])..at(to[1]) {
            self.drawn[y * self.side + at(from[0])..y * self.side + at(to[0])].fill(true);
        }
    }

    fn strokes(&mut self, uniform: &mut impl FnMut() -> f64) {
        for _ in 0..1 + (3.0 * uniform()) as usize {
            let radius = 0.04 + 0.08 * uniform();
            let mut at = [uniform(), uniform()];
            for _ in 0..2 + (4.0 * uniform()) as usize {
                let angle = std::f64::consts::TAU * uniform();
                let length = 0.1 + 0.4 * uniform();
                let to = [(at[0] + length * angle.cos()).clamp(0.0, 1.0), (at[1] + length * angle.sin()).clamp(0.0, 1.0)];
                self.line(at, to, radius);
                at = to;
            }
        }
    }

    /// All pixels whose centre is no further than `radius` from the line.
    fn line(&mut self, from: [f64; 2], to: [f64; 2], radius: f64) {
        let along = [to[0] - from[0], to[1] - from[1]];
        let squared = (along[0] * along[0] + along[1] * along[1]).max(1e-12);
        for (i, drawn) in self.drawn.iter_mut().enumerate() {
            let centre = |i: usize| (i as f64 + 0.5) / self.side as f64;
            let p = [centre(i % self.side) - from[0], centre(i / self.side) - from[1]];
            let t = ((p[0] * along[0] + p[1] * along[1]) / squared).clamp(0.0, 1.0);
            *drawn |= (p[0] - t * along[0]).hypot(p[1] - t * along[1]) <= radius;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_leave_something_and_differ() {
        let masks: Vec<Vec<bool>> = (0..64).map(|i| random_mask(Key::new(3, "masks").index(i), 32)).collect();
        for mask in &masks {
            let share = mask.iter().filter(|drawn| **drawn).count() as f64 / 1024.0;
            assert!((0.05..=0.75).contains(&share), "{share}");
        }
        assert!(masks.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(masks[5], random_mask(Key::new(3, "masks").index(5), 32));
    }
}
