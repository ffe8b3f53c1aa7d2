//! The settings of a training run, and the presets.

use serde::{Deserialize, Serialize};
use strata_datasets::{Crop, Resampling as Filter, Transform};
use strata_training::{AdamWConfig, EmaSchedule, LrSchedule};

use crate::{
    AutoencoderConfig, Error, Kind, KlConfig, Result, TinyConfig, VqConfig,
    adversarial::{AdversarialWeight, DiscriminatorConfig, GanLoss},
    kl::check_size,
    perceptual::LpipsNet,
};

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

/// The codebook of a VQ model, and how it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodebookTraining {
    /// Entries.
    pub codes: usize,
    /// Weight of the term that moves the encoder towards the codes. 1: the published models.
    pub commitment_weight: f64,
    /// Weight of the term that moves the codes towards the latents. 0.25: the published models.
    pub codebook_weight: f64,
    /// A code that was nearest to nothing for so many images takes the place of a latent of the batch; 0: never. At the beginning
    /// every code does.
    pub revive_after_images: u64,
}

impl Default for CodebookTraining {
    fn default() -> Self {
        Self { codes: 1024, commitment_weight: 1.0, codebook_weight: 0.25, revive_after_images: 800 }
    }
}

/// The term for what pictures look like: LPIPS, or where its weights are not at hand, the distance of Laplacian pyramids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerceptualTraining {
    /// Its weight against the pixel loss; 0: without. 1: the published models.
    pub weight: f64,
    /// The network of LPIPS.
    pub net: LpipsNet,
    /// Weight file of that network (see [`crate::perceptual::Lpips::load`]); empty, or a file that is not there: the fallback.
    pub file: String,
}

/// The adversarial term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdversarialTraining {
    /// Its gradient at the last layer against that of the reconstruction; 0: without. 0.5: the published KL models, 0.75: VQ.
    pub weight: f64,
    /// Images after which it begins, and the discriminator with it: a decoder that draws nothing yet is judged too easily.
    pub start_images: u64,
    /// The discriminator's loss.
    pub loss: GanLoss,
    /// The discriminator's learning rate at its highest; 0: the autoencoder's, but not above 2e-4. With the 3e-3 that suits a small
    /// autoencoder it soon answers the same number for every picture.
    pub lr: f64,
    /// Adam's decays for the discriminator. 0.5 and 0.9: the published models; more momentum lets the two networks swing around
    /// each other.
    pub beta1: f64,
    /// Of squared gradients.
    pub beta2: f64,
    /// The discriminator.
    pub discriminator: DiscriminatorConfig,
}

/// That of Isola et al. 2017, who introduced this discriminator.
const HIGHEST_DISCRIMINATOR_LR: f64 = 2e-4;

impl Default for AdversarialTraining {
    fn default() -> Self {
        let discriminator = DiscriminatorConfig::default();
        Self { weight: 0.0, start_images: 0, loss: GanLoss::Hinge, lr: 0.0, beta1: 0.5, beta2: 0.9, discriminator }
    }
}

impl AdversarialTraining {
    /// The adaptive weight; it counts from the start on.
    pub(crate) fn adaptive(&self) -> AdversarialWeight {
        AdversarialWeight { start_step: 0, factor: 1.0, weight: self.weight }
    }
}

/// How an autoencoder is trained. The defaults are the preset `emoji-kl-f4`, which a laptop trains in minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderTraining {
    /// Seed of everything random.
    pub seed: u64,
    /// Images to train on in all, repeats counted.
    pub images: u64,
    /// Images in a step.
    pub batch: usize,
    /// Images whose activations are in memory at a time; the gradients of a step are those of all its parts. 0: the whole batch.
    pub micro_batch: usize,
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
    /// Blocks compute their activations anew in the backward pass instead of keeping them: less memory, more time, and the same
    /// numbers.
    pub checkpoint_activations: bool,
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
    /// The reconstruction's log-variance is learned, which weighs it against the other terms.
    pub learned_variance: bool,
    /// What is trained.
    pub kind: Kind,
    /// The network of a KL or VQ model.
    pub model: KlConfig,
    /// The network of a tiny model; absent: the published TAESD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiny: Option<TinyConfig>,
    /// Of a VQ model.
    pub codebook: CodebookTraining,
    /// What reconstructions look like.
    pub perceptual: PerceptualTraining,
    /// Whether reconstructions can be told from pictures.
    pub adversarial: AdversarialTraining,
}

