//! Image-shaped conditions: a smaller picture, a picture with a hole, a map of classes, brought to a model's samples as further
//! channels of its input.

mod mask;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::params::Scope;

pub use mask::random_mask;

use crate::{Condition, Error, RescalerConfig, Resize, Result, SpatialRescaler, rescale};

/// What a model is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageCondition {
    /// The picture at a smaller size, for super-resolution: RGB in [-1, 1], enlarged to the size of a sample (Saharia et al. 2021).
    LowRes {
        /// Pixels of the picture to one of the smaller one, along a side.
        factor: usize,
        /// Standard deviation up to which it is noised in training (Ho et al. 2022); the model is told how much, as a further
        /// channel. 0: never.
        #[serde(default)]
        max_noise: f64,
    },
    /// The sample of the picture whose hole is black, then the mask, 1 where to draw and -1 elsewhere (Rombach et al. 2022).
    Inpaint,
    /// A class for every pixel, one-hot, halved by a rescaler until it has the size of a sample (Rombach et al. 2022).
    Map {
        /// Number of classes.
        classes: usize,
        /// Channels that the rescaler maps them to.
        channels: usize,
    },
}

impl ImageCondition {
    /// # Errors
    /// If a value cannot be used.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::LowRes { factor, max_noise } if factor < 2 || !(max_noise >= 0.0 && max_noise.is_finite()) => {
                let got = format!("factor {factor} and max_noise {max_noise}");
                Err(Error::Config(format!("`image`: expected a factor of 2 or more and max_noise of 0 or more, got {got}")))
            }
            Self::Map { classes, channels } if !(2..=256).contains(&classes) || channels == 0 => {
                let got = format!("{classes} classes and {channels} channels");
                Err(Error::Config(format!("`image`: expected 2 to 256 classes and channels, got {got}")))
            }
            _ => Ok(()),
        }
    }

    /// The largest noise that it can be told of.
    pub fn max_noise(&self) -> f64 {
        match self {
            Self::LowRes { max_noise, .. } => *max_noise,
            Self::Inpaint | Self::Map { .. } => 0.0,
        }
    }
}

impl std::fmt::Display for ImageCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LowRes { factor, max_noise } if *max_noise > 0.0 => {
                write!(f, "a picture {factor} times smaller, with noise up to {max_noise}")
            }
            Self::LowRes { factor, .. } => write!(f, "a picture {factor} times smaller"),
            Self::Inpaint => write!(f, "a picture with a hole and its mask"),
            Self::Map { classes, .. } => write!(f, "a map of {classes} classes"),
        }
    }
}

/// A condition and its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// What is shown.
    pub condition: ImageCondition,
    /// Its shape before it is brought to the size of a sample: channels, height, width.
    pub shape: [usize; 3],
    /// Probability with which it was left out in training; 0: the model cannot do without.
    pub dropout: f64,
}

impl ImageInput {
    /// Channels that it adds to the network's input.
    pub fn channels(&self) -> usize {
        match self.condition {
            ImageCondition::LowRes { max_noise, .. } => self.shape[0] + usize::from(max_noise > 0.0),
            ImageCondition::Inpaint => self.shape[0],
            ImageCondition::Map { channels, .. } => channels,
        }
    }
}

/// A batch of images to be shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `[B, C, h, w]` of [`ImageInput::shape`]: noised pixels, sample and mask, or numbers of classes.
    pub images: Tensor,
    /// Standard deviation of the noise in each; as many as rows.
    pub noise: Vec<f32>,
    /// Whether each is shown at all; of one that is not, the model sees zeros.
    pub shown: Vec<bool>,
}

/// Turns images into `Condition::concat`. Of maps it has the rescaler's parameters, `channel_mapper.weight`.
#[derive(Clone, Debug)]
pub struct ImageConditioner {
    input: ImageInput,
    /// Rows and columns of a sample.
    size: [usize; 2],
    rescaler: Option<SpatialRescaler>,
}

impl ImageConditioner {
    /// For samples of `size` rows and columns.
    ///
    /// # Errors
    /// If shape and size do not agree.
    pub fn new(scope: &Scope, input: &ImageInput, size: [usize; 2]) -> Result<Self> {
        input.condition.validate()?;
        let [c, h, w] = input.shape;
        let mismatch = |expected: String| Error::Config(format!("{}: expected {expected}, got {c}x{h}x{w}", input.condition));
        if h == 0 || w == 0 || h * size[1] != w * size[0] {
            return Err(mismatch(format!("the proportions of samples of {}x{}", size[0], size[1])));
        }
        let rescaler = match input.condition {
            ImageCondition::LowRes { .. } if c != 3 => return Err(mismatch("3 channels".into())),
            ImageCondition::Inpaint if [h, w] != size || c < 2 => {
                return Err(mismatch(format!("a sample of {}x{} and a mask", size[0], size[1])));
            }
            ImageCondition::Map { classes, channels } => {
                let ratio = h / size[0];
                if c != 1 || ratio * size[0] != h || !ratio.is_power_of_two() {
                    return Err(mismatch(format!("one channel of {} rows times a power of two", size[0])));
                }
                let config = RescalerConfig {
                    stages: ratio.trailing_zeros() as usize,
                    in_channels: classes,
                    out_channels: Some(channels),
                    ..RescalerConfig::default()
                };
                Some(SpatialRescaler::new(&config, scope)?)
            }
            _ => None,
        };
        Ok(Self { input: input.clone(), size, rescaler })
    }

