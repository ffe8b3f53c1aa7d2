//! Kinds of the area `conditioning`: text, class and spatial conditioner cases.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device};
use strata_conditioning::{ClassEmbedder, RescalerConfig, SpatialRescaler};
use strata_nn::params::ParamStore;

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "ldm_class_embedder" => class_embedder(case),
        "ldm_spatial_rescaler" => spatial_rescaler(case),
        kind => bail!("`{kind}` is no kind of the area conditioning"),
    }
}

/// The source counts the null class among `n_classes`; it is the last one.
fn class_embedder(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (width, rows): (usize, usize) = (config.get("embed_dim")?, config.get("n_classes")?);
    config.without_effect(&["key"]);
    config.finish()?;
    ensure!(rows > 0, "`config.n_classes`: expected 1 or more, got {rows}");
    let store = ParamStore::new(0, &Device::Cpu);
    let embedder = ClassEmbedder::new(&store.root(), rows - 1, width)?;
    store.load(&case.weights()?, "case.json")?;
    let ids = case.input("class")?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    let labels: Vec<Option<u32>> = ids.iter().map(|&id| (id as usize != rows - 1).then_some(id)).collect();
    Ok(Answer::new().with("out.c", embedder.forward(&labels)?.unsqueeze(1)?))
}

fn spatial_rescaler(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let rescaler_config = RescalerConfig {
        stages: config.get("n_stages")?,
        method: config.get("method")?,
        multiplier: config.get("multiplier")?,
        in_channels: config.get("in_channels")?,
        out_channels: config.opt("out_channels")?,
        bias: config.or("bias", false)?,
    };
    config.finish()?;
    let store = ParamStore::new(0, &Device::Cpu);
    let rescaler = SpatialRescaler::new(&rescaler_config, &store.root())?;
    store.load(&case.weights()?, "case.json")?;
    let mut x = case.input("x")?;
    let mut answer = Answer::new().with("out.y", rescaler.forward(&x)?);
    for stage in 1..=rescaler_config.stages {
        x = rescaler.stage(&x)?;
        answer.insert(format!("out.stage{stage}"), x.clone());
    }
    Ok(answer)
}
