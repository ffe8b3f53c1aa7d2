//! The parts of encoder and decoder, channels last.

use candle_core::Tensor;
use strata_nn::{
    Result,
    layers::{Conv2d, GroupNorm, Linear},
    ops::{self, Conv2dConfig, Padding},
    params::{Init, Scope},
    recompute::checkpoint,
};

use crate::{
    Resampling,
    tiled::{Op, Segment},
};

/// Epsilon of every group norm in these networks.
pub(crate) const NORM_EPS: f64 = 1e-6;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`; a 1×1 convolution on x where the number of channels changes.
#[derive(Clone, Debug)]
pub(crate) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub(crate) fn new(scope: &Scope, c_in: usize, c_out: usize, groups: usize) -> Result<Self> {
        let shortcut = || Linear::pointwise(&scope.pp("shortcut"), c_in, c_out, 2, Init::FanIn);
        Ok(Self {
            norm1: GroupNorm::new(&scope.pp("norm1"), c_in, groups, NORM_EPS)?,
            conv1: Conv2d::new(&scope.pp("conv1"), c_in, c_out, 3)?,
            norm2: GroupNorm::new(&scope.pp("norm2"), c_out, groups, NORM_EPS)?,
            conv2: Conv2d::new(&scope.pp("conv2"), c_out, c_out, 3)?,
            shortcut: (c_in != c_out).then(shortcut).transpose()?,
        })
    }

    /// x: `[B, H, W, C_in]` -> `[B, H, W, C_out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        match &self.shortcut {
            Some(shortcut) => Ok((shortcut.forward(x)? + h)?),
            None => Ok((x + h)?),
        }
    }

    /// The same, operation by operation.
    fn extend<'a>(&'a self, segment: &mut Segment<'a>) {
        segment.extend([Op::Keep, Op::Norm(&self.norm1), Op::Conv(&self.conv1), Op::Norm(&self.norm2), Op::Conv(&self.conv2)]);
        segment.push(Op::Add(self.shortcut.as_ref()));
    }
}

/// `x + out(attention(q, k, v))` over positions, one head of the full width.
#[derive(Clone, Debug)]
pub(crate) struct AttentionBlock {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl AttentionBlock {
    pub(crate) fn new(scope: &Scope, channels: usize, groups: usize) -> Result<Self> {
        let linear = |name: &str| Linear::new(&scope.pp(name), channels, channels);
        Ok(Self {
            norm: GroupNorm::new(&scope.pp("norm"), channels, groups, NORM_EPS)?,
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            out: linear("out")?,
        })
    }

    /// x: `[B, H, W, C]`, same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let n = self.norm.forward(x)?.reshape((b, h * w, c))?;
        let head = |linear: &Linear| -> Result<Tensor> { Ok(linear.forward(&n)?.reshape((b, h * w, 1, c))?) };
        let scale = (c as f64).powf(-0.5);
        let a = ops::attention(&head(&self.q)?, &head(&self.k)?, &head(&self.v)?, scale, None)?;
        let y = self.out.forward(&a.reshape((b, h * w, c))?)?;
        Ok((x + y.reshape((b, h, w, c))?)?)
    }
}

/// Residual blocks, each followed by attention where the level has it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    blocks: Vec<ResidualBlock>,
    attentions: Vec<AttentionBlock>,
}

/// What a [`Chain`] is built from.
pub(crate) struct ChainShape {
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) blocks: usize,
    pub(crate) attention: bool,
    pub(crate) groups: usize,
}

impl Chain {
    pub(crate) fn new(scope: &Scope, shape: &ChainShape) -> Result<Self> {
        let &ChainShape { c_in, c_out, blocks: n, attention, groups } = shape;
        let mut blocks = Vec::with_capacity(n);
        let mut attentions = Vec::new();
        for j in 0..n {
            let c = if j == 0 { c_in } else { c_out };
            blocks.push(ResidualBlock::new(&scope.pp("blocks").pp(j), c, c_out, groups)?);
            if attention {
                attentions.push(AttentionBlock::new(&scope.pp("attentions").pp(j), c_out, groups)?);
            }
        }
        Ok(Self { blocks, attentions })
    }

