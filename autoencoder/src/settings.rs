//! The settings of a training run, and the presets.

use serde::{Deserialize, Serialize};
use strata_datasets::{Crop, Resampling as Filter, Transform};
use strata_training::{AdamWConfig, EmaSchedule, LrSchedule};

use crate::{Error, KlConfig, Result};

/// The difference between picture and reconstruction that is minimised, as a mean over pixels in [-1, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelLoss {
    /// `|x - y|`: sharper edges; what the published models use.
    #[default]
    L1,
    /// `(x - y)²`: the higher PSNR.
    L2,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays: the run can be prolonged.
    Constant,
    /// It falls along half a cosine to 0 at `images`.
    #[default]
    Cosine,
}

/// How a KL autoencoder is trained. The defaults are the preset `emoji-kl-f4`, which a laptop trains in minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderTraining {
    /// Seed of everything random.
    pub seed: u64,
    /// Images to train on in all, repeats counted.
    pub images: u64,
    /// Images in a step.
    pub batch: usize,
    /// Side of the square images, in pixels.
    pub size: usize,
    /// What is kept of a picture that is no square.
    pub crop: Crop,
    /// How pictures are resized.
    pub filter: Filter,
    /// Mirror each picture with probability one half.
    pub flip: bool,
    /// Share of the pictures that is never trained on, for measuring.
    pub held_out_share: f64,
    /// Share of unusable pictures above which training refuses the data set.
    pub max_bad: f64,
    /// Difference between picture and reconstruction.
    pub pixel_loss: PixelLoss,
    /// Weight of the KL divergence, summed over the latent, against the pixel loss summed over the image. 1e-6: the
    /// published models.
    pub kl_weight: f64,
    /// Learning rate at its highest.
    pub lr: f64,
    /// Images over which the learning rate rises from 0; at most half the run.
    pub warmup_images: u64,
    /// What follows.
    pub decay: Decay,
    /// Adam's decay of the mean of gradients.
    pub beta1: f64,
    /// Adam's decay of the mean of squared gradients.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0: never.
    pub max_grad_norm: f64,
    /// Half-life of the average of the weights, in images. The average begins short and grows with the run.
    pub ema_half_life_images: f64,
    /// Minutes after which the run is saved and ends; 0: no limit.
    pub max_minutes: f64,
    /// Images between checkpoints.
    pub save_every_images: u64,
    /// Images between lines of `stats.jsonl`.
    pub log_every_images: u64,
    /// Images between measurements on the held-out pictures; 0: at the end alone.
    pub evaluate_every_images: u64,
    /// Held-out pictures that are measured at most.
    pub evaluate_images: usize,
    /// The network.
    pub model: KlConfig,
}

impl Default for AutoencoderTraining {
    fn default() -> Self {
        Self {
            seed: 0,
            images: 12_000,
            // Small batches: in a short run the number of steps counts.
            batch: 4,
            size: 32,
            crop: Crop::default(),
            filter: Filter::default(),
            flip: true,
            held_out_share: 0.1,
            max_bad: 0.01,
            pixel_loss: PixelLoss::L2,
            // Costs hundredths of a dB at this size, and makes latents smooth.
            kl_weight: 1e-3,
            lr: 3e-3,
            warmup_images: 500,
            decay: Decay::Cosine,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            ema_half_life_images: 1_000.0,
            max_minutes: 0.0,
            save_every_images: 8_000,
            log_every_images: 320,
            evaluate_every_images: 4_000,
            evaluate_images: 128,
            model: small_model(),
        }
    }
}

/// Factor 4, for small pictures on a CPU: no convolution at full resolution, narrow, no attention.
fn small_model() -> KlConfig {
    KlConfig {
        channels: vec![48, 64],
        patch: 2,
        encoder_blocks: 1,
        decoder_blocks: 2,
        middle_attention: false,
        norm_groups: 8,
        ..KlConfig::default()
    }
}

impl AutoencoderTraining {
    /// Names and texts (TOML) of the presets.
    pub const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("emoji-kl-f4", include_str!("../presets/emoji-kl-f4.toml")),
        ("emoji-kl-f4-64", include_str!("../presets/emoji-kl-f4-64.toml")),
        ("kl-f4", include_str!("../presets/kl-f4.toml")),
        ("kl-f8", include_str!("../presets/kl-f8.toml")),
    ];

    /// Settings that a run may be continued with another value of: they change no number that is trained.
    pub const FREE_KEYS: &'static [&'static str] =
        &["max_minutes", "save_every_images", "log_every_images", "evaluate_every_images", "evaluate_images"];

    /// How pictures are prepared.
    pub fn transform(&self) -> Transform {
        Transform { size: self.size, crop: self.crop, filter: self.filter }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        let factor = self.model.factor();
        if self.size == 0 || !self.size.is_multiple_of(factor) {
            return Err(Error::config("size", format!("a multiple of the autoencoder's factor ({factor})"), self.size));
        }
        if (self.model.in_channels, self.model.out_channels) != (3, 3) {
            return Err(Error::config("model.in_channels", "3, as out_channels (RGB)", self.model.in_channels));
        }
        self.validate_numbers()?;
        self.optimizer().validate()?;
        self.ema().validate()?;
        Ok(self.lr_schedule().validate()?)
    }

    fn validate_numbers(&self) -> Result<()> {
        let counts = [
            ("images", self.images),
            ("batch", self.batch as u64),
            ("save_every_images", self.save_every_images),
            ("log_every_images", self.log_every_images),
            ("evaluate_images", self.evaluate_images as u64),
        ];
        if let Some((key, n)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Error::config(*key, "1 or more", n));
        }
        let shares = [("held_out_share", self.held_out_share), ("max_bad", self.max_bad)];
        if let Some((key, share)) = shares.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            return Err(Error::config(*key, "a share in [0, 1)", share));
        }
        let sizes = [
            ("kl_weight", self.kl_weight),
            ("max_grad_norm", self.max_grad_norm),
            ("max_minutes", self.max_minutes),
            ("ema_half_life_images", self.ema_half_life_images),
        ];
        match sizes.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            Some((key, v)) => Err(Error::config(*key, "a number of at least 0", v)),
            None => Ok(()),
        }
    }

    pub(crate) fn optimizer(&self) -> AdamWConfig {
        let Self { lr, beta1, beta2, weight_decay, .. } = *self;
        AdamWConfig { lr, beta1, beta2, weight_decay, ..AdamWConfig::default() }
    }

    pub(crate) fn ema(&self) -> EmaSchedule {
        // The ramp of Karras et al. 2022, so that short runs are not averaged over their beginning.
        EmaSchedule::HalfLife { half_life_images: self.ema_half_life_images, rampup_ratio: Some(0.05), batch_counts: false }
    }

    pub(crate) fn lr_schedule(&self) -> LrSchedule {
        let warmup_images = self.warmup_images.min(self.images / 2);
        match self.decay {
            Decay::Constant if warmup_images == 0 => LrSchedule::Constant,
            Decay::Constant => LrSchedule::Warmup { warmup_images },
            Decay::Cosine => LrSchedule::Cosine { warmup_images, total_images: self.images, min: 0.0 },
        }
    }
}
