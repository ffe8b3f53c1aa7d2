//! Structural similarity of pictures.

use strata_datasets::RgbImage;

/// Side and standard deviation of the Gaussian window (Wang et al. 2004).
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
/// `(0.01 · 255)²` and `(0.03 · 255)²`.
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;

/// Mean structural similarity (Wang et al. 2004) over all whole windows and the three channels, of 8-bit pictures of one size; 1 for
/// equal ones. The window is 11 pixels wide, narrower where the picture is.
pub(crate) fn ssim(a: &RgbImage, b: &RgbImage) -> f64 {
    let (w, h) = (a.width, a.height);
    let side = WINDOW.min(w).min(h);
    let kernel = kernel(side);
    let channel =
        |image: &RgbImage, c: usize| -> Vec<f64> { image.pixels.iter().skip(c).step_by(3).map(|&v| f64::from(v)).collect() };
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let of_channel = |c: usize| {
        let (x, y) = (channel(a, c), channel(b, c));
        let product = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * q).collect::<Vec<f64>>();
        let blurred = |values: &[f64]| blur(values, w, h, &kernel);
        let (mx, my) = (blurred(&x), blurred(&y));
        let (xx, yy, xy) = (blurred(&product(&x, &x)), blurred(&product(&y, &y)), blurred(&product(&x, &y)));
        mean((0..mx.len()).map(|i| similarity(mx[i], my[i], xx[i], yy[i], xy[i])).collect())
    };
    (0..3).map(of_channel).sum::<f64>() / 3.0
}

/// From the windows' means and mean products.
fn similarity(mx: f64, my: f64, xx: f64, yy: f64, xy: f64) -> f64 {
    let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
    (2.0 * mx * my + C1) * (2.0 * cov + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))
}

fn kernel(side: usize) -> Vec<f64> {
    let middle = (side as f64 - 1.0) / 2.0;
    let raw: Vec<f64> = (0..side).map(|i| (-(i as f64 - middle).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|v| v / sum).collect()
}

/// Weighted means of all whole windows, rows first.
fn blur(values: &[f64], w: usize, h: usize, kernel: &[f64]) -> Vec<f64> {
    let k = kernel.len();
    let columns = w + 1 - k;
    let dot =
        |first: usize, step: usize, of: &[f64]| kernel.iter().enumerate().map(|(i, f)| f * of[first + i * step]).sum::<f64>();
    let rows: Vec<f64> = (0..h).flat_map(|y| (0..columns).map(move |x| y * w + x)).map(|at| dot(at, 1, values)).collect();
    (0..(h + 1 - k) * columns).map(|at| dot(at, columns, &rows)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(f: impl Fn(usize, usize, usize) -> u8) -> RgbImage {
        let (width, height) = (24, 20);
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = pixels.flat_map(|(x, y)| [f(x, y, 0), f(x, y, 1), f(x, y, 2)]).collect();
        RgbImage { width, height, pixels }
    }

    #[test]
    fn equal_pictures_are_1_and_noise_lowers_it() {
        let a = picture(|x, y, c| (10 * x + 5 * y + 20 * c) as u8);
        let slightly = picture(|x, y, c| ((10 * x + 5 * y + 20 * c) as u8).saturating_add(((x * 7 + y * 3) % 5) as u8));
        let other = picture(|x, y, _| (x * y * 31 % 256) as u8);
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-9);
        let (near, far) = (ssim(&a, &slightly), ssim(&a, &other));
        assert!(far < 0.6 && near < 1.0 && near > 0.9, "{near} {far}");
    }

    /// Flat pictures differ in luminance alone: (2ab + C1) / (a² + b² + C1).
    #[test]
    fn flat_pictures_are_compared_by_luminance() {
        let (a, b) = (picture(|_, _, _| 100), picture(|_, _, _| 150));
        let expected = (2.0 * 100.0 * 150.0 + C1) / (100.0f64.powi(2) + 150.0f64.powi(2) + C1);
        assert!((ssim(&a, &b) - expected).abs() < 1e-9);
    }
}
