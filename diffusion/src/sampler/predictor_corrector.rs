//! Predictor-corrector sampling (Song et al. 2021, Algorithms 2 to 5): Langevin steps at a noise level, then a step of the reverse SDE
//! to the next.

use candle_core::{DType, Tensor};

use super::{Run, combine};
use crate::{Error, Result};

/// The step of the reverse SDE. Both have the mean `x0 + (sigma'²/sigma²) (x - x0)`; none adds noise in a step to 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Predictor {
    /// Noise of variance sigma² - sigma'², the discretized SDE: leaves more noise than the next level has unless steps are small.
    #[default]
    ReverseDiffusion,
    /// The posterior's variance, sigma'² (sigma² - sigma'²)/sigma²: leaves the right noise for steps of any length.
    Ancestral,
}

/// How long a Langevin step `x + epsilon score + sqrt(2 epsilon) noise` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LangevinStep {
    /// epsilon = 2 (snr sigma)² (Song & Ermon 2020; `ald` of the published code).
    #[default]
    Annealed,
    /// epsilon = 2 (snr |noise| / |score|)², the norms of each sample. The published code (`langevin`) averages them over the batch, so
    /// that a sample depends on its neighbours; for samples of many numbers they hardly differ. In few dimensions a small score makes
    /// a wild step: even in 16 the samples are visibly too wide.
    Norms,
}

/// Settings of [`predictor_corrector`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictorCorrector {
    /// The predictor.
    pub predictor: Predictor,
    /// The length of the corrector's steps.
    pub langevin: LangevinStep,
    /// The corrector's signal-to-noise ratio; 0.16 in Song et al. 2021. A corrected level keeps 1/(1 - snr²) of its noise's variance.
    pub snr: f64,
    /// Corrections at each level.
    pub corrections: usize,
}

impl Default for PredictorCorrector {
    /// The published predictor and signal-to-noise ratio of VE models.
    fn default() -> Self {
        Self { predictor: Predictor::default(), langevin: LangevinStep::default(), snr: 0.16, corrections: 1 }
    }
}

/// At every level the corrections, then the predictor's step; `corrections + 1` evaluations, and as many draws, a step. The Langevin
/// steps are invariant to the scale of the state, so that VE and VP models are treated alike (the published VP form has a further
/// factor 1 - beta, which is near 1). Errors if the signal-to-noise ratio is not in (0, 1).
pub fn predictor_corrector(run: &mut Run, mut x: Tensor, settings: &PredictorCorrector) -> Result<Tensor> {
    let PredictorCorrector { snr, corrections, .. } = *settings;
    if !(snr > 0.0 && snr < 1.0) {
        return Err(Error::Config(format!("predictor-corrector: `snr` expected a number above 0 and below 1, got {snr}")));
    }
    for (i, s, t) in run.steps() {
        let draws = i * (corrections + 1);
        for k in 0..corrections {
            x = settings.correct(run, (i, draws + k), &x, s)?;
        }
        let x0 = run.denoise(i, &x, s)?;
        let keep = (t / s).powi(2);
        x = combine(&[(keep, &x), (1.0 - keep, &x0)])?;
        if t > 0.0 {
            let noise = run.draw(draws + corrections, &x)?;
            x = combine(&[(1.0, &x), (settings.predictor.deviation(s, t), &noise)])?;
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}

impl Predictor {
    fn deviation(self, s: f64, t: f64) -> f64 {
        let whole = ((s - t) * (s + t)).sqrt();
        match self {
            Self::ReverseDiffusion => whole,
            Self::Ancestral => whole * t / s,
        }
    }
}

impl PredictorCorrector {
    /// One Langevin step at sigma s.
    fn correct(&self, run: &mut Run, (step, draw): (usize, usize), x: &Tensor, s: f64) -> Result<Tensor> {
        let x0 = run.denoise(step, x, s)?;
        let noise = run.draw(draw, x)?;
        let pull = combine(&[(1.0, &x0), (-1.0, x)])?;
        match self.langevin {
            LangevinStep::Annealed => combine(&[(1.0, x), (2.0 * self.snr * self.snr, &pull), (2.0 * self.snr * s, &noise)]),
            LangevinStep::Norms => {
                // pull = sigma² score; a sample of which no score is left (0) stays where it is.
                let ratio = (norms(&noise)? / norms(&pull)?.maximum(f64::from(f32::MIN_POSITIVE))?)?.affine(self.snr, 0.0)?;
                let drift = pull.broadcast_mul(&ratio.sqr()?.affine(2.0 * s * s, 0.0)?)?;
                let kick = noise.broadcast_mul(&ratio.affine(2.0 * s * s, 0.0)?)?;
                combine(&[(1.0, x), (1.0, &drift), (1.0, &kick)])
            }
        }
    }
}

/// The Euclidean norm of each sample, [B, 1, ...] of x's rank.
fn norms(x: &Tensor) -> Result<Tensor> {
    let dims: Vec<usize> = (1..x.rank()).collect();
    let wide = x.to_dtype(if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    Ok(wide.sqr()?.sum_keepdim(dims.as_slice())?.sqrt()?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;
    use crate::{
        denoiser::FnDenoiser,
        grid,
        sampler::{NoNoise, SeededNoise},
    };

    /// Samples of 256 numbers of N(0, 1), whose denoiser is x/(1 + sigma²).
    fn variance(settings: &PredictorCorrector) -> f64 {
        let denoiser = FnDenoiser(|x: &Tensor, sigma: f64| Ok(x.affine(1.0 / (1.0 + sigma * sigma), 0.0)?));
        let (sigmas, noise) = (&grid::karras(60, 0.01, 40.0, 7.0).unwrap(), &mut SeededNoise::new((0..200).collect()));
        let x = (noise.initial(&[256], &Device::Cpu).unwrap() * 40.0).unwrap();
        let observe = &mut |_: usize, _: &Tensor| Ok(());
        let x = predictor_corrector(&mut Run { denoiser: &denoiser, sigmas, noise, observe }, x, settings).unwrap();
        f64::from(x.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap())
    }

    #[test]
    fn both_steps_keep_the_deviation_where_there_are_many_numbers() {
        for langevin in [LangevinStep::Annealed, LangevinStep::Norms] {
            let with = |corrections| variance(&PredictorCorrector { langevin, corrections, ..Default::default() });
            let (corrected, predicted) = (with(1), with(0));
            assert!((corrected - 1.0).abs() < 0.12, "{langevin:?}: {corrected}");
            assert!(corrected != predicted);
        }
    }

    #[test]
    fn a_ratio_out_of_range_is_refused() {
        let denoiser = FnDenoiser(|x: &Tensor, _: f64| Ok(x.clone()));
        let (noise, observe) = (&mut NoNoise, &mut |_: usize, _: &Tensor| Ok(()));
        let run = &mut Run { denoiser: &denoiser, sigmas: &[1.0, 0.0], noise, observe };
        let x = Tensor::new(&[[1.0]], &Device::Cpu).unwrap();
        let wrong = PredictorCorrector { snr: 1.5, ..Default::default() };
        assert!(predictor_corrector(run, x, &wrong).unwrap_err().to_string().contains("`snr` expected"));
    }
}
