//! What to draw and how, and which of it cannot be done.

use candle_core::Tensor;

use crate::{Error, Result, grid::Grid, model::Model, sampler::Sampler, schedule::Schedule};

/// What to draw and how.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// One per sample; it alone decides the sample's noise.
    pub seeds: Vec<u64>,
    /// One per sample; `None` for no class.
    pub labels: Vec<Option<u32>>,
    /// What attributes all samples are to have, 1, or not to have, -1; 0 where nothing is said. Empty: nothing is said at all.
    pub attributes: Vec<i8>,
    /// Texts that are asked for, of a model that is told texts.
    pub prompts: Option<Prompts>,
    /// Images that are shown, of a model that is shown some.
    pub images: Option<ShownImages>,
    /// Samples per forward pass.
    pub batch: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// The solver.
    pub sampler: Sampler,
    /// How the noise levels of the steps are spaced.
    pub grid: Grid,
    /// Guidance.
    pub guidance: GuidanceOptions,
    /// Smallest noise level before the final 0; `None`: the schedule's, but not below 0.002.
    pub sigma_min: Option<f64>,
    /// Largest noise level; `None`: the schedule's, but for continuous schedules not above 80.
    pub sigma_max: Option<f64>,
    /// What sampling begins with instead of noise alone.
    pub start: Option<Start>,
}

/// Embedded texts: each distinct one once.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// `[P, tokens, width]`.
    pub contexts: Tensor,
    /// Which of them each sample is told.
    pub of: Vec<u32>,
    /// Which of them guidance moves away from: the empty text, or what is not wanted.
    pub negative: u32,
}

/// Images to be shown: each distinct one once.
#[derive(Clone, Debug)]
pub struct ShownImages {
    /// `[P, C, h, w]` of the model's `ImageInput`.
    pub images: Tensor,
    /// Which of them each sample is shown.
    pub of: Vec<u32>,
    /// Deviation of the noise that is put on them; the model is told of it. Up to what it was trained with.
    pub noise: f64,
}

/// Guidance (see [`crate::guidance::Guided`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceOptions {
    /// How far; 1 is none.
    pub scale: f64,
    /// The sigmas (low, high] where it acts; `None`: everywhere.
    pub interval: Option<(f64, f64)>,
    /// How much of the deviation is taken back, 0 to 1.
    pub rescale: f64,
    /// The class to move away from; `None`: no class.
    pub negative: Option<u32>,
}

/// A clean sample to begin with, for all seeds.
#[derive(Clone, Debug)]
pub struct Start {
    /// [C, H, W], scaled as the model was trained.
    pub x0: Tensor,
    /// The share of the steps that is taken, the last ones, in (0, 1]; at 1 sampling begins from noise alone.
    pub strength: f64,
    /// 1 where x0 is kept, 0 where it is drawn: a shape that broadcasts to x0's.
    pub mask: Option<Tensor>,
}

impl Default for GuidanceOptions {
    /// None.
    fn default() -> Self {
        Self { scale: 1.0, interval: None, rescale: 0.0, negative: None }
    }
}

impl Default for SampleOptions {
    /// Nothing to draw yet, 20 steps of the default sampler.
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            labels: Vec::new(),
            attributes: Vec::new(),
            prompts: None,
            images: None,
            batch: 16,
            steps: 20,
            sampler: Sampler::default(),
            grid: Grid::default(),
            guidance: GuidanceOptions::default(),
            sigma_min: None,
            sigma_max: None,
            start: None,
        }
    }
}

/// Above this a continuous schedule's noise leaves nothing of unit-variance data to see (Karras et al. 2022, Table 1).
const LARGEST: f64 = 80.0;
/// Below this the noise is smaller than an 8-bit step (ibid.).
const SMALLEST: f64 = 0.002;

/// An option and what is wrong with it, if anything.
type Check = (bool, &'static str, &'static str, String);

impl SampleOptions {
    /// # Errors
    /// If values cannot be used, or the model does not fit: all that is wrong, at once.
    pub fn validate(&self, model: &Model, worse: Option<&Model>) -> Result<()> {
        let checks = self.numbers().into_iter().chain(self.beginning(model));
        let mut wrong: Vec<String> = checks
            .filter(|(ok, ..)| !ok)
            .map(|(_, key, expected, got)| format!("`{key}`: expected {expected}, got {got}"))
            .collect();
        wrong.extend(self.wrong_prompts(model));
        wrong.extend(self.wrong_images(model));
        wrong.extend(self.wrong_guidance(model, worse));
        if wrong.is_empty() { Ok(()) } else { Err(Error::Config(wrong.join("; "))) }
    }

    fn numbers(&self) -> Vec<Check> {
        let guidance = &self.guidance;
        let (low, high) = guidance.interval.unwrap_or((0.0, 1.0));
        let labels = self.labels.len();
        let above_0 = |sigma: Option<f64>| sigma.is_none_or(|v| v > 0.0 && v.is_finite());
        let in_order = !matches!((self.sigma_min, self.sigma_max), (Some(low), Some(high)) if low >= high);
        let range = above_0(self.sigma_min) && above_0(self.sigma_max) && in_order;
        let ends = format!("{:?}, {:?}", self.sigma_min, self.sigma_max);
        vec![
            (self.steps > 0, "steps", "1 or more", "0".into()),
            (self.batch > 0, "batch", "1 or more", "0".into()),
            (labels == self.seeds.len(), "labels", "one for each seed", format!("{labels} for {} seeds", self.seeds.len())),
            (range, "sigma_min, sigma_max", "0 < sigma_min < sigma_max", ends),
            (guidance.scale.is_finite(), "guidance", "a finite number", guidance.scale.to_string()),
            (low >= 0.0 && high > low, "guidance interval", "two sigmas, 0 <= low < high", format!("{low}, {high}")),
            ((0.0..=1.0).contains(&guidance.rescale), "guidance rescale", "a number from 0 to 1", guidance.rescale.to_string()),
        ]
    }

