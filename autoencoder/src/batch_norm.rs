//! Batch norm, channels last, for the discriminator.

use candle_core::Tensor;
use strata_nn::{
    Result,
    ops::{Activation, group_norm},
    params::{Init, Parameter, Scope},
};

/// Share of a batch's statistics in the running ones, as PyTorch has it.
const MOMENTUM: f64 = 0.1;
const EPS: f64 = 1e-5;

/// Which statistics normalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Those of the batch; the running ones move towards them.
    Batch,
    /// The running ones, which stay.
    Running,
}

/// Ioffe & Szegedy 2015. The running statistics are parameters that are never trained, so that checkpoints hold them.
#[derive(Clone, Debug)]
pub(crate) struct BatchNorm {
    weight: Parameter,
    bias: Parameter,
    running_mean: Parameter,
    running_var: Parameter,
}

impl BatchNorm {
    pub(crate) fn new(scope: &Scope, channels: usize) -> Result<Self> {
        let running = |name, init| -> Result<Parameter> {
            let parameter = scope.param(name, channels, init)?;
            parameter.set_trainable(false);
            Ok(parameter)
        };
        Ok(Self {
            // N(1, 0.02²) in the published discriminator; its mean here.
            weight: scope.param("weight", channels, Init::ONES)?,
            bias: scope.param("bias", channels, Init::ZEROS)?,
            running_mean: running("running_mean", Init::ZEROS)?,
            running_var: running("running_var", Init::ONES)?,
        })
    }

    /// x: `[B, H, W, C]`, same shape. The batch is normalised with its biased variance; the running one moves towards the
    /// unbiased.
    pub(crate) fn forward(&self, x: &Tensor, statistics: Statistics) -> Result<Tensor> {
        match statistics {
            Statistics::Running => self.with_running(x),
            Statistics::Batch => {
                self.follow(&x.detach())?;
                // A group norm of one sample that has all pixels, each channel a group.
                let (b, h, w, c) = x.dims4()?;
                let one = x.reshape((1, b * h, w, c))?;
                let y = group_norm(&one, &self.weight.get(), &self.bias.get(), c, EPS, None, Activation::Identity)?;
                Ok(y.reshape((b, h, w, c))?)
            }
        }
    }

    fn with_running(&self, x: &Tensor) -> Result<Tensor> {
        let (mean, variance) = (self.running_mean.var().as_detached_tensor(), self.running_var.var().as_detached_tensor());
        let h = x.broadcast_sub(&mean)?.broadcast_div(&(variance + EPS)?.sqrt()?)?;
        Ok(h.broadcast_mul(&self.weight.get())?.broadcast_add(&self.bias.get())?)
    }

    /// Moves the running statistics towards those of x.
    fn follow(&self, x: &Tensor) -> Result<()> {
        let rows = x.flatten(0, 2)?;
        let n = rows.dim(0)? as f64;
        let mean = rows.mean(0)?;
        let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
        let unbiased = (variance * (n / (n - 1.0).max(1.0)))?;
        for (running, target) in [(&self.running_mean, mean), (&self.running_var, unbiased)] {
            let before = running.var().as_detached_tensor();
            running.var().set(&((before * (1.0 - MOMENTUM))? + (target * MOMENTUM)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use strata_nn::params::ParamStore;

    use super::*;

    #[test]
    fn running_statistics_move_a_tenth_towards_those_of_the_batch() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let norm = BatchNorm::new(&store.root(), 1)?;
        // Mean 4, unbiased variance 20 / 3.
        let x = Tensor::new(&[1f32, 3.0, 5.0, 7.0], &Device::Cpu)?.reshape((1, 2, 2, 1))?;
        norm.forward(&x, Statistics::Batch)?;
        let (mean, variance) = (0.1 * 4.0, 0.9 + 0.1 * 20.0 / 3.0);
        let y = norm.forward(&x, Statistics::Running)?.flatten_all()?.to_vec1::<f32>()?;
        for (y, x) in y.into_iter().zip([1.0, 3.0, 5.0, 7.0]) {
            assert!((f64::from(y) - (x - mean) / (variance + EPS).sqrt()).abs() < 1e-5);
        }
        Ok(())
    }
}
