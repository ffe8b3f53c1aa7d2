//! Binary attributes, several at once.

use candle_core::{Device, Tensor};
use strata_nn::{
    layers::Linear,
    params::{Init, Scope},
};

use crate::{Error, Result};

/// Attribute embedder: the sum of one vector per attribute, times 1 where a sample has it, -1 where it lacks it and 0 where nothing
/// is said, as a map `linear.weight` `[width, attributes]` without bias. So a sample of which nothing is said has the zero vector:
/// the null condition that classifier-free guidance needs.
#[derive(Clone, Debug)]
pub struct AttributeEmbedder {
    linear: Linear,
    attributes: usize,
    device: Device,
}

impl AttributeEmbedder {
    /// An embedder of `attributes` attributes into vectors of `width`.
    pub fn new(scope: &Scope, attributes: usize, width: usize) -> Result<Self> {
        if attributes == 0 || width == 0 {
            let got = format!("{attributes} attributes of width {width}");
            return Err(Error::Config(format!("attribute embedder: needs attributes and a width, got {got}")));
        }
        // The sum of all attributes has the variance of one class's vector.
        let init = Init::Normal { std: (attributes as f64).powf(-0.5) };
        let linear = Linear::without_bias(&scope.pp("linear"), attributes, width, init)?;
        Ok(Self { linear, attributes, device: scope.device().clone() })
    }

    /// Number of attributes.
    pub fn attributes(&self) -> usize {
        self.attributes
    }

    /// Vectors `[B, width]` of one row for each sample; an empty row says nothing.
    ///
    /// # Errors
    /// If a row has another length.
    pub fn forward(&self, rows: &[Vec<i8>]) -> Result<Tensor> {
        let mut values = Vec::with_capacity(rows.len() * self.attributes);
        for row in rows {
            match row.len() {
                0 => values.extend(std::iter::repeat_n(0.0, self.attributes)),
                n if n == self.attributes => values.extend(row.iter().map(|&v| f32::from(v))),
                n => return Err(Error::Config(format!("attributes: expected {} for each sample, got {n}", self.attributes))),
            }
        }
        Ok(self.linear.forward(&Tensor::from_vec(values, (rows.len(), self.attributes), &self.device)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_nn::params::ParamStore;

    #[test]
    fn what_is_not_said_adds_nothing_and_a_lack_is_the_opposite() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let embedder = AttributeEmbedder::new(&store.root(), 3, 4)?;
        let weight = store.parameters()[0].get().t()?.to_vec2::<f32>()?;
        let got = embedder.forward(&[vec![], vec![0, 1, 0], vec![0, -1, 0], vec![1, 1, 0]])?.to_vec2::<f32>()?;
        let negative: Vec<f32> = weight[1].iter().map(|v| -v).collect();
        assert_eq!(got[..3], [vec![0.0; 4], weight[1].clone(), negative]);
        assert!(got[3].iter().zip(&weight[0]).zip(&weight[1]).all(|((g, a), b)| (g - a - b).abs() < 1e-6));
        assert!(embedder.forward(&[vec![1]]).is_err());
        Ok(())
    }
}
