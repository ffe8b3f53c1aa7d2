//! The one contract of sampling, `x = x0 + sigma eps -> x0`, and the adapters from what networks predict.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule::Schedule};

/// An estimate of the clean sample.
pub trait Denoiser {
    /// x0 from `x = x0 + sigma eps`. x: [B, ...], float32 or float64; the answer has x's shape and dtype.
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor>;

    /// The same, with the variance of the reverse step where the network learned it.
    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        Ok(Estimate { x0: self.denoise(x, sigma)?, variance_share: None })
    }
}

/// What a network says about a state.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The clean sample.
    pub x0: Tensor,
    /// In x0's shape, where the logarithm of the reverse step's variance lies: at 0 it is the posterior's, at 1 beta (Nichol &
    /// Dhariwal 2021, Eq. 15). Used by [`crate::sampler::ddpm`] alone.
    pub variance_share: Option<Tensor>,
}

impl Estimate {
    /// From a network's answer in the shape of x, or with twice its channels, of which the second half is the learned variance in
    /// [-1, 1] (ADM, Dhariwal & Nichol 2021); `x0` makes the clean sample of the first.
    pub fn from_network(answer: &Tensor, x: &Tensor, x0: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (channels, own) = (answer.dim(1)?, x.dim(1)?);
        if channels == own {
            return Ok(Self { x0: x0(answer)?, variance_share: None });
        }
        if channels != 2 * own {
            let message = format!("network: expected {own} channels, or {} with a learned variance, got {channels}", 2 * own);
            return Err(Error::Config(message));
        }
        let share = answer.narrow(1, own, own)?.affine(0.5, 0.5)?;
        Ok(Self { x0: x0(&answer.narrow(1, 0, own)?)?, variance_share: Some(share) })
    }
}

impl<T: Denoiser + ?Sized> Denoiser for &T {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        (**self).denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (**self).estimate(x, sigma)
    }
}

impl<T: Denoiser + ?Sized> Denoiser for Box<T> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        (**self).denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (**self).estimate(x, sigma)
    }
}

/// A function as a [`Denoiser`].
pub struct FnDenoiser<F>(pub F);

impl<F: Fn(&Tensor, f64) -> Result<Tensor>> Denoiser for FnDenoiser<F> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        (self.0)(x, sigma)
    }
}

/// What a network predicts of a state `s x = s x0 + b eps`, b = s sigma.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Parametrization {
    /// The noise eps.
    #[default]
    Eps,
    /// -eps, as EDM's wrapper around variance-exploding networks has it.
    NegatedEps,
    /// v = s eps - b x0 (Salimans & Ho 2022).
    V,
    /// The clean sample.
    X0,
    /// The score -eps / b.
    Score,
    /// eps - x0, the velocity of a rectified flow.
    Velocity,
    /// EDM's F (Karras et al. 2022, Eq. 7), for data of standard deviation `sigma_data`.
    F {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
}

/// x0 = c_skip x + c_out network(c_in x, c_noise), with x = x0 + sigma eps (Karras et al. 2022, Eq. 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconditioning {
    /// Factor on the input that passes the network by.
    pub c_skip: f64,
    /// Factor on the network's answer.
    pub c_out: f64,
    /// Factor on the network's input.
    pub c_in: f64,
    /// The label that the network sees.
    pub c_noise: f64,
}

impl Parametrization {
    /// The standard deviation of the data that it assumes.
    pub fn sigma_data(self) -> f64 {
        match self {
            Self::F { sigma_data } => sigma_data,
            _ => 1.0,
        }
    }

    /// The four coefficients at a noise level sigma > 0 of a schedule.
    pub fn at(self, schedule: &Schedule, sigma: f64) -> Preconditioning {
        let (s, var) = (schedule.scale(sigma), sigma * sigma);
        let (c_skip, c_out, c_in) = match self {
            Self::Eps => (1.0, -sigma, s),
            Self::NegatedEps => (1.0, sigma, s),
            Self::V => (1.0 / (1.0 + var), -sigma / (s * (1.0 + var)), s),
            Self::X0 => (0.0, 1.0, s),
            Self::Score => (1.0, s * var, s),
            Self::Velocity => (1.0 / (1.0 + sigma), -sigma / (1.0 + sigma), s),
            Self::F { sigma_data } => {
                let total = sigma.hypot(sigma_data);
                ((sigma_data / total).powi(2), sigma * sigma_data / total, 1.0 / total)
            }
        };
        Preconditioning { c_skip, c_out, c_in, c_noise: schedule.label(sigma) }
    }
}

/// A network as a [`Denoiser`]. `network(input, c_noise, sigma)` sees `c_in x` [B, C, ...] and answers in the same shape, or, where
/// it learned the variance too, with twice the channels.
pub struct Preconditioned<N> {
    /// The network; it is handed its input, its label and, for the choice of a stage, sigma.
    pub network: N,
    /// What it predicts.
    pub parametrization: Parametrization,
    /// The schedule that it was trained with.
    pub schedule: Schedule,
}

impl<N: Fn(&Tensor, f64, f64) -> Result<Tensor>> Denoiser for Preconditioned<N> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.x0)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let c = self.parametrization.at(&self.schedule, sigma);
        let answer = (self.network)(&x.affine(c.c_in, 0.0)?, c.c_noise, sigma)?;
        Estimate::from_network(&answer, x, |answer| {
            let moved = answer.affine(c.c_out, 0.0)?;
            if c.c_skip == 0.0 { Ok(moved) } else { Ok((x.affine(c.c_skip, 0.0)? + moved)?) }
        })
    }
}