    /// Whether what it makes of a position depends on its neighbourhood alone, but for the norms.
    pub(crate) fn is_local(&self) -> bool {
        self.attentions.is_empty()
    }

    /// Appends its operations, attention left out.
    pub(crate) fn extend<'a>(&'a self, segment: &mut Segment<'a>) {
        self.blocks.iter().for_each(|block| block.extend(segment));
    }

    /// `recompute`: whether activations inside the blocks are computed anew in the backward pass.
    pub(crate) fn forward(&self, x: &Tensor, recompute: bool) -> Result<Tensor> {
        let mut h = x.clone();
        for (j, block) in self.blocks.iter().enumerate() {
            h = run(block, &h, recompute, ResidualBlock::forward)?;
            if let Some(attention) = self.attentions.get(j) {
                h = run(attention, &h, recompute, AttentionBlock::forward)?;
            }
        }
        Ok(h)
    }
}

/// Two blocks at the lowest resolution, with attention between them.
#[derive(Clone, Debug)]
pub(crate) struct Middle {
    block1: ResidualBlock,
    attention: Option<AttentionBlock>,
    block2: ResidualBlock,
}

impl Middle {
    pub(crate) fn new(scope: &Scope, channels: usize, groups: usize, attention: bool) -> Result<Self> {
        let attention = attention.then(|| AttentionBlock::new(&scope.pp("attention"), channels, groups)).transpose()?;
        Ok(Self {
            block1: ResidualBlock::new(&scope.pp("block1"), channels, channels, groups)?,
            attention,
            block2: ResidualBlock::new(&scope.pp("block2"), channels, channels, groups)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, recompute: bool) -> Result<Tensor> {
        let mut h = run(&self.block1, x, recompute, ResidualBlock::forward)?;
        if let Some(attention) = &self.attention {
            h = run(attention, &h, recompute, AttentionBlock::forward)?;
        }
        run(&self.block2, &h, recompute, ResidualBlock::forward)
    }
}

/// One block, its activations kept or computed anew in the backward pass. Its clone shares the parameters.
fn run<B>(block: &B, x: &Tensor, recompute: bool, forward: fn(&B, &Tensor) -> Result<Tensor>) -> Result<Tensor>
where
    B: Clone + Send + Sync + 'static,
{
    if !recompute {
        return forward(block, x);
    }
    let block = block.clone();
    checkpoint(true, &[x], move |x| forward(&block, &x[0]))
}

/// Halving of both sides.
#[derive(Clone, Debug)]
pub(crate) enum Downsample {
    Convolution(Conv2d),
    Mean,
}

impl Downsample {
    pub(crate) fn new(scope: &Scope, channels: usize, resampling: Resampling) -> Result<Self> {
        let config = Conv2dConfig { stride: 2, padding: Padding::BOTTOM_RIGHT };
        Ok(match resampling {
            Resampling::Convolution => Self::Convolution(Conv2d::with(scope, [channels, channels, 3], config, Init::FanIn)?),
            Resampling::Plain => Self::Mean,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Convolution(conv) => conv.forward(x),
            Self::Mean => ops::average_pool2x(x),
        }
    }
}

/// Nearest doubling of both sides, then perhaps a convolution.
#[derive(Clone, Debug)]
pub(crate) struct Upsample(Option<Conv2d>);

impl Upsample {
    pub(crate) fn new(scope: &Scope, channels: usize, resampling: Resampling) -> Result<Self> {
        let conv = || Conv2d::new(scope, channels, channels, 3);
        Ok(Self((resampling == Resampling::Convolution).then(conv).transpose()?))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::upsample_nearest2x(x)?;
        self.0.as_ref().map_or(Ok(x.clone()), |conv| conv.forward(&x))
    }
}
