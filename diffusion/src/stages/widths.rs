//! How wide each stage's decoder should be under a compute budget.
//!
//! The rule. Let u_m be the mean of stage m's share of the sampler's steps and of its share of the training draws, and let
//! g_m, its detail, be the mean over those levels of sigma_data / sqrt(sigma² + sigma_data²): near 1 where the picture shows
//! through, near 0 in pure noise, where the best answer is close to the mean picture. A stage's decoder is to cost c g_m of the
//! single decoder that is replaced, with the one c at which an average step, sum_m u_m c g_m, costs the budget. Its width is the
//! multiple whose cost is nearest; where the rounding exceeds the budget, the decoders that are furthest above their share are
//! narrowed.

use serde::Serialize;

use crate::{
    Error, Result, grid,
    noise::NoiseSampler,
    training::DiffusionTraining,
    unet::{CostInput, DecoderConfig, Heads, UNetConfig, costs},
};

/// What the rule is told.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// Boundaries between the stages, sigma, ascending.
    pub boundaries: &'a [f64],
    /// The levels that the sampler visits; a last 0 is ignored.
    pub steps: &'a [f64],
    /// Levels as training draws them.
    pub draws: &'a [f64],
    /// Standard deviation of the data; 0.5 for pixels, about 1 for scaled latents.
    pub sigma_data: f64,
    /// Cost of an average step relative to the single decoder's.
    pub budget: f64,
    /// Widths are multiples of this, at least one.
    pub multiple: usize,
}

/// One stage's recommendation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// 1 is nearest the data.
    pub stage: usize,
    /// Share of the sampler's steps.
    pub step_share: f64,
    /// Share of the training draws.
    pub draw_share: f64,
    /// Mean detail of its levels.
    pub detail: f64,
    /// Channels of its decoder.
    pub width: usize,
    /// What that decoder costs relative to the single one.
    pub cost: f64,
}

/// What an average step costs relative to the single decoder.
pub fn average_cost(advice: &[Advice]) -> f64 {
    advice.iter().map(|a| f64::midpoint(a.step_share, a.draw_share) * a.cost).sum()
}

/// Steps and range of the sampler that [`for_network`] reckons with: the defaults of sampling, Karras et al. 2022, Eq. 5.
const SAMPLER: (usize, f64, f64) = (20, 0.01, 80.0);
/// Quantiles that stand for the training draws.
const DRAWS: u32 = 2000;

/// Decoders by the rule above for a network that is trained by `training` on samples `[C, H, W]` of `shape`, with the decoders' true
/// multiply-accumulates as their cost. The single decoder is as wide as the encoder, as published; the new ones have its attention.
///
/// Errors: a network that cannot be built at this size; boundaries that training cannot draw; a budget that is not positive or so
/// large that no width spends it.
pub fn for_network(boundaries: &[f64], training: &DiffusionTraining, shape: [usize; 3], budget: f64) -> Result<Vec<Advice>> {
    let [channels, height, width] = shape;
    let decoder = |width| DecoderConfig { width, attention: training.unet.attention.clone(), heads: None };
    let network = |width| UNetConfig {
        in_channels: channels,
        out_channels: channels,
        decoders: vec![decoder(width)],
        ..training.unet.clone()
    };
    let macs = |decoder_width| -> Result<f64> {
        let costs = costs(&network(decoder_width), CostInput { height, width, context_tokens: 1 })?;
        Ok(costs.decoders[0].macs() as f64)
    };
    let single = macs(training.unet.width)?;
    let noise = NoiseSampler::new(training.noise, &training.schedule, boundaries, &training.stage_policy)?;
    let draws: Vec<f64> = (0..DRAWS).map(|i| noise.sigma((f64::from(i) + 0.5) / f64::from(DRAWS))).collect();
    let (n, low, high) = SAMPLER;
    let demand = Demand {
        boundaries,
        steps: &grid::karras(n, low, high, 7.0)?,
        draws: &draws,
        sigma_data: training.parametrization.sigma_data(),
        budget,
        multiple: multiple(&training.unet),
    };
    recommend(&demand, |width| Ok(macs(width)? / single))
}