    /// What it was built from.
    pub fn input(&self) -> &ImageInput {
        &self.input
    }

    /// `[B, channels, H, W]` of a batch: zeros where nothing is shown.
    ///
    /// # Errors
    /// If the shapes are others, or a class is not below their number.
    pub fn forward(&self, shown: &Shown) -> Result<Tensor> {
        let [c, h, w] = self.input.shape;
        let (rows, images) = (shown.shown.len(), &shown.images);
        if images.dims() != [rows, c, h, w] || shown.noise.len() != rows {
            return Err(Error::Config(format!("images to be shown: expected [{rows}, {c}, {h}, {w}], got {:?}", images.dims())));
        }
        let channels = match self.input.condition {
            ImageCondition::LowRes { max_noise, .. } => self.low_res(images, &shown.noise, max_noise)?,
            ImageCondition::Inpaint => images.clone(),
            ImageCondition::Map { classes, .. } => self.map(images, classes)?,
        };
        if shown.shown.iter().all(|shown| *shown) {
            return Ok(channels);
        }
        let kept: Vec<f32> = shown.shown.iter().map(|&shown| if shown { 1.0 } else { 0.0 }).collect();
        Ok(channels.broadcast_mul(&Tensor::from_vec(kept, (rows, 1, 1, 1), images.device())?)?)
    }

    /// Zeros for `rows` samples: nothing is shown.
    pub fn nothing(&self, rows: usize, device: &Device) -> Result<Tensor> {
        Ok(Tensor::zeros((rows, self.input.channels(), self.size[0], self.size[1]), DType::F32, device)?)
    }

    /// The same as [`Self::forward`], beside the other parts of `condition`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn add(&self, condition: Condition, shown: &Shown) -> Result<Condition> {
        Ok(Condition { concat: Some(self.forward(shown)?), ..condition })
    }

    fn low_res(&self, images: &Tensor, noise: &[f32], max_noise: f64) -> Result<Tensor> {
        let ratio = self.size[0] as f64 / self.input.shape[1] as f64;
        let enlarged = match ratio {
            1.0 => images.clone(),
            ratio => rescale(images, ratio, if ratio > 1.0 { Resize::Bicubic } else { Resize::Area })?,
        };
        if max_noise == 0.0 {
            return Ok(enlarged);
        }
        // From -1, none, to 1, the most.
        let told: Vec<f32> = noise.iter().map(|&n| 2.0 * n / max_noise as f32 - 1.0).collect();
        let told = Tensor::from_vec(told, (noise.len(), 1, 1, 1), images.device())?;
        let told = told.broadcast_as((noise.len(), 1, self.size[0], self.size[1]))?;
        Ok(Tensor::cat(&[&enlarged, &told.contiguous()?], 1)?)
    }

    fn map(&self, images: &Tensor, classes: usize) -> Result<Tensor> {
        let (rows, _, h, w) = images.dims4()?;
        let ids = images.flatten_all()?.to_vec1::<f32>()?;
        let mut one_hot = vec![0f32; ids.len() * classes];
        for (at, id) in ids.iter().enumerate() {
            let class = *id as usize;
            if class >= classes {
                return Err(Error::Class { class: class as u32, classes });
            }
            let (row, pixel) = (at / (h * w), at % (h * w));
            one_hot[(row * classes + class) * h * w + pixel] = 1.0;
        }
        let one_hot = Tensor::from_vec(one_hot, (rows, classes, h, w), images.device())?;
        match &self.rescaler {
            Some(rescaler) => rescaler.forward(&one_hot),
            None => Ok(one_hot),
        }
    }
}

/// The picture `factor` times smaller along a side: each pixel the mean of its `factor`² pixels. x: `[B, 3, H, W]`.
///
/// # Errors
/// If a side is not a multiple of the factor.
pub fn smaller(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if factor == 0 || h % factor != 0 || w % factor != 0 {
        return Err(Error::Config(format!("a picture of {h}x{w} cannot be made {factor} times smaller: expected multiples")));
    }
    rescale(x, 1.0 / factor as f64, Resize::Area)
}

