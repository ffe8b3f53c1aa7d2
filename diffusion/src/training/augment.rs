//! EDM's augmentation of small pictures, of which the network is told (Karras et al. 2022, Appendix F.2): what is drawn at sampling,
//! where it is told of none, is not augmented.

use strata_nn::random::{Key, uniform_f64};

/// Numbers that describe an augmentation.
pub const LABELS: usize = 9;

/// The standard deviation of the logarithms (to base 2) of scale and stretch, and of the shift as a share of the side.
const SCALE: f64 = 0.2;
const SHIFT: f64 = 0.125;

/// The lowpass filter of the wavelet sym6, of which the sum is sqrt(2).
const SYM6: [f64; 12] = [
    0.015_404_109_327_027_373,
    0.003_490_712_084_217_470_2,
    -0.117_990_111_148_190_57,
    -0.048_311_742_585_633,
    0.491_055_941_926_746_7,
    0.787_641_141_030_194,
    0.337_929_421_727_621_8,
    -0.072_637_522_786_462_52,
    -0.021_060_292_512_300_564,
    0.044_724_901_770_665_78,
    0.001_767_711_864_242_803_6,
    -0.007_800_708_325_034_148,
];

/// Which transformations are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Augmentation {
    /// Probability of each transformation but the mirroring.
    pub probability: f64,
    /// Mirror half of all pictures left to right, and say which.
    pub mirror: bool,
}

impl Augmentation {
    /// Transforms the planes of one picture `[C, H, W]` as `key` draws it; answers what the network is told.
    pub fn apply(&self, planes: &mut Vec<f32>, [channels, height, width]: [usize; 3], key: Key) -> [f32; LABELS] {
        let drawn = self.draw(key);
        if drawn.mirrored {
            planes.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
        if drawn.upside_down {
            let plane = height * width;
            *planes = planes
                .chunks_exact(plane)
                .flat_map(|p| p.chunks_exact(width).rev().flatten().copied().collect::<Vec<_>>())
                .collect();
        }
        if let Some(affine) = drawn.affine(height, width) {
            let plane = height * width;
            let moved: Vec<f32> =
                (0..channels).flat_map(|c| resample(&planes[c * plane..(c + 1) * plane], height, width, affine)).collect();
            *planes = moved;
        }
        drawn.labels()
    }

    fn draw(&self, key: Key) -> Drawn {
        let mut uniform = key.generator();
        let mut uniform = || uniform_f64(&mut uniform);
        let normal = key.child("normal").normal(4);
        let half = |u: f64| u < 0.5;
        // Every number is drawn whether or not it is used: one probability more or less changes nothing else.
        let mirrored = half(uniform()) && self.mirror;
        let [flip, scale, rotate, stretch, shift] = std::array::from_fn(|_| uniform() < self.probability);
        let upside_down = half(uniform()) && flip;
        let angles = [uniform(), uniform()].map(|u| std::f64::consts::PI * (2.0 * u - 1.0));
        let when = |used: bool, value: f64| if used { value } else { 0.0 };
        Drawn {
            mirrored,
            upside_down,
            scale: when(scale, f64::from(normal[0])),
            angle: when(rotate, angles[0]),
            stretch: when(stretch, f64::from(normal[1])),
            axis: angles[1],
            shift: [when(shift, f64::from(normal[2])), when(shift, f64::from(normal[3]))],
        }
    }
}

/// The paper's a_0 to a_7; a transformation that is not made has 0.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Drawn {
    mirrored: bool,
    upside_down: bool,
    scale: f64,
    angle: f64,
    stretch: f64,
    axis: f64,
    shift: [f64; 2],
}

impl Drawn {
    fn labels(&self) -> [f32; LABELS] {
        let flag = |b: bool| f64::from(u8::from(b));
        let (sin, cos) = self.angle.sin_cos();
        [
            flag(self.mirrored),
            flag(self.upside_down),
            self.scale,
            cos - 1.0,
            sin,
            self.stretch * self.axis.cos(),
            self.stretch * self.axis.sin(),
            self.shift[0],
            self.shift[1],
        ]
        .map(|v| v as f32)
    }

