//! Conditions for a denoiser: what every encoder produces and every U-Net accepts.
//!
//! A [`Condition`] has optional parts, one for each way into a network. Batches of it can be gathered by stage
//! ([`Condition::index_select`]) and stacked for guidance ([`Condition::stack`]).

mod attributes;
mod class;
mod error;
mod image;
mod rescaler;
pub mod text;

use candle_core::Tensor;

pub use attributes::AttributeEmbedder;
pub use class::ClassEmbedder;
pub use error::{Error, Result};
pub use image::{ImageCondition, ImageConditioner, ImageInput, Shown, random_mask, smaller, with_hole};
pub use rescaler::{RescalerConfig, Resize, SpatialRescaler, rescale};

/// A batch of conditions.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// `[B, D]`: added to the embedding of the noise level.
    pub vector: Option<Tensor>,
    /// `[B, T, D]`: attended to.
    pub context: Option<Tensor>,
    /// `[B, C, H, W]`: concatenated to the network's input.
    pub concat: Option<Tensor>,
    /// `[B, D]`: numbers that describe how the sample was augmented, zeros where it was not (Karras et al. 2022).
    pub augment: Option<Tensor>,
}

impl Condition {
    /// No condition at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// The rows `rows` (u32 `[n]`) of every part.
    pub fn index_select(&self, rows: &Tensor) -> Result<Self> {
        self.map(|t| Ok(t.index_select(rows, 0)?))
    }

    /// # Errors
    /// If a part does not have `batch` rows.
    pub fn check_batch(&self, batch: usize) -> Result<()> {
        let parts = [("vector", &self.vector), ("context", &self.context), ("concat", &self.concat), ("augment", &self.augment)];
        for (name, part) in parts {
            match part.as_ref().map(Tensor::dims) {
                Some(dims) if dims.first() != Some(&batch) => {
                    return Err(Error::Config(format!("`Condition::{name}`: expected {batch} rows, got {dims:?}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The batches one after the other. All must have the same parts.
    ///
    /// # Errors
    /// If a part is present in one batch and absent in another, or the widths differ.
    pub fn stack(parts: &[&Self]) -> Result<Self> {
        let cat = |name: &'static str, get: fn(&Self) -> Option<&Tensor>| -> Result<Option<Tensor>> {
            let tensors: Vec<&Tensor> = parts.iter().filter_map(|p| get(p)).collect();
            match tensors.len() {
                0 => Ok(None),
                n if n == parts.len() => Ok(Some(Tensor::cat(&tensors, 0)?)),
                n => Err(Error::Parts { part: name, present: n, batches: parts.len() }),
            }
        };
        Ok(Self {
            vector: cat("vector", |c| c.vector.as_ref())?,
            context: cat("context", |c| c.context.as_ref())?,
            concat: cat("concat", |c| c.concat.as_ref())?,
            augment: cat("augment", |c| c.augment.as_ref())?,
        })
    }

    fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let apply = |t: &Option<Tensor>| t.as_ref().map(&f).transpose();
        Ok(Self {
            vector: apply(&self.vector)?,
            context: apply(&self.context)?,
            concat: apply(&self.concat)?,
            augment: apply(&self.augment)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn stacks_and_gathers() -> Result<()> {
        let vector = Tensor::arange(0f32, 6f32, &Device::Cpu)?.reshape((3, 2))?;
        let c = Condition { vector: Some(vector), ..Condition::default() };
        let both = Condition::stack(&[&c, &c])?;
        let rows = both.index_select(&Tensor::new(&[5u32, 0], &Device::Cpu)?)?;
        let got = rows.vector.map(|t| t.to_vec2::<f32>()).transpose()?;
        assert_eq!(got, Some(vec![vec![4.0, 5.0], vec![0.0, 1.0]]));
        assert!(Condition::stack(&[&c, &Condition::none()]).is_err());
        Ok(())
    }
}
