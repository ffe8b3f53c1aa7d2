//! Presets, published counts and what the families have of their own.

use candle_core::{DType, Device, Tensor};
use strata_conditioning::Condition;

use super::{Built, build, largest_difference, message, normal, small};
use crate::{
    Result,
    schedule::Schedule,
    unet::{CostInput, Description, Family, Heads, InputPyramid, Resample, Subject, UNetConfig, Waves, costs},
};

fn millions(n: u64) -> f64 {
    (n as f64 / 1e4).round() / 100.0
}

fn giga(n: u64) -> f64 {
    (n as f64 / 1e8).round() / 10.0
}

/// Parameters of all, then parameters and convolutions' multiply-accumulates of each stage, in millions and billions.
fn counts(preset: &str) -> Result<(f64, Vec<(f64, f64)>)> {
    let config = UNetConfig::preset(preset)?;
    let side = config.size.unwrap_or(0);
    let costs = costs(&config, CostInput { height: side, width: side, context_tokens: 1 })?;
    let stages = costs.active().iter().map(|c| (millions(c.parameters), giga(c.macs_conv))).collect();
    Ok((millions(costs.parameters()), stages))
}

#[test]
fn presets_have_the_published_counts() -> Result<()> {
    assert_eq!(counts("celebahq256-ldm")?, (274.06, vec![(274.06, 88.4)]));
    let (all, stages) = counts("celebahq256-ldm-multistage")?;
    assert_eq!((all, stages), (493.84, vec![(315.97, 105.8), (223.83, 72.9), (169.87, 48.1)]));
    let (all, stages) = counts("cifar10-ddpmpp-multistage")?;
    let rounded: Vec<(f64, f64)> = stages.iter().map(|(parameters, macs)| (parameters.round(), *macs)).collect();
    assert_eq!((all, rounded), (237.17, vec![(169.0, 29.9), (108.0, 17.6), (47.0, 6.3)]));
    assert_eq!(counts("cifar10-edm-multistage")?.0, 128.79);
    assert_eq!(counts("celeba32-edm-multistage")?.0, 128.79);
    Ok(())
}

#[test]
fn a_description_names_every_stage_and_level() -> Result<()> {
    for (name, _) in UNetConfig::PRESETS {
        let unet = UNetConfig::preset(name)?;
        let side = unet.size.unwrap_or(32);
        let input = CostInput { height: side, width: side, context_tokens: 1 };
        let boundaries: Vec<f64> = (1..unet.decoders.len()).map(|i| i as f64).collect();
        let subject = Subject { unet: &unet, input, schedule: &Schedule::vp(), boundaries: &boundaries };
        let text = Description::new(subject)?.text();
        for part in ["shared encoder", "stage 1 active", "mean of a sampler step", "log-SNR inf to", "level 1", "GMACs"] {
            assert!(text.contains(part), "{name}: {part} is missing in\n{text}");
        }
    }
    Ok(())
}

#[test]
fn the_mean_weighs_stages_by_the_steps_that_they_get() -> Result<()> {
    let unet = small();
    let input = CostInput { height: 8, width: 8, context_tokens: 1 };
    let describe = |boundaries: &[f64]| Description::new(Subject { unet: &unet, input, schedule: &Schedule::vp(), boundaries });
    let far = describe(&[100.0, 200.0])?;
    assert_eq!(far.mean.map(|m| m.macs_conv), Some(far.stages[0].active.macs_conv));
    let middle = describe(&[0.5, 5.0])?;
    let shares: Vec<f64> = middle.stages.iter().filter_map(|s| s.bounds.as_ref().map(|b| b.share)).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares.iter().all(|s| *s > 0.05), "{shares:?}");
    assert!(describe(&[1.0])?.mean.is_none());
    Ok(())
}

#[test]
fn levels_see_as_far_as_their_convolutions_reach() -> Result<()> {
    let unet = UNetConfig { attention: Vec::new(), blocks: 1, ..small() };
    let input = CostInput { height: 64, width: 64, context_tokens: 1 };
    let subject = Subject { unet: &unet, input, schedule: &Schedule::vp(), boundaries: &[] };
    let levels = Description::new(subject)?.levels;
    // 3 of the first convolution, 4 of a block's two; then 2 of the strided one and 8 of a block at half the resolution.
    assert_eq!(levels.iter().map(|l| l.sees).collect::<Vec<_>>(), [7, 17]);
    Ok(())
}

