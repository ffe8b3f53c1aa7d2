//! The embedding of the noise level and of what is added to it: the condition's vector and the labels of an augmentation.

use candle_core::{D, Device, Tensor};
use strata_conditioning::Condition;
use strata_nn::{
    layers::{Embedding, Linear},
    ops,
    params::{Init, Parameter, Scope},
};

use super::{
    config::{UNetConfig, Waves},
    family::Family,
};
use crate::{Error, Result};

/// Standard deviation of the frequencies of Fourier features (Song et al. 2021).
const FREQUENCY_STD: f64 = 16.0;

/// `linear2(silu(linear1(waves)))`, with what is added before or after.
#[derive(Debug)]
pub(super) struct NoiseEmbedding {
    waves: WaveKind,
    linear1: Linear,
    linear2: Linear,
    vector: Vector,
    augment: Option<Linear>,
}

#[derive(Debug)]
enum WaveKind {
    Sinusoidal,
    Fourier(Parameter),
}

/// What happens to `Condition::vector`.
#[derive(Debug)]
enum Vector {
    Added,
    Projected(Linear),
    /// A row of a table for each class.
    Table(Embedding),
    /// A map of one-hot labels.
    Labels(Linear),
}

impl NoiseEmbedding {
    pub(super) fn new(config: &UNetConfig, scope: &Scope) -> Result<Self> {
        let (waves, width) = (config.wave_width(), config.embedding_width());
        let time = scope.pp("time_embedding");
        Ok(Self {
            waves: WaveKind::new(config, &time)?,
            linear1: config.linear(&time.pp("linear1"), waves, width)?,
            linear2: config.linear(&time.pp("linear2"), width, width)?,
            vector: Vector::new(config, scope)?,
            augment: config.augment.map(|n| augment(config, &scope.pp("augment_embedding"), n)).transpose()?,
        })
    }

    /// `[B, embedding_width]` before the activation.
    pub(super) fn forward(&self, config: &UNetConfig, c_noise: &[f32], cond: &Condition, device: &Device) -> Result<Tensor> {
        let vector = self.vector.of(config, c_noise.len(), cond)?;
        let mut waves = self.waves(config, c_noise, device)?;
        if let Some(v) = vector.as_ref().filter(|_| config.family.vector_joins_waves()) {
            waves = (waves + v)?;
        }
        if let Some(augment) = self.augmented(config, c_noise.len(), cond)? {
            waves = (waves + augment)?;
        }
        let embedding = self.linear2.forward(&ops::silu(&self.linear1.forward(&waves)?)?)?;
        match vector.filter(|_| !config.family.vector_joins_waves()) {
            Some(v) => Ok((embedding + v)?),
            None => Ok(embedding),
        }
    }

    fn waves(&self, config: &UNetConfig, c_noise: &[f32], device: &Device) -> Result<Tensor> {
        let n = config.wave_width();
        let cosines_first = match &self.waves {
            WaveKind::Sinusoidal => ops::sinusoidal_embedding(c_noise, n, config.wave_shift(), device)?,
            WaveKind::Fourier(frequencies) => {
                ops::fourier_embedding(&Tensor::from_slice(c_noise, c_noise.len(), device)?, &frequencies.get())?
            }
        };
        if !config.sines_first() {
            return Ok(cosines_first);
        }
        let half = |i: usize| cosines_first.narrow(1, i * n / 2, n / 2);
        Ok(Tensor::cat(&[half(1)?, half(0)?], D::Minus1)?)
    }

    fn augmented(&self, config: &UNetConfig, batch: usize, cond: &Condition) -> Result<Option<Tensor>> {
        match (&self.augment, config.augment, &cond.augment) {
            // No augmentation is all zeros, of which this map without bias makes zeros.
            (_, _, None) => Ok(None),
            (Some(map), Some(n), Some(labels)) if labels.dims() == [batch, n] => Ok(Some(map.forward(labels)?)),
            (_, Some(n), Some(labels)) => {
                Err(Error::Config(format!("`Condition::augment`: expected [{batch}, {n}], got {:?}", labels.dims())))
            }
            (_, None, Some(_)) => Err(Error::Config("`Condition::augment`: the U-Net has no `augment`".into())),
        }
    }

