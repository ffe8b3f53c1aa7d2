//! A learned vector per class, with one more for "no class".

use candle_core::{Device, Tensor};
use strata_nn::{layers::Embedding, params::Scope};

use crate::{Condition, Error, Result};

/// Class embedder (Rombach et al. 2022): a table `embedding.weight` `[classes + 1, width]`; the last row is the null class
/// that classifier-free guidance learns (Ho & Salimans 2022).
#[derive(Clone, Debug)]
pub struct ClassEmbedder {
    embedding: Embedding,
    classes: usize,
    device: Device,
}

impl ClassEmbedder {
    /// An embedder for `classes` classes into vectors of `width`.
    pub fn new(scope: &Scope, classes: usize, width: usize) -> Result<Self> {
        if classes == 0 || width == 0 {
            return Err(Error::Config(format!(
                "class embedder: needs classes and a width, got {classes} classes of width {width}"
            )));
        }
        Ok(Self {
            embedding: Embedding::new(&scope.pp("embedding"), classes + 1, width)?,
            classes,
            device: scope.device().clone(),
        })
    }

    /// The real classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Vectors `[B, width]`; `None` is the null class.
    ///
    /// # Errors
    /// If a class is not below [`ClassEmbedder::classes`].
    pub fn forward(&self, labels: &[Option<u32>]) -> Result<Tensor> {
        let id = |label: &Option<u32>| match *label {
            None => Ok(self.classes as u32),
            Some(class) if (class as usize) < self.classes => Ok(class),
            Some(class) => Err(Error::Class { class, classes: self.classes }),
        };
        let ids = labels.iter().map(id).collect::<Result<Vec<_>>>()?;
        Ok(self.embedding.forward(&Tensor::from_vec(ids, labels.len(), &self.device)?)?)
    }

    /// The same as the vector part of a [`Condition`].
    pub fn condition(&self, labels: &[Option<u32>]) -> Result<Condition> {
        Ok(Condition { vector: Some(self.forward(labels)?), ..Condition::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_nn::params::ParamStore;

    #[test]
    fn null_is_the_last_row_and_unknown_classes_are_refused() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let embedder = ClassEmbedder::new(&store.root(), 3, 4)?;
        let table = store.parameters()[0].get().to_vec2::<f32>()?;
        assert_eq!(embedder.forward(&[None, Some(1)])?.to_vec2::<f32>()?, [table[3].clone(), table[1].clone()]);
        let message = embedder.forward(&[Some(3)]).err().map(|e| e.to_string());
        assert_eq!(message.as_deref(), Some("class 3: expected a number below 3"));
        Ok(())
    }
}
