//! The networks whose features LPIPS compares: AlexNet, VGG-16 and SqueezeNet 1.1, as far as they are used.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::Conv2d,
    ops::{self, Conv2dConfig, Padding, PoolConfig},
    params::{Init, Scope},
};

use crate::Result;

/// A network for [`super::Lpips`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LpipsNet {
    /// AlexNet (Krizhevsky 2014): what papers report the distance with.
    Alex,
    /// VGG-16 (Simonyan & Zisserman 2015): what the published autoencoders are trained with.
    #[default]
    Vgg,
    /// SqueezeNet 1.1 (Iandola et al. 2016): the smallest.
    Squeeze,
}

impl LpipsNet {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alex => "alex",
            Self::Vgg => "vgg",
            Self::Squeeze => "squeeze",
        }
    }

    /// Channels of each feature that is compared.
    pub fn channels(self) -> &'static [usize] {
        match self {
            Self::Alex => &[64, 192, 384, 256, 256],
            Self::Vgg => &[64, 128, 256, 512, 512],
            Self::Squeeze => &[64, 128, 256, 384, 384, 512, 512],
        }
    }
}

/// One layer of a backbone; every convolution is followed by ReLU.
#[derive(Clone, Debug)]
enum Layer {
    Conv(Conv2d),
    Fire {
        squeeze: Conv2d,
        expand1: Conv2d,
        expand3: Conv2d,
    },
    MaxPool(PoolConfig),
    /// What comes out here is compared.
    Tap,
}

/// The layers up to the last feature. Parameters are named as in torchvision, `features.N.weight`.
#[derive(Clone, Debug)]
pub(super) struct Backbone(Vec<Layer>);

impl Backbone {
    pub(super) fn new(net: LpipsNet, scope: &Scope) -> Result<Self> {
        let builder = Builder { scope: scope.pp("features"), layers: Vec::new() };
        match net {
            LpipsNet::Alex => builder.alex(),
            LpipsNet::Vgg => builder.vgg(),
            LpipsNet::Squeeze => builder.squeeze(),
        }
    }

    /// x: `[B, H, W, 3]`, normalised; the features that are compared, `[B, h, w, C]` each.
    pub(super) fn features(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let (mut h, mut taps) = (x.clone(), Vec::new());
        for layer in &self.0 {
            match layer {
                Layer::Conv(conv) => h = ops::relu(&conv.forward(&h)?)?,
                Layer::MaxPool(config) => h = ops::max_pool2d(&h, *config)?,
                Layer::Tap => taps.push(h.clone()),
                Layer::Fire { squeeze, expand1, expand3 } => {
                    let s = ops::relu(&squeeze.forward(&h)?)?;
                    h = ops::relu(&ops::concat_channels(&expand1.forward(&s)?, &expand3.forward(&s)?)?)?;
                }
            }
        }
        Ok(taps)
    }
}

struct Builder {
    scope: Scope,
    layers: Vec<Layer>,
}

impl Builder {
    fn conv(&mut self, number: usize, shape: [usize; 3], stride: usize, padding: usize) -> Result<()> {
        let config = Conv2dConfig { stride, padding: Padding::all(padding) };
        self.layers.push(Layer::Conv(Conv2d::with(&self.scope.pp(number), shape, config, Init::FanIn)?));
        Ok(())
    }

    fn fire(&mut self, number: usize, [c_in, squeezed, expanded]: [usize; 3]) -> Result<()> {
        let scope = self.scope.pp(number);
        self.layers.push(Layer::Fire {
            squeeze: Conv2d::new(&scope.pp("squeeze"), c_in, squeezed, 1)?,
            expand1: Conv2d::new(&scope.pp("expand1x1"), squeezed, expanded, 1)?,
            expand3: Conv2d::new(&scope.pp("expand3x3"), squeezed, expanded, 3)?,
        });
        Ok(())
    }

    fn pool(&mut self, kernel: usize, ceil: bool) {
        self.layers.push(Layer::MaxPool(PoolConfig { ceil, ..PoolConfig::new(kernel, 2) }));
    }

    fn tap(&mut self) {
        self.layers.push(Layer::Tap);
    }

    fn alex(mut self) -> Result<Backbone> {
        self.conv(0, [3, 64, 11], 4, 2)?;
        self.tap();
        self.pool(3, false);
        self.conv(3, [64, 192, 5], 1, 2)?;
        self.tap();
        self.pool(3, false);
        for (number, shape) in [(6, [192, 384, 3]), (8, [384, 256, 3]), (10, [256, 256, 3])] {
            self.conv(number, shape, 1, 1)?;
            self.tap();
        }
        Ok(Backbone(self.layers))
    }

    fn vgg(mut self) -> Result<Backbone> {
        let (mut number, mut c_in) = (0, 3);
        for (block, (convolutions, c_out)) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)].into_iter().enumerate() {
            if block > 0 {
                self.pool(2, false);
                number += 1;
            }
            for _ in 0..convolutions {
                self.conv(number, [c_in, c_out, 3], 1, 1)?;
                // A ReLU takes a number of its own.
                number += 2;
                c_in = c_out;
            }
            self.tap();
        }
        Ok(Backbone(self.layers))
    }

    fn squeeze(mut self) -> Result<Backbone> {
        self.conv(0, [3, 64, 3], 2, 0)?;
        self.tap();
        self.pool(3, true);
        self.fire(3, [64, 16, 64])?;
        self.fire(4, [128, 16, 64])?;
        self.tap();
        self.pool(3, true);
        self.fire(6, [128, 32, 128])?;
        self.fire(7, [256, 32, 128])?;
        self.tap();
        self.pool(3, true);
        for (number, widths) in [(9, [256, 48, 192]), (10, [384, 48, 192]), (11, [384, 64, 256]), (12, [512, 64, 256])] {
            self.fire(number, widths)?;
            self.tap();
        }
        Ok(Backbone(self.layers))
    }
}