    /// The vectors of classes, for `Condition::vector`; `None` is no class.
    pub(super) fn embed_classes(&self, config: &UNetConfig, ids: &[Option<u32>], device: &Device) -> Result<Tensor> {
        let classes = config.classes.ok_or_else(|| Error::Config("the U-Net has no `classes`".into()))?;
        if let Some(id) = ids.iter().flatten().find(|&&id| id as usize >= classes) {
            return Err(Error::Config(format!("class {id}: expected a number below {classes}")));
        }
        if let Vector::Table(table) = &self.vector {
            let known: Vec<u32> = ids.iter().flatten().copied().collect();
            if known.len() < ids.len() {
                return Err(Error::Config("the U-Net's table of classes has no row for `no class`".into()));
            }
            return Ok(table.forward(&Tensor::from_vec(known, ids.len(), device)?)?);
        }
        let mut one_hot = vec![0f32; ids.len() * classes];
        for (row, id) in ids.iter().enumerate() {
            if let Some(id) = id {
                one_hot[row * classes + *id as usize] = 1.0;
            }
        }
        self.embed_labels(config, &Tensor::from_vec(one_hot, (ids.len(), classes), device)?)
    }

    /// The vectors of labels `[B, classes]`, one-hot or zeros.
    pub(super) fn embed_labels(&self, config: &UNetConfig, labels: &Tensor) -> Result<Tensor> {
        let (Vector::Labels(map), Some(classes)) = (&self.vector, config.classes) else {
            return Err(Error::Config("the U-Net has no map of labels: `classes` of the families `song` and `adm`".into()));
        };
        match labels.dims() {
            &[_, n] if n == classes => {}
            dims => return Err(Error::Config(format!("labels: expected [B, {classes}], got {dims:?}"))),
        }
        // SongUNet gives each label the weight that a vector of `classes` numbers of variance 1 would have.
        let factor = if config.family == Family::Song { (classes as f64).sqrt() } else { 1.0 };
        Ok(map.forward(&labels.affine(factor, 0.0)?)?)
    }
}

impl WaveKind {
    fn new(config: &UNetConfig, scope: &Scope) -> Result<Self> {
        if config.waves == Waves::Sinusoidal {
            return Ok(Self::Sinusoidal);
        }
        let frequencies = scope.param("frequencies", config.wave_width() / 2, Init::Normal { std: FREQUENCY_STD })?;
        frequencies.set_trainable(false);
        Ok(Self::Fourier(frequencies))
    }
}

impl Vector {
    fn new(config: &UNetConfig, scope: &Scope) -> Result<Self> {
        let width = config.vector_width();
        let labels = scope.pp("label_embedding");
        Ok(match (config.classes, config.condition_width, config.family) {
            (Some(classes), _, Family::Song) => Self::Labels(config.linear(&labels, classes, width)?),
            (Some(classes), _, Family::Adm) => {
                Self::Labels(Linear::without_bias(&labels, classes, width, Init::Normal { std: 1.0 })?)
            }
            (Some(classes), _, _) => Self::Table(Embedding::new(&scope.pp("class_embedding"), classes, width)?),
            (None, Some(n), _) => Self::Projected(config.linear(&scope.pp("condition_embedding"), n, width)?),
            (None, None, _) => Self::Added,
        })
    }

    /// What is added, of the width of the place where it is.
    fn of(&self, config: &UNetConfig, batch: usize, cond: &Condition) -> Result<Option<Tensor>> {
        let Some(vector) = &cond.vector else {
            return match self {
                Self::Added => Ok(None),
                _ => Err(Error::Config("the U-Net is conditional: `Condition::vector` is missing".into())),
            };
        };
        let expected = [batch, config.condition_width.unwrap_or(config.vector_width())];
        if vector.dims() != expected {
            return Err(Error::Config(format!("`Condition::vector`: expected {expected:?}, got {:?}", vector.dims())));
        }
        match self {
            Self::Projected(map) => Ok(Some(map.forward(vector)?)),
            Self::Added | Self::Table(_) | Self::Labels(_) => Ok(Some(vector.clone())),
        }
    }
}

fn augment(config: &UNetConfig, scope: &Scope, n: usize) -> Result<Linear> {
    let init = match config.family {
        Family::Adm => Init::ZEROS,
        _ => Init::Xavier { scale: 1.0 },
    };
    Ok(Linear::without_bias(scope, n, config.wave_width(), init)?)
}
