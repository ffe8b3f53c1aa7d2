//! What a training run of a diffusion model is made of.

use serde::{Deserialize, Serialize};
use strata_conditioning::ImageCondition;
use strata_training::{AdamWConfig, EmaSchedule, LrSchedule, post_hoc::PostHocSettings};

use super::{Conditioning, Distance, GridSettings, GroupSettings, LogVariance, PictureSettings};
use crate::{
    Error, Result,
    denoiser::Parametrization,
    noise::{NoiseDistribution, StagePolicy},
    schedule::Schedule,
    unet::UNetConfig,
    weighting::Weighting,
};

/// Settings of `strata train diffusion`; a run directory's `config.toml` holds them resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionTraining {
    /// Decides the initial weights, the order of the data, the noise levels and the noise.
    pub seed: u64,
    /// Length of the run, in images seen.
    pub images: u64,
    /// Images per step, of all processes together.
    pub batch: usize,
    /// Images that a process computes at once; the gradients of a step's parts are added up. 0: all of its images.
    pub micro_batch: usize,
    /// What of the data's classes and attributes the model learns to be told.
    pub conditioning: Conditioning,
    /// Probability that a sample is trained without its class, for classifier-free guidance (Ho & Salimans 2022: 0.1).
    pub class_dropout: f64,
    /// The same of all of its attributes. One draw decides on both, so that the rarer goes only along with the other.
    pub attribute_dropout: f64,
    /// Blocks compute their activations anew in the backward pass instead of keeping them: less memory, more time, and the same
    /// numbers.
    pub checkpoint_activations: bool,
    /// Probability that a sample is trained with the empty text in place of its caption.
    pub text_dropout: f64,
    /// What the model is shown beside the noise; nothing where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageCondition>,
    /// Probability that a sample is trained without its image; 0, as published, where the model need not do without.
    pub image_dropout: f64,
    /// Norm to which the gradient is clipped; 0 for no clipping.
    pub max_grad_norm: f64,
    /// A line in `stats.jsonl` every so many images.
    pub log_every_images: u64,
    /// A checkpoint every so many images.
    pub save_every_images: u64,
    /// Checkpoints kept, the newest.
    pub keep_checkpoints: usize,
    /// Beside them, the first checkpoint at or after each multiple of so many images is kept; 0: none.
    pub keep_every_images: u64,
    /// Beside them, the checkpoint of the lowest loss is kept: that of what is held out, or the mean since the one before.
    pub keep_best: bool,
    /// Share of the data that is never trained on; the averaged network's loss on it is logged with every checkpoint.
    pub held_out_share: f64,
    /// How many of these images are measured.
    pub evaluate_images: usize,
    /// Pictures drawn during the training.
    pub grid: GridSettings,
    /// Steps in a row whose gradients are not finite, after which the run stops; fewer are left out and counted.
    pub max_skipped_steps: u64,
    /// Wall-clock limit in minutes, after which the run saves and ends; 0 for none.
    pub max_minutes: f64,
    /// What the network predicts.
    pub parametrization: Parametrization,
    /// The schedule whose time the network is told.
    pub schedule: Schedule,
    /// Which noise levels are drawn.
    pub noise: NoiseDistribution,
    /// How the network's answer is compared with its target.
    pub loss: Distance,
    /// How errors are weighted.
    pub weighting: Weighting,
    /// Weight of the variational bound that is added to the loss (latent diffusion's `original_elbo_weight`); 0: none.
    pub variational_weight: f64,
    /// A learned balance of the noise levels.
    pub log_variance: LogVariance,
    /// Sigmas between the stages, ascending, where no stages file gives them; one fewer than decoders.
    pub boundaries: Vec<f64>,
    /// Which stage is drawn how often.
    pub stage_policy: StagePolicy,
    /// The stages that are trained, counted from 1; empty: all. Only their noise levels are drawn, and the other decoders are frozen.
    pub train_stages: Vec<usize>,
    /// What else is frozen: `encoder` (all that the stages share), `decoders`, or beginnings of parameters' names.
    pub freeze: Vec<String>,
    /// The optimizer and its base learning rate.
    pub optimizer: AdamWConfig,
    /// Parameters with rates of their own; the first that fits holds.
    pub groups: Vec<GroupSettings>,
    /// The learning rate over the run, as a factor on the optimizer's.
    pub lr_schedule: LrSchedule,
    /// The average of the weights that sampling uses.
    pub ema: EmaSchedule,
    /// Averages that are kept beside it for `strata convert ema`.
    pub post_hoc: PostHocSettings,
    /// How pictures are prepared, with `--data`.
    pub pictures: PictureSettings,
    /// The network. Its input and output channels are those of the data.
    pub unet: UNetConfig,
}

