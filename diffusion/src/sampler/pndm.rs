//! PNDM as a plan of evaluations (Liu et al. 2022): the discrete form, where a move may end at another level than the next evaluation.

use candle_core::Tensor;

use super::{Run, combine, plms::extrapolate};
use crate::{Result, denoiser::Parametrization, schedule::Schedule};

/// What is done with an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PndmRule {
    /// The first of a Runge-Kutta or Heun round: its state is where all the round's moves begin; kept for the multistep rule.
    Begin,
    /// The second and third of a Runge-Kutta round.
    Middle,
    /// The fourth: the move takes the weighted mean of the round.
    End,
    /// The second of a Heun round: the move takes the mean of both.
    Trapezoid,
    /// Adams-Bashforth over the kept evaluations.
    Multistep,
}

/// One evaluation and the move after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PndmCall {
    /// Where the network is evaluated.
    pub sigma: f64,
    /// Where the move begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// What it moves by.
    pub rule: PndmRule,
}

/// Settings of [`pndm`].
pub struct Pndm<'a> {
    /// The evaluations.
    pub plan: &'a [PndmCall],
    /// Its scale is what the state keeps between a move's end and the next evaluation.
    pub schedule: &'a Schedule,
    /// What is averaged and extrapolated: the network's own prediction.
    pub parametrization: Parametrization,
}

/// From `x = x0 + sigma eps` at the plan's first level to its last; `run.sigmas` is not looked at.
pub fn pndm(run: &mut Run, x: Tensor, settings: &Pndm) -> Result<Tensor> {
    let Pndm { plan, schedule, parametrization } = *settings;
    let (Some(first), Some(last)) = (plan.first(), plan.last()) else { return Ok(x) };
    // y = s x, the state in the schedule's own scale.
    let mut y = (x * schedule.scale(first.sigma))?;
    let (mut base, mut sum, mut kept) = (y.clone(), y.zeros_like()?, Vec::new());
    for (i, call) in plan.iter().enumerate() {
        let x = y.affine(1.0 / schedule.scale(call.sigma), 0.0)?;
        let c = parametrization.at(schedule, call.sigma);
        let x0 = run.denoise(i, &x, call.sigma)?;
        let e = combine(&[(1.0 / c.c_out, &x0), (-c.c_skip / c.c_out, &x)])?;
        if matches!(call.rule, PndmRule::Begin | PndmRule::Multistep) {
            base = y;
            kept.insert(0, e.clone());
            kept.truncate(4);
        }
        let d = match call.rule {
            PndmRule::Begin => {
                sum = (&e / 6.0)?;
                e
            }
            PndmRule::Middle => {
                sum = combine(&[(1.0, &sum), (1.0 / 3.0, &e)])?;
                e
            }
            PndmRule::End => combine(&[(1.0, &sum), (1.0 / 6.0, &e)])?,
            PndmRule::Trapezoid => combine(&[(0.5, &kept[0]), (0.5, &e)])?,
            PndmRule::Multistep => extrapolate(&kept)?,
        };
        y = transfer(&base, &d, call, settings)?;
        run.observe(i, &y.affine(1.0 / schedule.scale(call.to), 0.0)?)?;
    }
    Ok((y / schedule.scale(last.to))?)
}

/// The straight move in sigma of the scaled state, by a prediction made of the state where it begins.
fn transfer(y: &Tensor, prediction: &Tensor, call: &PndmCall, settings: &Pndm) -> Result<Tensor> {
    let c = settings.parametrization.at(settings.schedule, call.from);
    let x = y.affine(1.0 / settings.schedule.scale(call.from), 0.0)?;
    let x0 = combine(&[(c.c_skip, &x), (c.c_out, prediction)])?;
    let moved = combine(&[(call.to / call.from, &x), (1.0 - call.to / call.from, &x0)])?;
    Ok((moved * settings.schedule.scale(call.to))?)
}
