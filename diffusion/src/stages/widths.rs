//! How wide each stage's decoder should be under a compute budget.
//!
//! The rule. Let u_m be the mean of stage m's share of the sampler's steps and of its share of the training draws, and let
//! g_m, its detail, be the mean over those levels of sigma_data / sqrt(sigma² + sigma_data²): near 1 where the picture shows
//! through, near 0 in pure noise, where the best answer is close to the mean picture. A decoder's cost grows with the square of
//! its width. The widths are w_m = w sqrt(c g_m) with the one c at which the cost of an average step, sum_m u_m (w_m / w)²,
//! equals the budget, w being the single decoder's width and the budget a share of its cost; then rounded.

use serde::Serialize;

use crate::{Error, Result};

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
    /// Width of the single decoder that is replaced.
    pub width: usize,
    /// Cost of an average step relative to that decoder's.
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
}

/// A width for every stage's decoder by the rule above. A stage that neither sampler nor training visits gets the smallest width.
///
/// Errors if there are no levels, or a number is not positive.
pub fn recommend(demand: &Demand) -> Result<Vec<Advice>> {
    let Demand { boundaries, sigma_data, width, budget, multiple, .. } = *demand;
    let steps: Vec<f64> = demand.steps.iter().copied().filter(|s| *s > 0.0).collect();
    let positive = sigma_data > 0.0 && budget > 0.0 && width > 0 && multiple > 0;
    if steps.is_empty() || demand.draws.is_empty() || !positive {
        let expected = "expected sampler levels, training draws, and positive sigma_data, width, budget and multiple";
        return Err(Error::Config(format!("decoder widths: {expected}, got {demand:?}")));
    }
    let count = boundaries.len() + 1;
    let (step_shares, step_details) = measure(boundaries, &steps, sigma_data);
    let (draw_shares, draw_details) = measure(boundaries, demand.draws, sigma_data);
    let use_of = |m: usize| f64::midpoint(step_shares[m], draw_shares[m]);
    // Sums of details are shares times means: the mean over both kinds of level.
    let weighted: Vec<f64> = (0..count).map(|m| f64::midpoint(step_details[m], draw_details[m])).collect();
    let scale = budget / weighted.iter().sum::<f64>();
    let advise = |m: usize| {
        let detail = if use_of(m) > 0.0 { weighted[m] / use_of(m) } else { 0.0 };
        let exact = width as f64 * (scale * detail).sqrt() / multiple as f64;
        let width = multiple * (exact.round() as usize).max(1);
        Advice { stage: m + 1, step_share: step_shares[m], draw_share: draw_shares[m], detail, width }
    };
    Ok((0..count).map(advise).collect())
}

/// Per stage: share of the levels, and sum of their details over the number of all levels.
fn measure(boundaries: &[f64], levels: &[f64], sigma_data: f64) -> (Vec<f64>, Vec<f64>) {
    let mut shares = vec![0.0; boundaries.len() + 1];
    let mut details = shares.clone();
    for &sigma in levels {
        let stage = boundaries.partition_point(|&b| b <= sigma);
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
        Demand { boundaries, steps: levels, draws: levels, sigma_data: 0.5, width: 1024, budget, multiple: 1 }
    }

    #[test]
    fn widths_fall_with_noise_and_meet_the_budget() {
        let levels: Vec<f64> = (0..1000).map(|i| 0.002 * 40_000f64.powf(f64::from(i) / 999.0)).collect();
        for budget in [0.3, 0.7, 1.5] {
            let advice = recommend(&demand(&[0.5, 5.0], &levels, budget)).unwrap();
            assert!(advice[0].width > advice[1].width && advice[1].width > advice[2].width, "{advice:?}");
            let cost: f64 = advice.iter().map(|a| a.step_share * (a.width as f64 / 1024.0).powi(2)).sum();
            assert!((cost / budget - 1.0).abs() < 0.01, "{cost} for {budget}");
        }
    }

    #[test]
    fn one_stage_with_the_whole_budget_keeps_its_width() {
        let advice = recommend(&demand(&[], &[0.1, 1.0, 10.0, 0.0], 1.0)).unwrap();
        assert_eq!((advice.len(), advice[0].width, advice[0].step_share), (1, 1024, 1.0));
    }

    #[test]
    fn impossible_demands_are_explained() {
        assert!(recommend(&demand(&[1.0], &[0.0], 1.0)).is_err());
        assert!(recommend(&demand(&[1.0], &[0.5], 0.0)).unwrap_err().to_string().contains("decoder widths"));
        let unvisited = recommend(&demand(&[1.0], &[0.5], 1.0)).unwrap();
        assert_eq!(unvisited[1].width, 1);
    }
}
