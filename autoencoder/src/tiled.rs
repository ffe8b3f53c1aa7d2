//! Large images by tiles, with the result of the whole.
//!
//! A group norm looks at the whole image, so tiles that are normalised each by itself differ from the whole and from each other. Here
//! every norm's statistics are those of the whole image: they are gathered from all tiles, norm after norm, before a level is
//! computed. Each tile is computed with as much of its neighbours as its convolutions see. So there is nothing to blend and no
//! seam, at the price of computing the first convolutions of a level once for each of its norms.
//!
//! What exists at a time is a tile at full resolution, and the whole image between two levels, where it is half as wide as the level
//! that follows. The lowest resolution, and levels with attention, run whole.

use std::ops::Range;

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops,
};

use crate::{
    Autoencoder, Error, Result,
    blocks::{Downsample, Upsample},
};

/// The smallest side of a tile, in pixels: what a smaller one shares with its neighbours would be most of it.
pub const MIN_TILE: usize = 64;

/// What happens to a tile, in order. Convolutions keep the size but for the first and last step of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    /// Doubling, perhaps with a convolution.
    Up(&'a Upsample),
    /// Doubling alone.
    Double,
    Conv(&'a Conv2d),
    Relu,
    /// With SiLU, over statistics of the whole image.
    Norm(&'a GroupNorm),
    /// Keeps the tile for the next [`Op::Add`].
    Keep,
    /// Adds what was kept, through a 1×1 convolution where there is one.
    Add(Option<&'a Linear>),
    Down(&'a Downsample),
    /// A convolution of stride 2.
    Half(&'a Conv2d),
}

/// Operations between two places where the whole image is in memory. They work at one resolution, which [`Op::Up`] or
/// [`Op::Double`] may lead to and [`Op::Down`] or [`Op::Half`] away from.
pub(crate) type Segment<'a> = Vec<Op<'a>>;

/// Scale and shift of each channel that normalise by statistics of the whole image.
struct Affine {
    scale: Tensor,
    shift: Tensor,
}

impl Autoencoder {
    /// [`Self::encode_stored`] by tiles of about `side` pixels: the same result up to rounding. x: `[B, C, H, W]`.
    ///
    /// # Errors
    /// As [`Self::encode_stored`]; a side of less than [`MIN_TILE`].
    pub fn encode_stored_tiled(&self, x: &Tensor, side: usize) -> Result<Tensor> {
        check_side(side)?;
        each(x, |x| match self {
            Self::Kl(model) => model.encode_moments_tiled(x, side),
            Self::Vq(model) => model.encode_tiled(x, side),
            Self::Tiny(model) => model.encode_tiled(x, side),
        })
    }

    /// [`Self::encode`], by tiles of about so many pixels where `tile` says so. x: `[B, C, H, W]`.
    ///
    /// # Errors
    /// As [`Self::encode_stored`]; tiles of less than [`MIN_TILE`].
    pub fn encode_by(&self, x: &Tensor, tile: Option<usize>) -> Result<Tensor> {
        match tile {
            Some(side) => self.latent_of(self.encode_stored_tiled(x, side)?),
            None => self.encode(x),
        }
    }

    /// [`Self::decode`], by tiles of about so many pixels where `tile` says so. z: `[B, Z, h, w]`.
    ///
    /// # Errors
    /// As [`Self::decode`]; tiles of less than [`MIN_TILE`].
    pub fn decode_by(&self, z: &Tensor, tile: Option<usize>) -> Result<Tensor> {
        match tile {
            Some(side) => self.decode_tiled(z, side),
            None => self.decode(z),
        }
    }

    /// [`Self::decode`] by tiles of about `side` pixels: the same result up to rounding. z: `[B, Z, h, w]`.
    ///
    /// # Errors
    /// As [`Self::decode`]; a side of less than [`MIN_TILE`].
    pub fn decode_tiled(&self, z: &Tensor, side: usize) -> Result<Tensor> {
        check_side(side)?;
        crate::model::check_finite("latent", z)?;
        each(z, |z| match self {
            Self::Kl(model) => model.decode_tiled(z, side),
            Self::Vq(model) => model.decode_tiled(z, side),
            Self::Tiny(model) => model.decode_tiled(z, side),
        })
    }
}

fn check_side(side: usize) -> Result<()> {
    if side < MIN_TILE { Err(Error::config("tile", format!("{MIN_TILE} pixels or more"), side)) } else { Ok(()) }
}

/// One image at a time.
fn each(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let results = (0..x.dim(0)?).map(|i| f(&x.narrow(0, i, 1)?)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&results, 0)?)
}

/// Runs segments one after the other. x: `[1, H, W, C]`; `side`: of a tile of the image, in positions of the finest segment.
pub(crate) fn run(segments: &[Segment<'_>], x: Tensor, side: usize) -> Result<Tensor> {
    let mut x = x;
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        x = Tiling::new(segment, &x, side)?.run()?;
    }
    Ok(x)
}

/// One segment over one image.
struct Tiling<'a> {
    segment: &'a [Op<'a>],
    x: &'a Tensor,
    /// Tile's side at the resolution of the segment, even.
    side: usize,
    /// Height and width at that resolution.
    size: [usize; 2],
    /// Positions around a tile that its inside depends on, even.
    halo: usize,
}

impl<'a> Tiling<'a> {
    fn new(segment: &'a [Op<'a>], x: &'a Tensor, side: usize) -> Result<Self> {
        let (_, h, w, _) = x.dims4()?;
        let doubled = matches!(segment.first(), Some(Op::Up(_) | Op::Double));
        let convolutions = segment.iter().filter(|op| matches!(op, Op::Up(_) | Op::Conv(_) | Op::Down(_) | Op::Half(_))).count();
        let factor = if doubled { 2 } else { 1 };
        Ok(Self {
            segment,
            x,
            side: side.next_multiple_of(2),
            size: [h * factor, w * factor],
            halo: (convolutions + 1).next_multiple_of(2),
        })
    }

    fn run(&self) -> Result<Tensor> {
        let norms: Vec<&GroupNorm> =
            self.segment.iter().filter_map(|op| if let Op::Norm(norm) = op { Some(*norm) } else { None }).collect();
        let mut statistics = Vec::with_capacity(norms.len());
        for norm in norms {
            statistics.push(self.affine(norm, &statistics)?);
        }
        self.assemble(&statistics)
    }

    /// The tiles' inner parts, at the resolution of the segment.
    fn tiles(&self) -> impl Iterator<Item = [Range<usize>; 2]> {
        let [h, w] = self.size;
        let side = self.side;
        let rows = (0..h).step_by(side).map(move |y| y..(y + side).min(h));
        rows.flat_map(move |rows| (0..w).step_by(side).map(move |x| [rows.clone(), x..(x + side).min(w)]))
    }

    /// A tile after the operations up to the first norm that `statistics` lacks, or all of them; cropped to its inner part.
    fn tile(&self, inner: &[Range<usize>; 2], statistics: &[Affine]) -> Result<Tensor> {
        let outer: [Range<usize>; 2] = std::array::from_fn(|axis| {
            let Range { start, end } = inner[axis];
            start.saturating_sub(self.halo)..(end + self.halo).min(self.size[axis])
        });
        let doubled = self.size[0] / self.x.dim(1)?;
        let mut x = self.x.clone();
        for (axis, range) in outer.iter().enumerate() {
            x = x.narrow(axis + 1, range.start / doubled, range.len() / doubled)?;
        }
        let y = apply(self.segment, x.contiguous()?, statistics)?;
        let halved = outer[0].len() / y.dim(1)?;
        let mut y = y;
        for (axis, (inner, outer)) in inner.iter().zip(&outer).enumerate() {
            y = y.narrow(axis + 1, (inner.start - outer.start) / halved, inner.len() / halved)?;
        }
        Ok(y.contiguous()?)
    }

    /// The statistics of the next norm over all tiles, as what they do to each channel.
    fn affine(&self, norm: &GroupNorm, before: &[Affine]) -> Result<Affine> {
        let mut sums: Vec<[f64; 2]> = Vec::new();
        let mut count = 0;
        for inner in self.tiles() {
            let tile = self.tile(&inner, before)?;
            add_sums(&tile, &mut sums)?;
            count += inner[0].len() * inner[1].len();
        }
        let (groups, channels) = (norm.groups(), sums.len());
        let width = channels / groups;
        let n = (count * width) as f64;
        let weight = norm.weight().var().as_detached_tensor().to_vec1::<f32>()?;
        let bias = norm.bias().var().as_detached_tensor().to_vec1::<f32>()?;
        let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for (group, sums) in sums.chunks_exact(width).enumerate() {
            let [sum, squares] = sums.iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
            let mean = sum / n;
            let deviation = ((squares / n - mean * mean).max(0.0) + norm.eps()).sqrt();
            for c in group * width..(group + 1) * width {
                let factor = f64::from(weight[c]) / deviation;
                scale.push(factor as f32);
                shift.push((f64::from(bias[c]) - mean * factor) as f32);
            }
        }
        let row = |values: Vec<f32>| Tensor::from_vec(values, (1, 1, 1, channels), self.x.device());
        Ok(Affine { scale: row(scale)?, shift: row(shift)? })
    }

    /// All tiles of the result, put together.
    fn assemble(&self, statistics: &[Affine]) -> Result<Tensor> {
        let [h, w] = self.size;
        let mut whole: Vec<f32> = Vec::new();
        let mut shape = [0; 3];
        for inner in self.tiles() {
            let tile = self.tile(&inner, statistics)?;
            let (_, rows, columns, channels) = tile.dims4()?;
            let halved = inner[0].len() / rows;
            shape = [h / halved, w / halved, channels];
            whole.resize(shape.iter().product(), 0.0);
            let values = tile.flatten_all()?.to_vec1::<f32>()?;
            for (i, row) in values.chunks_exact(columns * channels).enumerate() {
                let at = ((inner[0].start / halved + i) * shape[1] + inner[1].start / halved) * channels;
                whole[at..at + row.len()].copy_from_slice(row);
            }
        }
        Ok(Tensor::from_vec(whole, (1, shape[0], shape[1], shape[2]), self.x.device())?)
    }
}

/// Adds each channel's sum and sum of squares.
fn add_sums(tile: &Tensor, sums: &mut Vec<[f64; 2]>) -> Result<()> {
    let channels = tile.dim(3)?;
    sums.resize(channels, [0.0; 2]);
    for pixel in tile.flatten_all()?.to_vec1::<f32>()?.chunks_exact(channels) {
        for ([sum, squares], v) in sums.iter_mut().zip(pixel) {
            let v = f64::from(*v);
            *sum += v;
            *squares += v * v;
        }
    }
    Ok(())
}

/// The operations of a segment on a tile, up to the first norm without statistics.
fn apply(segment: &[Op<'_>], x: Tensor, statistics: &[Affine]) -> Result<Tensor> {
    let mut statistics = statistics.iter();
    let (mut h, mut kept) = (x, None);
    for op in segment {
        h = match op {
            Op::Up(up) => up.forward(&h)?,
            Op::Double => ops::upsample_nearest2x(&h)?,
            Op::Conv(conv) | Op::Half(conv) => conv.forward(&h)?,
            Op::Relu => ops::relu(&h)?,
            Op::Down(down) => down.forward(&h)?,
            Op::Keep => {
                kept = Some(h.clone());
                h
            }
            Op::Add(shortcut) => match (kept.take(), shortcut) {
                (Some(kept), Some(shortcut)) => (shortcut.forward(&kept)? + h)?,
                (Some(kept), None) => (kept + h)?,
                (None, _) => h,
            },
            Op::Norm(_) => match statistics.next() {
                Some(Affine { scale, shift }) => ops::silu(&h.broadcast_mul(scale)?.broadcast_add(shift)?)?,
                None => return Ok(h),
            },
        };
    }
    Ok(h)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{AutoencoderConfig, KlConfig, Resampling, TinyConfig, VqConfig};
    use candle_core::Device;
    use strata_nn::{params::ParamStore, random::Key};

    fn largest(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    fn configs() -> Vec<AutoencoderConfig> {
        let coder = KlConfig {
            channels: vec![8, 16, 16],
            encoder_blocks: 1,
            decoder_blocks: 2,
            norm_groups: 4,
            latent_channels: 3,
            ..KlConfig::default()
        };
        let tiny = TinyConfig {
            encoder_channels: 8,
            decoder_channels: 8,
            encoder_blocks: vec![1, 1, 2],
            decoder_blocks: vec![1, 2, 1],
            ..TinyConfig::default()
        };
        let patched =
            KlConfig { channels: vec![8, 16], patch: 2, resampling: Resampling::Plain, tanh_out: true, ..coder.clone() };
        let attentive = KlConfig { encoder_attention: vec![1], decoder_attention: vec![1], ..coder.clone() };
        vec![
            AutoencoderConfig::Kl(coder.clone()),
            AutoencoderConfig::Kl(patched),
            AutoencoderConfig::Kl(attentive),
            AutoencoderConfig::Vq(VqConfig { codes: 12, coder }),
            AutoencoderConfig::Tiny(tiny),
        ]
    }

    #[test]
    fn tiles_give_what_the_whole_gives() {
        for config in configs() {
            let store = ParamStore::new(1, &Device::Cpu);
            let model = Autoencoder::new(&config, &store.root()).unwrap();
            store.freeze();
            // Contrast that differs from place to place, so that the statistics of a tile are not those of the image.
            let ramp =
                Tensor::arange(0f32, 200., &Device::Cpu).unwrap().reshape((1, 1, 1, 200)).unwrap().affine(0.01, 0.0).unwrap();
            let x = Key::new(0, "x").normal_tensor((2, 3, 136, 200), &Device::Cpu).unwrap().broadcast_mul(&ramp).unwrap();
            let (whole, tiled) = (model.encode_stored(&x).unwrap(), model.encode_stored_tiled(&x, 64).unwrap());
            assert!(largest(&whole, &tiled) < 1e-4, "{config:?}: {}", largest(&whole, &tiled));
            let z = model.encode(&x).unwrap();
            assert!(largest(&z, &model.encode_by(&x, Some(64)).unwrap()) < 1e-4, "{config:?}");
            let (whole, tiled) = (model.decode(&z).unwrap(), model.decode_tiled(&z, 64).unwrap());
            assert!(largest(&whole, &tiled) < 1e-4, "{config:?}: {}", largest(&whole, &tiled));
            assert!(model.decode_tiled(&z, 32).unwrap_err().to_string().contains("`tile`: expected 64 pixels or more, got 32"));
        }
    }
}