/// The smallest number whose multiples can be a decoder's width: its groups and heads divide them.
fn multiple(unet: &UNetConfig) -> usize {
    let (Heads::Count(heads) | Heads::Width(heads) | Heads::AtLeast(heads)) = unet.heads;
    let divides = |n: usize| n.is_multiple_of(unet.groups.max(1)) && n.is_multiple_of(heads.max(1));
    (1..=unet.groups.max(1) * heads.max(1)).find(|&n| divides(n)).unwrap_or(1)
}

/// A width for every stage's decoder by the rule above; `cost(width)` is what a decoder of that width costs relative to the single
/// one, growing with the width. A stage that neither sampler nor training visits gets the smallest width.
///
/// Errors if there are no levels, a number is not positive, `cost` fails, or the budget is below what the smallest decoders cost or
/// above what the widest do.
pub fn recommend(demand: &Demand, cost: impl Fn(usize) -> Result<f64>) -> Result<Vec<Advice>> {
    let Demand { boundaries, sigma_data, budget, multiple, .. } = *demand;
    let steps: Vec<f64> = demand.steps.iter().copied().filter(|s| *s > 0.0).collect();
    let positive = [sigma_data, budget, multiple as f64].iter().all(|v| *v > 0.0 && v.is_finite());
    if steps.is_empty() || demand.draws.is_empty() || !positive {
        return Err(Error::Config(format!(
            "decoder widths: expected sampler levels, training draws, and positive sigma_data, budget and multiple; got {} levels, {} \
             draws, {sigma_data}, {budget} and {multiple}",
            steps.len(),
            demand.draws.len()
        )));
    }
    let (step_shares, step_details) = measure(boundaries, &steps, sigma_data);
    let (draw_shares, draw_details) = measure(boundaries, demand.draws, sigma_data);
    // Sums of details are shares times means: the mean over both kinds of level.
    let weighted: Vec<f64> = step_details.iter().zip(&draw_details).map(|(a, b)| f64::midpoint(*a, *b)).collect();
    let scale = budget / weighted.iter().sum::<f64>();
    let advise = |m: usize| -> Result<Advice> {
        let used = f64::midpoint(step_shares[m], draw_shares[m]);
        let detail = if used > 0.0 { weighted[m] / used } else { 0.0 };
        let (width, cost) = nearest(scale * detail, multiple, &cost)?;
        Ok(Advice { stage: m + 1, step_share: step_shares[m], draw_share: draw_shares[m], detail, width, cost })
    };
    let mut advice = (0..=boundaries.len()).map(advise).collect::<Result<Vec<_>>>()?;
    while average_cost(&advice) > budget * (1.0 + 1e-9) {
        let above = |a: &Advice| a.cost / (scale * a.detail);
        let widest =
            advice.iter_mut().filter(|a| a.width > multiple && a.detail > 0.0).max_by(|a, b| above(a).total_cmp(&above(b)));
        let Some(narrowed) = widest else {
            let least = average_cost(&advice);
            return Err(Error::Config(format!(
                "decoder widths: with decoders of width {multiple}, the narrowest, an average step costs {least:.3} of the single \
                 decoder; the budget is {budget}"
            )));
        };
        narrowed.width -= multiple;
        narrowed.cost = cost(narrowed.width)?;
    }
    Ok(advice)
}

/// Multiples that are tried before a budget counts as out of reach.
const MOST: usize = 1024;

/// The multiple of `multiple` whose cost is nearest to `target`, and that cost.
fn nearest(target: f64, multiple: usize, cost: &impl Fn(usize) -> Result<f64>) -> Result<(usize, f64)> {
    let mut below = (multiple, cost(multiple)?);
    for i in 2..=MOST {
        if below.1 >= target {
            return Ok(below);
        }
        let above = (i * multiple, cost(i * multiple)?);
        if above.1 >= target {
            return Ok(if above.1 - target < target - below.1 { above } else { below });
        }
        below = above;
    }
    let widest = MOST * multiple;
    Err(Error::Config(format!("decoder widths: even width {widest} does not cost {target:.1} single decoders: lower the budget")))
}