    /// From the picture's coordinates, from its middle in pixels, to those before; `None` where nothing moves.
    fn affine(&self, height: usize, width: usize) -> Option<Affine> {
        if [self.scale, self.angle, self.stretch, self.shift[0], self.shift[1]].iter().all(|v| *v == 0.0) {
            return None;
        }
        let stretch = 2f64.powf(SCALE * self.stretch);
        let factor = 2f64.powf(SCALE * self.scale);
        let back = Affine::scaled(1.0 / factor, 1.0 / factor)
            .then(Affine::turned(self.angle))
            .then(Affine::turned(self.axis))
            .then(Affine::scaled(1.0 / stretch, stretch))
            .then(Affine::turned(-self.axis));
        let shift = [-SHIFT * width as f64 * self.shift[0], -SHIFT * height as f64 * self.shift[1]];
        let moved = back.linear(shift);
        Some(Affine { shift: [back.shift[0] + moved[0], back.shift[1] + moved[1]], ..back })
    }
}

/// x ↦ rows x + shift.
#[derive(Clone, Copy, Debug)]
struct Affine {
    rows: [[f64; 2]; 2],
    shift: [f64; 2],
}

impl Affine {
    fn scaled(x: f64, y: f64) -> Self {
        Self { rows: [[x, 0.0], [0.0, y]], shift: [0.0; 2] }
    }

    fn turned(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { rows: [[cos, -sin], [sin, cos]], shift: [0.0; 2] }
    }

    fn linear(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.rows.map(|[a, b]| a * x + b * y)
    }

    /// `next` after this, both linear.
    fn then(self, next: Self) -> Self {
        let column = |i: usize| next.linear([self.rows[0][i], self.rows[1][i]]);
        let (first, second) = (column(0), column(1));
        Self { rows: [[first[0], second[0]], [first[1], second[1]]], shift: self.shift }
    }

    fn apply(&self, point: [f64; 2]) -> [f64; 2] {
        let [x, y] = self.linear(point);
        [x + self.shift[0], y + self.shift[1]]
    }
}

/// One plane, transformed at twice its resolution, bilinearly, between the two halves of an orthogonal wavelet: where nothing moves,
/// nothing changes. Beyond its edges the picture is mirrored.
fn resample(plane: &[f32], height: usize, width: usize, affine: Affine) -> Vec<f32> {
    let margin = [height, width];
    let (padded_h, padded_w) = (height + 2 * margin[0], width + 2 * margin[1]);
    let padded: Vec<f32> = (0..padded_h)
        .flat_map(|y| {
            let row = reflect(y as isize - margin[0] as isize, height) * width;
            (0..padded_w).map(move |x| plane[row + reflect(x as isize - margin[1] as isize, width)])
        })
        .collect();
    let fine = doubled(&padded, padded_h, padded_w);
    // What the filter on the way back reaches over.
    const REACH: usize = SYM6.len() / 2;
    let delay = delay();
    let (fine_h, fine_w) = (2 * height + 2 * REACH, 2 * width + 2 * REACH);
    let middle = [width as f64 / 2.0, height as f64 / 2.0];
    let mut moved = Vec::with_capacity(fine_h * fine_w);
    for y in 0..fine_h {
        for x in 0..fine_w {
            let at = |i: usize| (i as f64 - REACH as f64 + 0.5 + delay) / 2.0;
            let [from_x, from_y] = affine.apply([at(x) - middle[0], at(y) - middle[1]]);
            let place = |v: f64, middle: f64, margin: usize| 2.0 * (v + middle + margin as f64) - 0.5 - delay;
            let point = [place(from_x, middle[0], margin[1]), place(from_y, middle[1], margin[0])];
            moved.push(bilinear(&fine, 2 * padded_h, 2 * padded_w, point));
        }
    }
    halved(&moved, fine_w, [height, width], REACH)
}

