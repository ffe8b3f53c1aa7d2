//! The blocks of parallel branches.

use candle_core::Tensor;
use strata_nn::ops::{PoolConfig, concat_channels, max_pool2d};

use super::layers::{Conv, Loader};
use crate::Result;

/// One block: branches over the same map, joined in this order.
#[derive(Debug)]
pub(super) struct Mixed(Vec<Branch>);

#[derive(Debug)]
enum Branch {
    /// One after the other.
    Chain(Vec<Conv>),
    /// One after the other, the last two side by side.
    Split(Vec<Conv>, [Conv; 2]),
    /// 3×3 means, then a 1×1 convolution.
    Mean(Conv),
    /// 3×3 maxima, then a 1×1 convolution.
    Largest(Conv),
    /// 3×3 maxima at every second pixel.
    Halve,
}

impl Branch {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let run = |convs: &[Conv]| convs.iter().try_fold(x.clone(), |x, conv| conv.forward(&x));
        match self {
            Self::Chain(convs) => run(convs),
            Self::Split(convs, [left, right]) => {
                let h = run(convs)?;
                Ok(concat_channels(&left.forward(&h)?, &right.forward(&h)?)?)
            }
            Self::Mean(conv) => conv.forward_averaged(x),
            Self::Largest(conv) => {
                let config = PoolConfig { padding: 1, ..PoolConfig::new(3, 1) };
                conv.forward(&max_pool2d(x, config)?)
            }
            Self::Halve => Ok(max_pool2d(x, PoolConfig::new(3, 2))?),
        }
    }
}

/// A convolution to be: name, channels out, kernel, stride, padding.
type Spec<'a> = (&'a str, usize, [usize; 2], usize, [usize; 2]);

/// The kernel shapes that occur, with the padding that keeps the size; 3×3 at stride 2 has none.
const K1: ([usize; 2], usize, [usize; 2]) = ([1, 1], 1, [0, 0]);
const K3: ([usize; 2], usize, [usize; 2]) = ([3, 3], 1, [1, 1]);
const K5: ([usize; 2], usize, [usize; 2]) = ([5, 5], 1, [2, 2]);
const HALF: ([usize; 2], usize, [usize; 2]) = ([3, 3], 2, [0, 0]);
const K1X7: ([usize; 2], usize, [usize; 2]) = ([1, 7], 1, [0, 3]);
const K7X1: ([usize; 2], usize, [usize; 2]) = ([7, 1], 1, [3, 0]);
const K1X3: ([usize; 2], usize, [usize; 2]) = ([1, 3], 1, [0, 1]);
const K3X1: ([usize; 2], usize, [usize; 2]) = ([3, 1], 1, [1, 0]);

fn spec(name: &str, c_out: usize, (kernel, stride, padding): ([usize; 2], usize, [usize; 2])) -> Spec<'_> {
    (name, c_out, kernel, stride, padding)
}

fn chain(loader: &mut Loader<'_>, block: &str, c_in: usize, specs: &[Spec<'_>]) -> Option<Vec<Conv>> {
    let mut c = c_in;
    let convs: Vec<Option<Conv>> = specs
        .iter()
        .map(|(name, c_out, kernel, stride, padding)| {
            let conv = loader.conv(&format!("{block}.{name}"), [c, *c_out], *kernel, *stride, *padding);
            c = *c_out;
            conv
        })
        .collect();
    convs.into_iter().collect()
}

fn one(loader: &mut Loader<'_>, block: &str, c_in: usize, spec: Spec<'_>) -> Option<Conv> {
    chain(loader, block, c_in, &[spec])?.pop()
}

fn joined(branches: impl IntoIterator<Item = Option<Branch>>) -> Option<Mixed> {
    branches.into_iter().collect::<Option<Vec<_>>>().map(Mixed)
}