#[test]
fn every_family_answers_the_shape_it_is_asked() -> Result<()> {
    for family in [Family::Ldm, Family::Song, Family::Adm, Family::Ncsnpp] {
        let config = UNetConfig { family, resample: Resample::Block, ..small() };
        let Built { unet, .. } = build(&config)?;
        let y = unet.forward(&normal("x", &[2, 3, 4, 6])?, &[0.5, 2.0], &[0, 2], &Condition::none(), None)?;
        assert_eq!(y.dims(), [2, 3, 4, 6], "{family:?}");
    }
    Ok(())
}

#[test]
fn frequencies_are_kept_but_not_learned() -> Result<()> {
    let config = UNetConfig { family: Family::Song, waves: Waves::Fourier, ..small() };
    let Built { store, .. } = build(&config)?;
    let name = "time_embedding.frequencies";
    assert!(store.parameters().iter().any(|p| p.name() == name) && store.trainable().iter().all(|p| p.name() != name));
    Ok(())
}

#[test]
fn labels_and_augmentation_reach_the_answer() -> Result<()> {
    let config = UNetConfig { family: Family::Song, classes: Some(3), augment: Some(2), ..small() };
    let Built { unet, .. } = build(&config)?;
    let x = normal("x", &[1, 3, 8, 8])?;
    let run = |class: Option<u32>, augment: Option<[f32; 2]>| {
        let augment = augment.map(|a| Tensor::new(&[a], &Device::Cpu)).transpose()?;
        let cond = Condition { vector: Some(unet.embed_classes(&[class])?), augment, ..Condition::none() };
        unet.forward(&x, &[0.3], &[0], &cond, None)
    };
    let plain = run(Some(1), None)?;
    assert_eq!(largest_difference(&plain, &run(Some(1), Some([0.0, 0.0]))?)?, 0.0);
    for other in [run(Some(2), None)?, run(None, None)?, run(Some(1), Some([1.0, 0.0]))?] {
        assert!(largest_difference(&plain, &other)? > 1e-4);
    }
    let one_hot = Tensor::new(&[[0f32, 1.0, 0.0]], &Device::Cpu)?;
    assert_eq!(largest_difference(&unet.embed_labels(&one_hot)?, &unet.embed_classes(&[Some(1)])?)?, 0.0);
    let wrong = Condition { augment: Some(Tensor::zeros((1, 5), DType::F32, &Device::Cpu)?), ..Condition::none() };
    let Built { unet, .. } = build(&UNetConfig { classes: None, ..config })?;
    assert!(message(unet.forward(&x, &[0.3], &[0], &wrong, None)).contains("expected [1, 2], got [1, 5]"));
    Ok(())
}

#[test]
fn heads_of_at_least_a_width() {
    let heads = |channels: usize| Heads::AtLeast(64).count(channels);
    assert_eq!([64, 96, 128, 200, 32].map(heads), [Some(1), Some(1), Some(2), None, None]);
}

#[test]
fn filters_and_sizes_that_cannot_be_built_say_why() {
    let song = UNetConfig { family: Family::Song, resample: Resample::Block, ..small() };
    let text = message(UNetConfig { filter: vec![1.0, 2.0, 1.0], size: Some(9), ..song.clone() }.validate());
    for part in ["`filter`: expected an even number of taps", "got [1.0, 2.0, 1.0]", "`size`: height 9", "multiple of 2"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(message(UNetConfig { filter: vec![1.0, -1.0], ..song.clone() }.validate()).contains("sum is not 0"));
    assert!(message(UNetConfig { filter: vec![1.0], ..song }.validate()).contains("2 taps or more"));
    let odd =
        UNetConfig { family: Family::Ncsnpp, filter: vec![1.0, 2.0, 1.0], input_pyramid: InputPyramid::Residual, ..small() };
    assert_eq!(message::<()>(odd.validate()), "");
    let narrow = UNetConfig { family: Family::Ncsnpp, width: 2, ..small() };
    assert!(message::<()>(narrow.validate()).contains("cannot be divided into 0 groups"));
}