/// How x0 is kept in the range of the data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Clip {
    /// To [-range, range].
    Static {
        /// Half the width.
        range: f64,
    },
    /// Dynamic thresholding (Saharia et al. 2022): per sample, q is the `ratio` quantile of |x0|, held in [`at_least`, `at_most`];
    /// x0 is clipped to [-q, q] and divided by q.
    Dynamic {
        /// Which quantile.
        ratio: f64,
        /// Smallest q.
        at_least: f64,
        /// Largest q.
        at_most: f64,
    },
}

impl Clip {
    /// The clipped x0: [B, ...].
    pub fn apply(&self, x0: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Static { range } => Ok(x0.clamp(-range, range)?),
            Self::Dynamic { ratio, at_least, at_most } => {
                let flat = x0.flatten_from(1)?;
                let q = quantile(&flat.abs()?, ratio)?.clamp(at_least, at_most)?;
                let q = q.broadcast_as(flat.shape())?;
                Ok((flat.minimum(&q)?.maximum(&q.neg()?)? / q)?.reshape(x0.shape())?)
            }
        }
    }
}

/// The quantile of every row, [B, 1] from [B, n], linear between the order statistics at position ratio (n - 1).
fn quantile(rows: &Tensor, ratio: f64) -> Result<Tensor> {
    let n = rows.dim(D::Minus1)?;
    let values = rows.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
    let position = ratio * (n - 1) as f64;
    let (lower, part) = (position.floor() as usize, position.fract());
    let pick = |mut row: Vec<f64>| {
        row.sort_by(f64::total_cmp);
        row[lower] + part * (row[(lower + 1).min(n - 1)] - row[lower])
    };
    let q: Vec<f64> = values.into_iter().map(pick).collect();
    Ok(Tensor::from_vec(q, (rows.dim(0)?, 1), rows.device())?.to_dtype(rows.dtype())?)
}

/// A denoiser whose answers are clipped.
pub struct Clipped<'a> {
    /// The denoiser.
    pub denoiser: &'a dyn Denoiser,
    /// The clipping.
    pub clip: Clip,
}

impl Denoiser for Clipped<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.clip.apply(&self.denoiser.denoise(x, sigma)?)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.denoiser.estimate(x, sigma)?;
        Ok(Estimate { x0: self.clip.apply(&estimate.x0)?, ..estimate })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    /// A network that knows x0 and eps must be turned back into x0 by every parametrization.
    #[test]
    fn every_parametrization_recovers_x0() {
        let (x0, eps) = (0.7, -1.3);
        for name in Schedule::NAMES {
            let schedule: Schedule = name.parse().unwrap();
            let sigma = 1.9;
            let (s, b) = (schedule.scale(sigma), schedule.scale(sigma) * sigma);
            let x = x0 + sigma * eps;
            let f = |sd: f64| {
                let c = Parametrization::F { sigma_data: sd }.at(&schedule, sigma);
                (x0 - c.c_skip * x) / c.c_out
            };
            let cases = [
                (Parametrization::Eps, eps),
                (Parametrization::NegatedEps, -eps),
                (Parametrization::V, s * eps - b * x0),
                (Parametrization::X0, x0),
                (Parametrization::Score, -eps / b),
                (Parametrization::Velocity, eps - x0),
                (Parametrization::F { sigma_data: 0.5 }, f(0.5)),
            ];
            for (parametrization, answer) in cases {
                let network = |input: &Tensor, _: f64, _: f64| Ok(Tensor::full(answer, input.shape(), &Device::Cpu)?);
                let schedule = schedule.clone();
                let denoiser = Preconditioned { network, parametrization, schedule };
                let got = denoiser.denoise(&Tensor::full(x, (1, 1), &Device::Cpu).unwrap(), sigma).unwrap();
                let got = got.to_vec2::<f64>().unwrap()[0][0];
                assert!((got - x0).abs() < 1e-12, "{name} {parametrization:?}: {got}");
            }
        }
    }

    #[test]
    fn the_second_half_of_the_channels_is_a_learned_variance() {
        let network = |input: &Tensor, _: f64, _: f64| Ok(Tensor::cat(&[input.zeros_like()?, input.ones_like()?], 1)?);
        let denoiser = Preconditioned { network, parametrization: Parametrization::Eps, schedule: Schedule::vp() };
        let x = Tensor::new(&[[1.5, -0.5]], &Device::Cpu).unwrap();
        let estimate = denoiser.estimate(&x, 2.0).unwrap();
        assert_eq!(estimate.x0.to_vec2::<f64>().unwrap(), [[1.5, -0.5]]);
        assert_eq!(estimate.variance_share.unwrap().to_vec2::<f64>().unwrap(), [[1.0, 1.0]]);
        let network = |input: &Tensor, _: f64, _: f64| Ok(Tensor::cat(&[input, input, input], 1)?);
        let wrong = Preconditioned { network, parametrization: Parametrization::Eps, schedule: Schedule::vp() };
        assert!(wrong.denoise(&x, 2.0).unwrap_err().to_string().contains("expected 2 channels, or 4"));
    }

    #[test]
    fn dynamic_clip_divides_by_the_quantile() {
        let x0 = Tensor::new(&[[0.5, -4.0, 2.0], [0.1, 0.2, -0.3]], &Device::Cpu).unwrap();
        let clip = Clip::Dynamic { ratio: 0.5, at_least: 1.0, at_most: f64::INFINITY };
        let got = clip.apply(&x0).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(got, [[0.25, -1.0, 1.0], [0.1, 0.2, -0.3]]);
    }
}