/// Fills the hole of pictures in [-1, 1], `[B, C, H, W]`, with black. mask: `[B, 1, H, W]`, 1 where to draw and -1 elsewhere.
///
/// # Errors
/// If the shapes do not agree.
pub fn with_hole(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let kept = mask.affine(-0.5, 0.5)?;
    Ok(((x + 1.0)?.broadcast_mul(&kept)? - 1.0)?)
}

#[cfg(test)]
mod tests {
    use strata_nn::params::ParamStore;

    use super::*;

    fn conditioner(condition: ImageCondition, shape: [usize; 3]) -> Result<(ImageConditioner, ParamStore)> {
        let store = ParamStore::new(0, &Device::Cpu);
        let input = ImageInput { condition, shape, dropout: 0.1 };
        Ok((ImageConditioner::new(&store.root(), &input, [4, 4])?, store))
    }

    fn shown(images: Tensor, noise: Vec<f32>, shown: Vec<bool>) -> Shown {
        Shown { images, noise, shown }
    }

    #[test]
    fn a_smaller_picture_is_enlarged_and_its_noise_told() -> Result<()> {
        let (conditioner, _) = conditioner(ImageCondition::LowRes { factor: 2, max_noise: 0.5 }, [3, 2, 2])?;
        let images = Tensor::full(0.25f32, (3, 3, 2, 2), &Device::Cpu)?;
        let y = conditioner.forward(&shown(images, vec![0.0, 0.5, 0.25], vec![true, true, false]))?;
        assert_eq!(y.dims(), [3, conditioner.input().channels(), 4, 4]);
        let y = y.mean_keepdim((2, 3))?.flatten_all()?.to_vec1::<f32>()?;
        let expected = [0.25, 0.25, 0.25, -1.0, 0.25, 0.25, 0.25, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert!(y.iter().zip(expected).all(|(y, e)| (y - e).abs() < 1e-6), "{y:?}");
        Ok(())
    }

    #[test]
    fn a_map_is_one_hot_rescaled_and_learned() -> Result<()> {
        let (conditioner, store) = conditioner(ImageCondition::Map { classes: 3, channels: 2 }, [1, 8, 8])?;
        let ids: Vec<f32> = (0..64u8).map(|i| f32::from(i / 16 % 3)).collect();
        let images = Tensor::from_vec(ids.clone(), (1, 1, 8, 8), &Device::Cpu)?;
        let y = conditioner.forward(&shown(images, vec![0.0], vec![true]))?;
        assert_eq!(y.dims(), [1, 2, 4, 4]);
        let weight = store.parameters()[0].get().flatten_all()?.to_vec1::<f32>()?;
        let rows = y.flatten_all()?.to_vec1::<f32>()?;
        // Two rows of pixels of one class are one row of the sample.
        for (row, class) in [0, 1, 2, 0].into_iter().enumerate() {
            assert!((rows[4 * row] - weight[class]).abs() < 1e-6 && (rows[16 + 4 * row] - weight[3 + class]).abs() < 1e-6);
        }
        assert!(y.sum_all()?.backward()?.get(store.parameters()[0].var()).is_some());
        let wrong = Tensor::full(3f32, (1, 1, 8, 8), &Device::Cpu)?;
        let message = conditioner.forward(&shown(wrong, vec![0.0], vec![true])).err().map(|e| e.to_string());
        assert_eq!(message.as_deref(), Some("class 3: expected a number below 3"));
        Ok(())
    }

    #[test]
    fn a_hole_is_black_and_the_rest_stays() -> Result<()> {
        let x = Tensor::from_vec(vec![0.5f32, -0.5, 0.25, 1.0], (1, 1, 2, 2), &Device::Cpu)?;
        let mask = Tensor::from_vec(vec![1f32, -1.0, -1.0, 1.0], (1, 1, 2, 2), &Device::Cpu)?;
        assert_eq!(with_hole(&x, &mask)?.flatten_all()?.to_vec1::<f32>()?, [-1.0, -0.5, 0.25, -1.0]);
        assert_eq!(smaller(&x, 2)?.flatten_all()?.to_vec1::<f32>()?, [0.3125]);
        assert!(smaller(&x, 3).is_err());
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let low_res = |factor, shape| conditioner(ImageCondition::LowRes { factor, max_noise: 0.0 }, shape).err();
        assert!(low_res(1, [3, 2, 2]).is_some() && low_res(2, [1, 2, 2]).is_some() && low_res(2, [3, 2, 3]).is_some());
        assert!(conditioner(ImageCondition::Inpaint, [4, 8, 8]).is_err());
        assert!(conditioner(ImageCondition::Map { classes: 3, channels: 2 }, [1, 12, 12]).is_err());
        assert!(conditioner(ImageCondition::Map { classes: 1, channels: 2 }, [1, 8, 8]).is_err());
    }
}