/// Per stage: share of the levels, and sum of their details over the number of all levels.
fn measure(boundaries: &[f64], levels: &[f64], sigma_data: f64) -> (Vec<f64>, Vec<f64>) {
    let mut shares = vec![0.0; boundaries.len() + 1];
    let mut details = shares.clone();
    for &sigma in levels {
        let stage = crate::noise::stage_of(boundaries, sigma);
        shares[stage] += 1.0 / levels.len() as f64;
        details[stage] += sigma_data / sigma.hypot(sigma_data) / levels.len() as f64;
    }
    (shares, details)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn demand<'a>(boundaries: &'a [f64], levels: &'a [f64], budget: f64) -> Demand<'a> {
        Demand { boundaries, steps: levels, draws: levels, sigma_data: 0.5, budget, multiple: 4 }
    }

    fn quadratic(width: usize) -> Result<f64> {
        Ok((width as f64 / 1024.0).powi(2))
    }

    #[test]
    fn widths_fall_with_noise_and_meet_the_budget() {
        let levels: Vec<f64> = (0..1000).map(|i| 0.002 * 40_000f64.powf(f64::from(i) / 999.0)).collect();
        for budget in [0.3, 0.7, 1.5] {
            let advice = recommend(&demand(&[0.5, 5.0], &levels, budget), quadratic).unwrap();
            assert!(advice[0].width > advice[1].width && advice[1].width > advice[2].width, "{advice:?}");
            assert!(advice.iter().all(|a| a.cost == quadratic(a.width).unwrap()));
            let cost = average_cost(&advice);
            assert!(cost <= budget && cost > 0.98 * budget, "{cost} for {budget}");
        }
    }

    #[test]
    fn one_stage_with_the_whole_budget_keeps_its_width() {
        let advice = recommend(&demand(&[], &[0.1, 1.0, 10.0, 0.0], 1.0), quadratic).unwrap();
        assert_eq!((advice.len(), advice[0].width, advice[0].step_share), (1, 1024, 1.0));
    }

    #[test]
    fn impossible_demands_are_explained() {
        let complaint = |demand: &Demand| recommend(demand, quadratic).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(complaint(&demand(&[1.0], &[0.0], 1.0)).contains("got 0 levels"));
        assert!(complaint(&demand(&[1.0], &[0.5], 0.0)).contains("decoder widths"));
        assert!(complaint(&demand(&[1.0], &[0.5], 1e-9)).contains("the narrowest"));
        assert!(complaint(&demand(&[1.0], &[0.5], 1e6)).contains("lower the budget"));
        let unvisited = recommend(&demand(&[1.0], &[0.5], 1.0), quadratic).unwrap();
        assert_eq!(unvisited[1].width, 4);
    }

    #[test]
    fn decoders_of_a_real_network_can_be_built_and_hold_the_budget() {
        let mut training = DiffusionTraining::default();
        for budget in [0.5, 0.8, 1.2] {
            let advice = for_network(&[0.5, 2.5], &training, [3, 64, 64], budget).unwrap();
            assert!(average_cost(&advice) <= budget && average_cost(&advice) > 0.85 * budget, "{advice:?}");
            assert!(advice[0].width > advice[1].width && advice[1].width > advice[2].width, "{advice:?}");
            let decoder = |a: &Advice| DecoderConfig { width: a.width, attention: training.unet.attention.clone(), heads: None };
            training.unet.decoders = advice.iter().map(decoder).collect();
            training.unet.validate().unwrap();
        }
        let alone = for_network(&[], &training, [3, 64, 64], 1.0).unwrap();
        assert_eq!((alone[0].width, alone[0].cost), (training.unet.width, 1.0));
    }
}
