//! Guard tests of the convolution.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::{check, device, finite, normal, refuses};
use strata_nn::ops::{Conv2dConfig, Padding, conv2d};

const ASYMMETRIC: Padding = Padding { top: 2, bottom: 0, left: 1, right: 3 };

fn case(x: [usize; 4], weight: [usize; 4], stride: usize, padding: Padding) {
    let config = Conv2dConfig { stride, padding };
    let name = format!("conv2d {x:?} {weight:?} {config:?}");
    let args = normal(&[&x, &weight, &[weight[0]]], 0.5);
    check(&name, &|a| conv2d(&a[0], &a[1], Some(&a[2]), config), &args);
    check(&name, &|a| conv2d(&a[0], &a[1], None, config), &args[..2]);
    let args = normal(&[&x, &weight, &[x[0], weight[0]]], 0.5);
    check(&format!("{name}, a bias per sample"), &|a| conv2d(&a[0], &a[1], Some(&a[2]), config), &args);
}

#[test]
fn kernels_of_every_size() {
    case([2, 5, 7, 3], [4, 3, 3, 3], 1, Padding::all(1));
    case([1, 6, 5, 8], [5, 8, 1, 1], 1, Padding::all(0));
    case([2, 9, 8, 2], [3, 2, 5, 5], 1, Padding::all(2));
    case([1, 7, 9, 3], [2, 3, 4, 4], 1, Padding::all(1));
    case([1, 8, 6, 3], [2, 3, 1, 3], 1, Padding::all(1));
    case([1, 3, 3, 2], [2, 2, 3, 3], 1, Padding::all(0));
}

#[test]
fn strides_and_asymmetric_padding() {
    case([2, 8, 6, 3], [4, 3, 3, 3], 2, Padding::BOTTOM_RIGHT);
    case([1, 7, 9, 3], [4, 3, 3, 3], 2, Padding::all(1));
    case([1, 5, 6, 2], [3, 2, 3, 3], 1, ASYMMETRIC);
    case([1, 9, 7, 2], [3, 2, 4, 4], 2, Padding::all(1));
    case([2, 7, 5, 4], [3, 4, 1, 1], 2, Padding::all(0));
    case([1, 11, 10, 2], [3, 2, 2, 2], 3, ASYMMETRIC);
    case([1, 1, 1, 2], [3, 2, 1, 1], 3, Padding::all(0));
}

#[test]
fn several_tiles_and_blocks() {
    case([3, 23, 17, 40], [24, 40, 3, 3], 1, Padding::all(1));
    case([1, 40, 60, 3], [17, 3, 3, 3], 1, Padding::all(1));
    case([2, 27, 22, 20], [3, 20, 3, 3], 1, Padding::all(1));
    case([1, 24, 23, 18], [7, 18, 3, 5], 1, ASYMMETRIC);
    case([1, 29, 19, 5], [24, 5, 5, 3], 1, ASYMMETRIC);
    case([2, 20, 21, 16], [1, 16, 3, 3], 2, Padding::all(1));
    case([2, 33, 31, 33], [20, 33, 1, 1], 1, Padding::all(0));
    case([2, 25, 23, 16], [18, 16, 3, 3], 1, ASYMMETRIC);
    case([1, 33, 32, 150], [40, 150, 3, 3], 1, Padding::all(1));
    case([1, 4, 4, 70], [66, 70, 3, 3], 1, Padding::all(1));
    case([3, 6, 5, 20], [37, 20, 3, 3], 2, Padding::BOTTOM_RIGHT);
    case([2, 2, 2, 64], [70, 64, 1, 1], 1, Padding::all(0));
    case([2, 5, 3, 33], [50, 33, 1, 3], 1, ASYMMETRIC);
}

#[test]
fn a_gradient_that_is_not_contiguous_and_frozen_arguments() {
    let config = Conv2dConfig::same(3);
    let args = normal(&[&[2, 4, 5, 3], &[6, 3, 3, 3]], 1.0);
    check("conv2d, transposed", &|a| Ok(conv2d(&a[0], &a[1], None, config)?.permute((0, 3, 1, 2))?.contiguous()?), &args);
    check("conv2d of a view", &|a| conv2d(&a[0].transpose(1, 2)?, &a[1], None, config), &args);
    check(
        "conv2d, fixed weight",
        &|a| {
            let w = normal(&[&[4, 3, 3, 3]], 1.0)[0].to_dtype(a[0].dtype())?.to_device(a[0].device())?;
            conv2d(&a[0], &w, None, config)
        },
        &args[..1],
    );
}

#[test]
fn zero_tiny_and_huge_arguments() {
    finite("conv2d", &|a| conv2d(&a[0], &a[1], Some(&a[2]), Conv2dConfig::same(3)), &[&[1, 5, 4, 3], &[2, 3, 3, 3], &[2]]);
}

#[test]
fn shapes_that_do_not_fit() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device()).unwrap();
    let run = |x: &[usize], w: &[usize], b: &[usize], stride: usize| {
        conv2d(&zeros(x), &zeros(w), Some(&zeros(b)), Conv2dConfig { stride, padding: Padding::all(0) })
    };
    refuses(run(&[1, 4, 4], &[2, 3, 3, 3], &[2], 1), &["conv2d", "`x`", "[B, H, W, C_in]", "[1, 4, 4]"]);
    refuses(run(&[1, 4, 4, 3], &[2, 3, 3], &[2], 1), &["conv2d", "`weight`", "[2, 3, 3]"]);
    refuses(run(&[1, 4, 4, 5], &[2, 3, 3, 3], &[2], 1), &["conv2d", "`x`", "3 channels", "[1, 4, 4, 5]"]);
    refuses(run(&[1, 4, 4, 3], &[2, 3, 3, 3], &[3], 1), &["conv2d", "`bias`", "[2] or [1, 2]", "[3]"]);
    refuses(run(&[1, 4, 4, 3], &[2, 3, 3, 3], &[2, 2], 1), &["conv2d", "`bias`", "[2] or [1, 2]", "[2, 2]"]);
    refuses(run(&[1, 2, 4, 3], &[2, 3, 3, 3], &[2], 1), &["conv2d", "`x`", "3x3", "[1, 2, 4, 3]"]);
    refuses(run(&[1, 4, 4, 3], &[2, 3, 3, 3], &[2], 0), &["conv2d", "stride"]);
    refuses(run(&[0, 4, 4, 3], &[2, 3, 3, 3], &[2], 1), &["conv2d", "`x`", "[0, 4, 4, 3]"]);
    refuses(run(&[1, 0, 4, 3], &[2, 3, 3, 3], &[2], 1), &["conv2d", "`x`", "[1, 0, 4, 3]"]);
    refuses(run(&[1, 4, 4, 0], &[2, 0, 3, 3], &[2], 1), &["conv2d", "`x`", "[1, 4, 4, 0]"]);
    refuses(run(&[1, 4, 4, 3], &[0, 3, 3, 3], &[0], 1), &["conv2d", "`weight`", "[0, 3, 3, 3]"]);
}