/// How far beside its middle the filter, which is not quite symmetric, has its weight, in fine pixels: what it shifts on the way there
/// it would not shift back where the picture was turned in between.
fn delay() -> f64 {
    let weighted: f64 = SYM6.iter().enumerate().map(|(k, tap)| k as f64 * tap).sum();
    5.5 - weighted / std::f64::consts::SQRT_2
}

/// The index that mirroring at the edges leads to.
fn reflect(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let at = i.rem_euclid(period);
    (if at < n as isize { at } else { period - at }) as usize
}

/// Twice the resolution along both sides.
fn doubled(plane: &[f32], height: usize, width: usize) -> Vec<f32> {
    // Between two pixels a zero; then the filter, whose middle is half a fine pixel beside a pixel's.
    let along = |values: &dyn Fn(usize) -> f32, n: usize, j: usize| -> f32 {
        let taps = (0..SYM6.len()).filter_map(|k| {
            let at = j as isize + 5 - k as isize;
            let inside = at >= 0 && at % 2 == 0 && (at / 2) < n as isize;
            inside.then(|| SYM6[k] * std::f64::consts::SQRT_2 * f64::from(values((at / 2) as usize)))
        });
        taps.sum::<f64>() as f32
    };
    let wide: Vec<f32> = (0..height)
        .flat_map(|y| (0..2 * width).map(move |j| along(&|i| plane[y * width + i], width, j)).collect::<Vec<_>>())
        .collect();
    let row = 2 * width;
    (0..2 * height).flat_map(|j| (0..row).map(|x| along(&|i| wide[i * row + x], height, j)).collect::<Vec<_>>()).collect()
}

/// Half the resolution along both sides, from the pixel `from` on.
fn halved(fine: &[f32], row: usize, [height, width]: [usize; 2], from: usize) -> Vec<f32> {
    let along = |values: &dyn Fn(usize) -> f32, i: usize| -> f32 {
        let first = from + 2 * i - 5;
        let taps = SYM6.iter().enumerate().map(|(k, tap)| tap / std::f64::consts::SQRT_2 * f64::from(values(first + k)));
        taps.sum::<f64>() as f32
    };
    let rows = fine.len() / row;
    let narrow: Vec<f32> =
        (0..rows).flat_map(|y| (0..width).map(|i| along(&|x| fine[y * row + x], i)).collect::<Vec<_>>()).collect();
    (0..height).flat_map(|i| (0..width).map(|x| along(&|y| narrow[y * width + x], i)).collect::<Vec<_>>()).collect()
}

