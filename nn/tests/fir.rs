//! Guard tests of the resampling by filters and of the Fourier embedding.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check, finite, normal, refuses};
use strata_nn::ops::{self, FirConfig};

const DOWN: FirConfig = FirConfig { up: 1, down: 2, before: 1, after: 1 };
const UP: FirConfig = FirConfig { up: 2, down: 1, before: 2, after: 1 };

#[test]
fn every_rate_padding_and_length() {
    let configs = [
        DOWN,
        UP,
        FirConfig { up: 1, down: 1, before: 2, after: 2 },
        FirConfig { up: 3, down: 2, before: 0, after: 0 },
        FirConfig { up: 2, down: 5, before: 7, after: 3 },
    ];
    for (shape, taps) in [([2, 5, 8, 3], &[0.1, 0.4, 0.3, -0.2][..]), ([1, 6, 7, 17], &[0.5, 0.2, 0.9]), ([1, 9, 4, 2], &[2.0])] {
        for config in configs {
            let name = format!("fir_resample {shape:?} {taps:?} {config:?}");
            check(&name, &|a| ops::fir_resample(&a[0], taps, config), &normal(&[&shape], 1.0));
        }
    }
    finite("fir_resample", &|a| ops::fir_resample(&a[0], &[1.0, 3.0], DOWN), &[&[1, 4, 6, 2]]);
}

/// `y[i] = sum_k taps[k] u[down i + k - before]` written out, along one line.
fn line(x: &[f64], taps: &[f32], config: FirConfig) -> Vec<f64> {
    let mut u = vec![0.0; config.before];
    for &value in x {
        u.push(value);
        u.extend(vec![0.0; config.up - 1]);
    }
    u.extend(vec![0.0; config.after]);
    let dot = |window: &[f64]| window.iter().zip(taps).map(|(a, b)| a * f64::from(*b)).sum();
    u.windows(taps.len()).step_by(config.down).map(dot).collect()
}

#[test]
fn a_product_of_lines_is_resampled_line_by_line() {
    let (v, x) = ([2.0, -1.0, 0.5], [3.0, -1.0, 4.0, 1.0, -5.0]);
    for config in [DOWN, UP, FirConfig { up: 3, down: 4, before: 1, after: 5 }] {
        let taps = [0.25f32, 0.75, -0.5, 0.125];
        let image: Vec<f32> = v.iter().flat_map(|v| x.iter().map(move |x| (v * x) as f32)).collect();
        let image = Tensor::from_vec(image, (1, 3, 5, 1), &Device::Cpu).unwrap();
        let y = ops::fir_resample(&image, &taps, config).unwrap();
        let across = line(&x, &taps, config);
        let down = line(&v, &taps, config);
        let got = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f64> = down.iter().flat_map(|d| across.iter().map(move |a| a * d)).collect();
        assert_eq!(got.len(), expected.len(), "{config:?}");
        for (g, e) in got.iter().zip(expected) {
            assert!((f64::from(*g) - e).abs() < 1e-5, "{config:?}: {got:?}");
        }
    }
}

#[test]
fn two_equal_taps_are_the_mean_and_the_nearest_neighbour() {
    let x = normal(&[&[2, 6, 4, 5]], 1.0)[0].to_dtype(DType::F32).unwrap();
    let largest =
        |a: Tensor, b: Tensor| (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let down = FirConfig { up: 1, down: 2, before: 0, after: 0 };
    let mean = ops::fir_resample(&x, &[0.5, 0.5], down).unwrap();
    assert!(largest(mean, ops::average_pool2x(&x).unwrap()) < 1e-6);
    let up = FirConfig { up: 2, down: 1, before: 1, after: 0 };
    let nearest = ops::fir_resample(&x, &[1.0, 1.0], up).unwrap();
    assert_eq!(largest(nearest, ops::upsample_nearest2x(&x).unwrap()), 0.0);
}

#[test]
fn refusals() {
    let x = Tensor::zeros((1, 2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    let plain = FirConfig { up: 1, down: 1, before: 0, after: 0 };
    refuses(ops::fir_resample(&x, &[1.0; 3], plain), &["fir_resample", "(3, [1, 2, 3, 4])"]);
    refuses(ops::fir_resample(&x, &[], plain), &["fir_resample", "1 tap"]);
    refuses(ops::fir_resample(&x, &[1.0], FirConfig { down: 0, ..plain }), &["fir_resample", "`config`", "down: 0"]);
    refuses(ops::fir_resample(&x.flatten_all().unwrap(), &[1.0], plain), &["`x`", "[B, H, W, C]", "[24]"]);
    refuses(ops::fourier_embedding(&x, &x), &["fourier_embedding", "`t`", "[1, 2, 3, 4]"]);
}

#[test]
fn fourier_features() {
    check("fourier_embedding", &|a| ops::fourier_embedding(&a[0], &a[1]), &normal(&[&[3], &[4]], 0.2));
    let t = Tensor::new(&[0.25f32, -0.5], &Device::Cpu).unwrap();
    let f = Tensor::new(&[1.0f32], &Device::Cpu).unwrap();
    let got = ops::fourier_embedding(&t, &f).unwrap().to_vec2::<f32>().unwrap();
    let expected = [[0.0, 1.0], [-1.0, 0.0]];
    for (g, e) in got.iter().flatten().zip(expected.iter().flatten()) {
        assert!((g - e).abs() < 1e-6, "{got:?}");
    }
}