    fn beginning(&self, model: &Model) -> Vec<Check> {
        let Some(start) = &self.start else { return Vec::new() };
        let fits = start.x0.dims() == model.config().shape;
        let strength = start.strength > 0.0 && start.strength <= 1.0;
        vec![
            (fits, "start", "a latent of the model's shape", format!("{:?}", start.x0.dims())),
            (strength, "strength", "a number above 0 and at most 1", start.strength.to_string()),
        ]
    }

    fn wrong_prompts(&self, model: &Model) -> Option<String> {
        match (&self.prompts, &model.config().text) {
            (None, None) => None,
            (Some(_), None) => Some("a text is asked for, but the model was trained without texts".into()),
            (None, Some(_)) => {
                Some("`prompts`: the model is told texts: expected one for each sample, the empty one at least".into())
            }
            (Some(prompts), Some(_)) => {
                let (texts, samples) = (prompts.contexts.dims().first().copied().unwrap_or(0) as u32, self.seeds.len());
                let known = prompts.of.iter().chain([&prompts.negative]).all(|&row| row < texts);
                (prompts.of.len() != samples || !known)
                    .then(|| format!("`prompts`: expected one of {texts} for each of {samples} samples, got {:?}", prompts.of))
            }
        }
    }

    fn wrong_images(&self, model: &Model) -> Option<String> {
        match (&self.images, &model.config().image) {
            (None, None) => None,
            (Some(_), None) => Some("an image is shown, but the model was trained without".into()),
            (None, Some(input)) => (input.dropout == 0.0).then(|| format!("the model must be shown {}", input.condition)),
            (Some(shown), Some(input)) => {
                let (dims, samples, most) = (shown.images.dims(), self.seeds.len(), input.condition.max_noise());
                if dims.get(1..) != Some(&input.shape[..]) {
                    return Some(format!("`images`: expected images of {:?}, got {dims:?}", input.shape));
                }
                if shown.of.len() != samples || shown.of.iter().any(|&row| row as usize >= dims[0]) {
                    let got = format!("{:?}", shown.of);
                    return Some(format!("`images`: expected one of {} for each of {samples} samples, got {got}", dims[0]));
                }
                let fits = (0.0..=most).contains(&shown.noise);
                (!fits).then(|| format!("the noise of what is shown: expected 0 to {most}, as in training, got {}", shown.noise))
            }
        }
    }

    fn wrong_guidance(&self, model: &Model, worse: Option<&Model>) -> Option<String> {
        let scale = self.guidance.scale;
        if let Some(worse) = worse {
            let of = |m: &Model| (m.config().shape, m.config().classes, m.config().attribute_names.len());
            return (of(model) != of(worse)).then(|| {
                let describe = |(shape, classes, n)| format!("samples of {shape:?}, {classes} classes and {n} attributes");
                format!("the model that guides: expected {}, got {}", describe(of(model)), describe(of(worse)))
            });
        }
        if scale == 1.0 {
            return None;
        }
        let without = model.config().image.as_ref().is_some_and(|image| image.dropout > 0.0);
        if !model.config().is_conditional() && !without {
            return Some(format!("guidance {scale} needs a condition, but the model is unconditional: leave guidance out"));
        }
        let nothing = self.images_alone() && !(without && self.images.is_some());
        nothing.then(|| format!("guidance {scale} needs a condition, but no class, attribute or text is asked for"))
    }

    /// Whether nothing but an image is asked for: guidance then moves away from no image, else the image stays.
    pub(super) fn images_alone(&self) -> bool {
        let told = |prompts: &Prompts| prompts.of.iter().any(|&row| row != prompts.negative);
        self.labels.iter().all(Option::is_none)
            && self.attributes.iter().all(|&v| v == 0)
            && !self.prompts.as_ref().is_some_and(told)
    }

    /// The smallest and the largest noise level.
    pub fn range(&self, model: &Model) -> (f64, f64) {
        let schedule = &model.config().schedule;
        let (low, high) = schedule.sigma_range();
        let high = if matches!(schedule, Schedule::Ldm(_)) { high } else { high.min(LARGEST) };
        (self.sigma_min.unwrap_or(low.max(SMALLEST)), self.sigma_max.unwrap_or(high))
    }

    /// The noise levels of the steps, the last 0. With a start of a strength below 1, the last ones.
    ///
    /// # Errors
    /// If the range is empty, or the grid does not suit the model's schedule.
    pub fn sigmas(&self, model: &Model) -> Result<Vec<f64>> {
        let sigmas = self.grid.sigmas(&model.config().schedule, self.steps, self.range(model))?;
        let (n, strength) = (sigmas.len() - 1, self.start.as_ref().map_or(1.0, |s| s.strength));
        let taken = ((strength * n as f64).round() as usize).clamp(1, n);
        Ok(sigmas[n - taken..].to_vec())
    }
}