/// The value between four pixels; beyond the edges that of the edge.
fn bilinear(plane: &[f32], height: usize, width: usize, [x, y]: [f64; 2]) -> f32 {
    let (x, y) = (x.clamp(0.0, (width - 1) as f64), y.clamp(0.0, (height - 1) as f64));
    let (left, top) = (x.floor() as usize, y.floor() as usize);
    let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
    let (a, b) = ((x - left as f64) as f32, (y - top as f64) as f32);
    let at = |y: usize, x: usize| plane[y * width + x];
    let (above, below) = (at(top, left) * (1.0 - a) + at(top, right) * a, at(bottom, left) * (1.0 - a) + at(bottom, right) * a);
    above * (1.0 - b) + below * b
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [2, 6, 8];

    fn picture() -> Vec<f32> {
        Key::new(1, "picture").uniform(2 * 6 * 8)
    }

    fn still() -> Drawn {
        Drawn { mirrored: false, upside_down: false, scale: 0.0, angle: 0.0, stretch: 0.0, axis: 0.3, shift: [0.0; 2] }
    }

    fn moved(drawn: Drawn, plane: &[f32], n: usize) -> Vec<f32> {
        drawn.affine(n, n).map_or_else(|| plane.to_vec(), |affine| resample(plane, n, n, affine))
    }

    #[test]
    fn the_filter_is_orthogonal() {
        assert!((SYM6.iter().sum::<f64>() - std::f64::consts::SQRT_2).abs() < 1e-9);
        for shift in 0..6 {
            let product: f64 = SYM6.iter().zip(&SYM6[2 * shift..]).map(|(a, b)| a * b).sum();
            assert!((product - f64::from(u8::from(shift == 0))).abs() < 1e-9, "{shift}: {product}");
        }
    }

    #[test]
    fn what_does_not_move_does_not_change() {
        let plane: Vec<f32> = Key::new(2, "plane").uniform(48);
        let affine = Affine::turned(0.0);
        let same = resample(&plane, 6, 8, affine);
        assert!(plane.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-5), "{plane:?}\n{same:?}");
        let mut planes = picture();
        let labels = Augmentation { probability: 0.0, mirror: false }.apply(&mut planes, SHAPE, Key::new(0, "augment"));
        assert_eq!((planes, labels), (picture(), [0.0; LABELS]));
    }

    /// A bright spot goes where the labels say.
    #[test]
    fn labels_and_movements_agree() {
        const N: usize = 24;
        let spot = |x: f64, y: f64| -> Vec<f32> {
            let value = |i: usize| ((i % N) as f64 + 0.5 - x).powi(2) + ((i / N) as f64 + 0.5 - y).powi(2);
            (0..N * N).map(|i| (-value(i) / 8.0).exp() as f32).collect()
        };
        let middle = |plane: &[f32]| {
            let sum = |f: &dyn Fn(usize) -> f64| -> f64 { plane.iter().enumerate().map(|(i, v)| f64::from(*v) * f(i)).sum() };
            let all = sum(&|_| 1.0);
            [sum(&|i| (i % N) as f64 + 0.5) / all, sum(&|i| (i / N) as f64 + 0.5) / all]
        };
        // The picture's middle is (12, 12); the spot lies 4 to the right of it.
        let before = spot(16.0, 12.0);
        let factor = 2f64.powf(SCALE);
        let quarter = std::f64::consts::FRAC_PI_2;
        for (drawn, expected) in [
            (Drawn { shift: [1.0, 0.0], ..still() }, [19.0, 12.0]),
            (Drawn { shift: [0.0, -1.0], ..still() }, [16.0, 9.0]),
            (Drawn { scale: 1.0, ..still() }, [12.0 + 4.0 * factor, 12.0]),
            (Drawn { angle: quarter, ..still() }, [12.0, 8.0]),
            (Drawn { stretch: 1.0, axis: 0.0, ..still() }, [12.0 + 4.0 * factor, 12.0]),
            (Drawn { stretch: 1.0, axis: quarter, ..still() }, [12.0 + 4.0 / factor, 12.0]),
        ] {
            let got = middle(&moved(drawn, &before, N));
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1), "{drawn:?}: {got:?}, expected {expected:?}");
        }
        let labels = Drawn { mirrored: true, scale: 0.5, angle: quarter, stretch: 2.0, axis: 0.0, shift: [0.1, 0.2], ..still() };
        let expected = [1.0, 0.0, 0.5, -1.0, 1.0, 2.0, 0.0, 0.1, 0.2];
        assert!(labels.labels().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", labels.labels());
    }

    #[test]
    fn mirrors_are_exact_and_each_happens_as_often_as_it_should() {
        let augmentation = Augmentation { probability: 0.25, mirror: true };
        let mut counts = [0; LABELS];
        for i in 0..4000 {
            let labels = augmentation.draw(Key::new(3, "augment").index(i)).labels();
            counts.iter_mut().zip(labels).for_each(|(n, v)| *n += i32::from(v != 0.0));
        }
        for (label, (count, expected)) in counts.iter().zip([2000, 500, 1000, 1000, 1000, 1000, 1000, 1000, 1000]).enumerate() {
            assert!((count - expected).abs() < 130, "{label}: {counts:?}");
        }
        let only_mirrors = Augmentation { probability: 0.0, mirror: true };
        let mirrored = (0..9).map(|i| Key::new(5, "augment").index(i)).find(|key| only_mirrors.draw(*key).mirrored);
        let Some(key) = mirrored else { unreachable!() };
        let mut planes = picture();
        assert_eq!(only_mirrors.apply(&mut planes, SHAPE, key)[0], 1.0);
        assert_eq!(planes[..8], picture()[..8].iter().rev().copied().collect::<Vec<_>>());
    }
}