impl Default for AutoencoderTraining {
    fn default() -> Self {
        Self {
            seed: 0,
            images: 12_000,
            // Small batches: in a short run the number of steps counts.
            batch: 4,
            micro_batch: 0,
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
            checkpoint_activations: false,
            max_grad_norm: 1.0,
            ema_half_life_images: 1_000.0,
            max_minutes: 0.0,
            save_every_images: 8_000,
            log_every_images: 320,
            evaluate_every_images: 4_000,
            evaluate_images: 128,
            learned_variance: false,
            kind: Kind::Kl,
            model: small_model(),
            tiny: None,
            codebook: CodebookTraining::default(),
            perceptual: PerceptualTraining::default(),
            adversarial: AdversarialTraining::default(),
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
        ("emoji-vq-f4-64", include_str!("../presets/emoji-vq-f4-64.toml")),
        ("kl-f4", include_str!("../presets/kl-f4.toml")),
        ("kl-f8", include_str!("../presets/kl-f8.toml")),
        ("kl-f16", include_str!("../presets/kl-f16.toml")),
        ("kl-f32", include_str!("../presets/kl-f32.toml")),
        ("vq-f4", include_str!("../presets/vq-f4.toml")),
        ("vq-f8", include_str!("../presets/vq-f8.toml")),
        ("vq-f16", include_str!("../presets/vq-f16.toml")),
    ];

    /// Settings that a run may be continued with another value of: they change no number that is trained. (Who names another
    /// `perceptual.file` compares what is in it.)
    pub const FREE_KEYS: &'static [&'static str] = &[
        "max_minutes",
        "save_every_images",
        "log_every_images",
        "evaluate_every_images",
        "evaluate_images",
        "perceptual.file",
        "checkpoint_activations",
    ];

    /// How pictures are prepared.
    pub fn transform(&self) -> Transform {
        Transform { size: self.size, crop: self.crop, filter: self.filter }
    }

    /// The network's configuration.
    pub fn network(&self) -> AutoencoderConfig {
        match self.kind {
            Kind::Kl => AutoencoderConfig::Kl(self.model.clone()),
            Kind::Vq => AutoencoderConfig::Vq(VqConfig { codes: self.codebook.codes, coder: self.model.clone() }),
            Kind::Tiny => AutoencoderConfig::Tiny(self.tiny.clone().unwrap_or_default()),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let network = self.network();
        network.validate()?;
        check_size(self.size, network.factor())?;
        if network.image_channels() != (3, 3) {
            return Err(Error::config("model.in_channels", "3, as out_channels (RGB)", network.image_channels().0));
        }
        self.validate_numbers()?;
        self.validate_adversarial()?;
        self.optimizer().validate()?;
        self.discriminator_optimizer().validate()?;
        self.ema().validate()?;
        Ok(self.lr_schedule().validate()?)
    }

    /// The discriminator must leave something of an image to judge.
    fn validate_adversarial(&self) -> Result<()> {
        let layers = self.adversarial.discriminator.layers as u32;
        let least = 24usize.saturating_mul(2usize.saturating_pow(layers.saturating_sub(3)));
        if self.adversarial.weight > 0.0 && self.size < least {
            let expected = format!("{least} pixels or more for a discriminator of {layers} layers");
            return Err(Error::config("size", expected, self.size));
        }
        Ok(())
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
            ("codebook.commitment_weight", self.codebook.commitment_weight),
            ("codebook.codebook_weight", self.codebook.codebook_weight),
            ("perceptual.weight", self.perceptual.weight),
            ("adversarial.weight", self.adversarial.weight),
            ("adversarial.lr", self.adversarial.lr),
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

    pub(crate) fn discriminator_optimizer(&self) -> AdamWConfig {
        let lr = if self.adversarial.lr > 0.0 { self.adversarial.lr } else { self.lr.min(HIGHEST_DISCRIMINATOR_LR) };
        let (beta1, beta2) = (self.adversarial.beta1, self.adversarial.beta2);
        AdamWConfig { lr, beta1, beta2, ..self.optimizer() }
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
