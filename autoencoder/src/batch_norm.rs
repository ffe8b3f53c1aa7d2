//! Batch norm, channels last, for the discriminator.

use candle_core::Tensor;
use strata_nn::{
    Result,
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
        let dims = x.dims();
        let rows = x.reshape(((), dims[dims.len() - 1]))?;
        let (mean, variance) = match statistics {
            Statistics::Running => (self.running_mean.var().as_detached_tensor(), self.running_var.var().as_detached_tensor()),
            Statistics::Batch => {
                let mean = rows.mean(0)?;
                let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
                self.follow(&mean, &variance, rows.dim(0)? as f64)?;
                (mean, variance)
            }
        };
        let h = rows.broadcast_sub(&mean)?.broadcast_div(&(variance + EPS)?.sqrt()?)?;
        let h = h.broadcast_mul(&self.weight.get())?.broadcast_add(&self.bias.get())?;
        Ok(h.reshape(dims)?)
    }

    fn follow(&self, mean: &Tensor, variance: &Tensor, n: f64) -> Result<()> {
        let unbiased = (variance.detach() * (n / (n - 1.0).max(1.0)))?;
        for (running, target) in [(&self.running_mean, mean.detach()), (&self.running_var, unbiased)] {
            let before = running.var().as_detached_tensor();
            running.var().set(&((before * (1.0 - MOMENTUM))? + (target * MOMENTUM)?)?)?;
        }
        Ok(())
    }
}