impl Default for DiffusionTraining {
    fn default() -> Self {
        Self {
            seed: 0,
            images: 2_000_000,
            batch: 32,
            micro_batch: 0,
            conditioning: Conditioning::default(),
            class_dropout: 0.1,
            attribute_dropout: 0.1,
            checkpoint_activations: false,
            text_dropout: 0.1,
            image: None,
            image_dropout: 0.0,
            max_grad_norm: 1.0,
            log_every_images: 3_200,
            save_every_images: 100_000,
            keep_checkpoints: 2,
            keep_every_images: 0,
            keep_best: false,
            held_out_share: 0.0,
            evaluate_images: 1_024,
            grid: GridSettings::default(),
            // By then the weights or the data are broken.
            max_skipped_steps: 20,
            max_minutes: 0.0,
            // Unit-variance inputs and targets at every sigma (Karras et al. 2022), for latents scaled to unit variance.
            parametrization: Parametrization::F { sigma_data: 1.0 },
            schedule: Schedule::default(),
            noise: NoiseDistribution::default(),
            loss: Distance::default(),
            weighting: Weighting::default(),
            variational_weight: 0.0,
            log_variance: LogVariance::default(),
            boundaries: Vec::new(),
            stage_policy: StagePolicy::default(),
            train_stages: Vec::new(),
            freeze: Vec::new(),
            // 2e-4 is EDM's rate for small images divided by five: it suits batches of tens, not thousands.
            optimizer: AdamWConfig { lr: 2e-4, weight_decay: 0.0, ..AdamWConfig::default() },
            groups: Vec::new(),
            lr_schedule: LrSchedule::Warmup { warmup_images: 10_000 },
            ema: EmaSchedule::HalfLife { half_life_images: 500_000.0, rampup_ratio: Some(0.05), batch_counts: false },
            post_hoc: PostHocSettings::default(),
            pictures: PictureSettings::default(),
            unet: UNetConfig::default(),
        }
    }
}

impl DiffusionTraining {
    /// Presets: name and TOML of the settings that differ from the defaults.
    pub const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("emoji-32", include_str!("../../presets/emoji-32.toml")),
        ("emoji-text", include_str!("../../presets/emoji-text.toml")),
        ("emoji-class", include_str!("../../presets/emoji-class.toml")),
        ("emoji-superres-x4", include_str!("../../presets/emoji-superres-x4.toml")),
        ("emoji-inpaint", include_str!("../../presets/emoji-inpaint.toml")),
        ("emoji-64", include_str!("../../presets/emoji-64.toml")),
        ("small-multistage", include_str!("../../presets/small-multistage.toml")),
        ("celebahq256-ldm", include_str!("../../presets/celebahq256-ldm.toml")),
        ("celebahq256-ldm-multistage", include_str!("../../presets/celebahq256-ldm-multistage.toml")),
        ("celeba-attributes", include_str!("../../presets/celeba-attributes.toml")),
        ("imagenet-class", include_str!("../../presets/imagenet-class.toml")),
        ("superres-x4", include_str!("../../presets/superres-x4.toml")),
        ("inpaint", include_str!("../../presets/inpaint.toml")),
        ("imagenet-ldm-multistage", include_str!("../../presets/imagenet-ldm-multistage.toml")),
        ("cifar10-edm-multistage", include_str!("../../presets/cifar10-edm-multistage.toml")),
        ("celeba32-edm-multistage", include_str!("../../presets/celeba32-edm-multistage.toml")),
        ("cifar10-ddpmpp-multistage", include_str!("../../presets/cifar10-ddpmpp-multistage.toml")),
        ("small-edm-multistage", include_str!("../../presets/small-edm-multistage.toml")),
        ("emoji-32-edm-multistage", include_str!("../../presets/emoji-32-edm-multistage.toml")),
        ("emoji-32-ldm-multistage", include_str!("../../presets/emoji-32-ldm-multistage.toml")),
        ("emoji-32-ddpmpp-multistage", include_str!("../../presets/emoji-32-ddpmpp-multistage.toml")),
        ("small-ddpmpp-multistage", include_str!("../../presets/small-ddpmpp-multistage.toml")),
    ];

    /// Keys that say how long and how often, not what is trained: a run may go on with other values.
    pub const FREE_KEYS: &'static [&'static str] = &[
        "images",
        "max_minutes",
        "log_every_images",
        "save_every_images",
        "keep_checkpoints",
        "keep_every_images",
        "keep_best",
        "grid",
        "max_skipped_steps",
        "checkpoint_activations",
    ];

    /// # Errors
    /// If a value cannot be used; the message names the key.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("images", self.images),
            ("batch", self.batch as u64),
            ("log_every_images", self.log_every_images),
            ("save_every_images", self.save_every_images),
            ("keep_checkpoints", self.keep_checkpoints as u64),
            ("evaluate_images", self.evaluate_images as u64),
            ("max_skipped_steps", self.max_skipped_steps),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::Config(format!("`{key}`: expected 1 or more, got 0")));
        }
        let dropouts = [
            ("class_dropout", self.class_dropout),
            ("attribute_dropout", self.attribute_dropout),
            ("text_dropout", self.text_dropout),
            ("image_dropout", self.image_dropout),
        ];
        for (key, v) in dropouts {
            if !(0.0..=1.0).contains(&v) {
                return Err(Error::Config(format!("`{key}`: expected a probability, got {v}")));
            }
        }
        if !(0.0..1.0).contains(&self.held_out_share) {
            let message = format!("`held_out_share`: expected a share from 0 to below 1, got {}", self.held_out_share);
            return Err(Error::Config(message));
        }
        for (key, v) in [
            ("max_grad_norm", self.max_grad_norm),
            ("max_minutes", self.max_minutes),
            ("variational_weight", self.variational_weight),
        ] {
            if v < 0.0 || !v.is_finite() {
                return Err(Error::Config(format!("`{key}`: expected 0 or more, got {v}")));
            }
        }
        if let Some(image) = &self.image {
            image.validate()?;
        }
        if let Distance::Huber { delta } = self.loss
            && !(delta > 0.0 && delta.is_finite())
        {
            return Err(Error::Config(format!("`loss`: expected a delta above 0, got {delta}")));
        }
        self.noise.validate()?;
        self.weighting.validate()?;
        crate::noise::check_boundaries(&self.boundaries)?;
        self.schedule.validate()?;
        self.optimizer.validate()?;
        self.lr_schedule.validate()?;
        self.ema.validate()?;
        self.post_hoc.validate()?;
        self.unet.validate()
    }
}