impl Mixed {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut joined: Option<Tensor> = None;
        for branch in &self.0 {
            let y = branch.forward(x)?;
            joined = Some(match joined {
                Some(before) => concat_channels(&before, &y)?,
                None => y,
            });
        }
        Ok(joined.unwrap_or_else(|| x.clone()))
    }

    /// 35 × 35 pixels; `pooled`: channels of the pool's branch.
    pub(super) fn a(loader: &mut Loader<'_>, name: &str, c: usize, pooled: usize) -> Option<Self> {
        let five = [spec("branch5x5_1", 48, K1), spec("branch5x5_2", 64, K5)];
        let double = [spec("branch3x3dbl_1", 64, K1), spec("branch3x3dbl_2", 96, K3), spec("branch3x3dbl_3", 96, K3)];
        joined([
            chain(loader, name, c, &[spec("branch1x1", 64, K1)]).map(Branch::Chain),
            chain(loader, name, c, &five).map(Branch::Chain),
            chain(loader, name, c, &double).map(Branch::Chain),
            one(loader, name, c, spec("branch_pool", pooled, K1)).map(Branch::Mean),
        ])
    }

    /// From 35 × 35 to 17 × 17.
    pub(super) fn b(loader: &mut Loader<'_>, name: &str, c: usize) -> Option<Self> {
        let double = [spec("branch3x3dbl_1", 64, K1), spec("branch3x3dbl_2", 96, K3), spec("branch3x3dbl_3", 96, HALF)];
        joined([
            chain(loader, name, c, &[spec("branch3x3", 384, HALF)]).map(Branch::Chain),
            chain(loader, name, c, &double).map(Branch::Chain),
            Some(Branch::Halve),
        ])
    }

    /// 17 × 17 pixels of 768 channels; `n`: width inside.
    pub(super) fn c(loader: &mut Loader<'_>, name: &str, n: usize) -> Option<Self> {
        let c = 768;
        let seven = [spec("branch7x7_1", n, K1), spec("branch7x7_2", n, K1X7), spec("branch7x7_3", 192, K7X1)];
        let double = [
            spec("branch7x7dbl_1", n, K1),
            spec("branch7x7dbl_2", n, K7X1),
            spec("branch7x7dbl_3", n, K1X7),
            spec("branch7x7dbl_4", n, K7X1),
            spec("branch7x7dbl_5", 192, K1X7),
        ];
        joined([
            chain(loader, name, c, &[spec("branch1x1", 192, K1)]).map(Branch::Chain),
            chain(loader, name, c, &seven).map(Branch::Chain),
            chain(loader, name, c, &double).map(Branch::Chain),
            one(loader, name, c, spec("branch_pool", 192, K1)).map(Branch::Mean),
        ])
    }

    /// From 17 × 17 to 8 × 8.
    pub(super) fn d(loader: &mut Loader<'_>, name: &str, c: usize) -> Option<Self> {
        let three = [spec("branch3x3_1", 192, K1), spec("branch3x3_2", 320, HALF)];
        let seven = [
            spec("branch7x7x3_1", 192, K1),
            spec("branch7x7x3_2", 192, K1X7),
            spec("branch7x7x3_3", 192, K7X1),
            spec("branch7x7x3_4", 192, HALF),
        ];
        joined([
            chain(loader, name, c, &three).map(Branch::Chain),
            chain(loader, name, c, &seven).map(Branch::Chain),
            Some(Branch::Halve),
        ])
    }

    /// 8 × 8 pixels; `largest`: pools maxima, which the published FID network does in its last block.
    pub(super) fn e(loader: &mut Loader<'_>, name: &str, c: usize, largest: bool) -> Option<Self> {
        let pair = |loader: &mut Loader<'_>, branch: &str, [a, b]: [&str; 2]| {
            let left = one(loader, name, 384, spec(&format!("{branch}_{a}"), 384, K1X3));
            let right = one(loader, name, 384, spec(&format!("{branch}_{b}"), 384, K3X1));
            Some([left?, right?])
        };
        let straight = chain(loader, name, c, &[spec("branch1x1", 320, K1)]).map(Branch::Chain);
        let three = chain(loader, name, c, &[spec("branch3x3_1", 384, K1)]);
        let three_pair = pair(loader, "branch3x3", ["2a", "2b"]);
        let double = chain(loader, name, c, &[spec("branch3x3dbl_1", 448, K1), spec("branch3x3dbl_2", 384, K3)]);
        let double_pair = pair(loader, "branch3x3dbl", ["3a", "3b"]);
        let pooled = one(loader, name, c, spec("branch_pool", 192, K1));
        joined([
            straight,
            three.zip(three_pair).map(|(convs, pair)| Branch::Split(convs, pair)),
            double.zip(double_pair).map(|(convs, pair)| Branch::Split(convs, pair)),
            pooled.map(if largest { Branch::Largest } else { Branch::Mean }),
        ])
    }
}
