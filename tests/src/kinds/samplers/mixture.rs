//! The ideal predictions of an isotropic Gaussian mixture.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use strata_diffusion::{
    denoiser::{Denoiser, Parametrization, Preconditioned},
    schedule::Schedule,
};

use crate::{golden::Case, kinds::schedules::values};

/// Weights, means and standard deviations of the components.
#[derive(Clone)]
pub struct Mixture {
    weights: Vec<f64>,
    means: Vec<Vec<f64>>,
    stds: Vec<f64>,
}

impl Mixture {
    /// `in.<name>.*` of a case.
    pub fn read(case: &Case, name: &str) -> Result<Self> {
        let weights = values(&case.input(&format!("{name}.weights"))?)?;
        let stds = values(&case.input(&format!("{name}.stds"))?)?;
        let means = values(&case.input(&format!("{name}.means"))?)?;
        ensure!(weights.len() == stds.len() && means.len() % weights.len().max(1) == 0, "in.{name}: shapes do not agree");
        let means = means.chunks(means.len() / weights.len()).map(<[f64]>::to_vec).collect();
        Ok(Self { weights, means, stds })
    }

    /// E[x0 | x] and E[eps | x] of one sample `x = a x0 + b eps`.
    fn estimates(&self, x: &[f64], a: f64, b: f64) -> (Vec<f64>, Vec<f64>) {
        let n = x.len() as f64;
        let variances: Vec<f64> = self.stds.iter().map(|s| a * a * s * s + b * b).collect();
        let logs: Vec<f64> = (0..variances.len())
            .map(|j| {
                let distance: f64 = x.iter().zip(&self.means[j]).map(|(x, m)| (x - a * m).powi(2)).sum();
                self.weights[j].ln() - 0.5 * n * variances[j].ln() - 0.5 * distance / variances[j]
            })
            .collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logs.iter().map(|l| (l - top).exp()).sum();
        let (mut x0, mut eps) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for (j, log) in logs.iter().enumerate() {
            let r = (log - top).exp() / total;
            let (gain, lean) = (a * self.stds[j] * self.stds[j] / variances[j], b / variances[j]);
            for (i, m) in self.means[j].iter().enumerate() {
                x0[i] += r * (m + gain * (x[i] - a * m));
                eps[i] += r * lean * (x[i] - a * m);
            }
        }
        (x0, eps)
    }

    /// What a network of `parametrization` would answer for the state `input` = c_in x at a noise level of the schedule.
    fn predict(&self, parametrization: Parametrization, schedule: &Schedule, input: &Tensor, sigma: f64) -> Result<Tensor> {
        let c = parametrization.at(schedule, sigma);
        // An F network sees another scale than the schedule's; the others see a x0 + b eps.
        let scale = if let Parametrization::F { .. } = parametrization { 1.0 } else { c.c_in };
        let (a, b) = (scale, scale * sigma);
        let state: Vec<f64> = values(input)?.into_iter().map(|v| v / c.c_in * scale).collect();
        let mut answer = Vec::with_capacity(state.len());
        for x in state.chunks(self.means[0].len()) {
            let (x0, eps) = self.estimates(x, a, b);
            for i in 0..x.len() {
                answer.push(match parametrization {
                    Parametrization::Eps => eps[i],
                    Parametrization::NegatedEps => -eps[i],
                    Parametrization::V => a * eps[i] - b * x0[i],
                    Parametrization::X0 => x0[i],
                    Parametrization::Score => -eps[i] / b,
                    Parametrization::Velocity => eps[i] - x0[i],
                    Parametrization::F { .. } => (x0[i] - c.c_skip * x[i]) / c.c_out,
                });
            }
        }
        Ok(Tensor::from_vec(answer, input.shape(), input.device())?)
    }

    /// The network as a denoiser.
    pub fn denoiser(self, parametrization: Parametrization, schedule: &Schedule) -> impl Denoiser + use<> {
        let schedule = schedule.clone();
        let inside = schedule.clone();
        let network = move |input: &Tensor, _: f64, sigma: f64| {
            let failed = |e: anyhow::Error| strata_diffusion::Error::Config(e.to_string());
            self.predict(parametrization, &inside, input, sigma).map_err(failed)
        };
        Preconditioned { network, parametrization, schedule }
    }
}

/// A parametrization by any of the names that the sources use.
pub fn parametrization(name: &str) -> Result<Parametrization> {
    Ok(match name {
        "noise" | "eps" | "epsilon" => Parametrization::Eps,
        "x_start" | "x0" | "sample" => Parametrization::X0,
        "v" | "v_prediction" => Parametrization::V,
        "score" => Parametrization::Score,
        "flow_prediction" => Parametrization::Velocity,
        other => bail!("prediction {other}: expected noise, x_start, v, score or flow"),
    })
}
