//! Sampling with a small three-stage network of random weights.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use strata_conditioning::{ImageCondition, ImageInput};
use strata_nn::random::Key;
use strata_training::NoProgress;

use super::*;
use crate::{
    denoiser::Parametrization,
    model::{LatentScaling, ModelConfig},
    noise::stage_of,
    schedule::Schedule,
    unet::{Cost, CostInput, UNetConfig, costs},
};

const BOUNDARIES: [f64; 2] = [0.6, 6.0];

const UNET: &str = "
in_channels = 2
out_channels = 2
width = 16
multipliers = [1, 2]
blocks = 1
attention = [1]
heads = { width = 8 }
groups = 8
decoders = [{ width = 24, attention = [1] }, { width = 16, attention = [1] }, { width = 8 }]
";

fn config(channels: usize) -> ModelConfig {
    ModelConfig {
        unet: UNetConfig { out_channels: channels, ..toml::from_str(UNET).unwrap() },
        parametrization: Parametrization::F { sigma_data: 1.0 },
        schedule: Schedule::vp(),
        boundaries: BOUNDARIES.to_vec(),
        classes: 3,
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        image: None,
        shape: [2, 8, 8],
        latents: LatentScaling::default(),
    }
}

/// A model whose answers depend on everything that it is given: no weight is left at 0.
fn model(channels: usize, seed: u64) -> Model {
    fill(Model::new(&config(channels), seed, &Device::Cpu).unwrap(), seed)
}

fn fill(model: Model, seed: u64) -> Model {
    for parameter in model.store().parameters() {
        let shape = parameter.var().shape().clone();
        let deviation = if shape.rank() > 1 { (shape.dims()[1..].iter().product::<usize>() as f64).powf(-0.5) } else { 0.1 };
        let fill = Key::new(seed, parameter.name()).normal_tensor(shape, &Device::Cpu).unwrap();
        let shift = if parameter.name().contains("norm") && parameter.name().ends_with("weight") { 1.0 } else { 0.0 };
        parameter.var().set(&fill.affine(deviation, shift).unwrap()).unwrap();
    }
    model
}

fn options(n: u64, batch: usize) -> SampleOptions {
    let seeds: Vec<u64> = (0..n).collect();
    let labels = seeds.iter().map(|s| Some((s % 3) as u32)).collect();
    let guidance = GuidanceOptions { scale: 2.0, ..GuidanceOptions::default() };
    SampleOptions { seeds, labels, batch, steps: 6, guidance, ..SampleOptions::default() }
}

#[derive(Debug, Default)]
struct Collected {
    batches: Vec<Tensor>,
    steps: Vec<(usize, usize)>,
}

impl Receiver for Collected {
    fn batch(&mut self, rows: Range<usize>, x: &Tensor) -> Result<()> {
        assert_eq!(rows.len(), x.dim(0)?);
        self.batches.push(x.clone());
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> Result<()> {
        assert_eq!(step.x0.dim(0)?, step.rows.len());
        self.steps.push((step.rows.start, step.done));
        Ok(())
    }
}

fn draw_with(model: &Model, worse: Option<&Model>, options: &SampleOptions) -> Result<(Vec<f32>, SampleCost, Collected)> {
    let job = Sampling { model, worse, options, progress: &NoProgress, interrupt: &Interrupt::new() };
    let mut collected = Collected::default();
    let cost = job.run(&mut collected)?;
    let x = Tensor::cat(&collected.batches, 0)?.flatten_all()?.to_vec1()?;
    Ok((x, cost, collected))
}

fn draw(model: &Model, options: &SampleOptions) -> Vec<f32> {
    draw_with(model, None, options).unwrap().0
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn samples_do_not_depend_on_the_batch_size_and_are_reproducible() {
    let model = model(2, 1);
    for sampler in ["dpmpp-2m", "euler-ancestral"] {
        let with = |batch: usize| draw(&model, &SampleOptions { sampler: sampler.parse().unwrap(), ..options(64, batch) });
        let whole = with(64);
        assert!(whole.iter().any(|v| v.abs() > 0.5), "the samples are something");
        assert!(furthest(&whole[..128], &whole[128..256]) > 0.1, "the samples differ from each other");
        assert_eq!(whole, with(64), "{sampler}: bit for bit");
        assert_eq!(with(7), with(7), "{sampler}: bit for bit");
        for batch in [1, 7] {
            let far = furthest(&whole, &with(batch));
            assert!(far <= 1e-5, "{sampler}, batches of {batch}: {far}");
        }
    }
}

#[test]
fn adaptive_steps_look_at_one_sample() {
    let model = model(2, 1);
    let sampler = "dpmpp-adaptive:rtol=0.5,atol=0.5".parse().unwrap();
    let with = |batch: usize| draw(&model, &SampleOptions { sampler, ..options(3, batch) });
    assert_eq!(with(1), with(3));
}

#[test]
fn every_evaluation_is_that_of_its_stage_and_counted() {
    let model = model(2, 2);
    let options = options(5, 2);
    let (_, counted, collected) = draw_with(&model, None, &options).unwrap();
    let mut expected = vec![0; 3];
    for sigma in options.sigmas(&model).unwrap().iter().take(6) {
        // Condition and no condition, of five samples.
        expected[stage_of(&BOUNDARIES, *sigma)] += 10;
    }
    assert_eq!(counted.evaluations_per_stage, expected);
    assert!(expected.iter().all(|n| *n > 0));
    let input = CostInput { height: 8, width: 8, context_tokens: 1 };
    let macs: Vec<u64> = costs(&model.config().unet, input).unwrap().active().iter().map(Cost::macs).collect();
    assert_eq!(counted.macs, macs.iter().zip(&expected).map(|(m, n)| m * n).sum::<u64>());
    assert_eq!(counted.single_decoder_macs, 60 * macs[0]);
    assert_eq!(collected.steps.iter().filter(|(first, _)| *first == 4).count(), 6);
}

#[test]
fn the_interval_saves_evaluations_and_guidance_acts() {
    let model = model(2, 3);
    let mut some = options(2, 2);
    let everywhere = draw(&model, &some);
    some.guidance.interval = Some((0.6, 6.0));
    let (inside, cost, _) = draw_with(&model, None, &some).unwrap();
    let per_stage: BTreeMap<usize, u64> = some.sigmas(&model).unwrap()[..6].iter().fold(BTreeMap::new(), |mut n, sigma| {
        *n.entry(stage_of(&BOUNDARIES, *sigma)).or_default() += 2;
        n
    });
    assert_eq!(cost.evaluations_per_stage, [per_stage[&0], 2 * per_stage[&1], per_stage[&2]]);
    assert!(furthest(&everywhere, &inside) > 1e-3);
    some.guidance.rescale = 0.7;
    let rescaled = draw(&model, &some);
    some.guidance.negative = Some(1);
    let negative = draw(&model, &some);
    assert!(furthest(&inside, &rescaled) > 1e-3 && furthest(&rescaled, &negative) > 1e-3);
}

#[test]
fn a_worse_model_guides() {
    let (good, worse) = (model(2, 4), model(2, 5));
    let some = options(2, 2);
    let alone = draw(&good, &SampleOptions { guidance: GuidanceOptions::default(), ..some.clone() });
    // A model that is as good moves nothing.
    let (by_itself, ..) = draw_with(&good, Some(&good), &some).unwrap();
    assert!(furthest(&alone, &by_itself) < 1e-4);
    let (guided, cost, _) = draw_with(&good, Some(&worse), &some).unwrap();
    assert!(furthest(&alone, &guided) > 1e-2);
    assert_eq!(cost.worse_evaluations_per_stage, cost.evaluations_per_stage);
    assert_eq!(cost.evaluations_per_stage.iter().sum::<u64>(), 12);
}

#[test]
fn one_batch_of_twice_the_size_or_one_after_the_other() {
    use super::{cost::Counts, networks::denoiser_at_once};
    let model = model(2, 6);
    let options = options(3, 3);
    let job = Sampling { model: &model, worse: None, options: &options, progress: &NoProgress, interrupt: &Interrupt::new() };
    let counts = Counts::new(&model, None);
    let x = Key::new(0, "x").normal_tensor((3, 2, 8, 8), &Device::Cpu).unwrap();
    let [together, apart] = [true, false].map(|at_once| {
        let denoiser = denoiser_at_once(&job, 0..3, &counts, at_once).unwrap();
        denoiser.denoise(&x, 1.0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    });
    assert!(furthest(&together, &apart) < 1e-5);
}

#[test]
fn guidance_widens_the_batch_and_adds_no_pass() {
    let model = model(2, 6);
    let guided = options(5, 5);
    let plain = SampleOptions { guidance: GuidanceOptions::default(), ..guided.clone() };
    let cost = |options: &SampleOptions| draw_with(&model, None, options).unwrap().1;
    let (guided, plain) = (cost(&guided), cost(&plain));
    let all = |cost: &SampleCost| cost.evaluations_per_stage.iter().sum::<u64>();
    assert_eq!([guided.passes, plain.passes], [6, 6], "one forward pass for each of six steps");
    assert_eq!([all(&guided), all(&plain)], [60, 30]);
}

/// A model that is shown pictures half as large as its samples.
fn enlarging(dropout: f64, max_noise: f64) -> Model {
    let image = ImageInput { condition: ImageCondition::LowRes { factor: 2, max_noise }, shape: [3, 4, 4], dropout };
    let unet = UNetConfig { in_channels: 2 + image.channels(), ..config(2).unet };
    fill(Model::new(&ModelConfig { unet, image: Some(image), ..config(2) }, 1, &Device::Cpu).unwrap(), 1)
}

#[test]
fn what_is_shown_decides_and_stays_in_both_halves_of_guidance() {
    let model = enlarging(0.1, 0.5);
    let images = Key::new(5, "images").normal_tensor((2, 3, 4, 4), &Device::Cpu).unwrap();
    let with = |of: [u32; 2], noise: f64| ShownImages { images: images.clone(), of: of.to_vec(), noise };
    let plain = SampleOptions { guidance: GuidanceOptions::default(), ..options(2, 2) };
    let shown = |images: ShownImages| draw(&model, &SampleOptions { images: Some(images), ..plain.clone() });
    let (same, other) = (shown(with([0, 1], 0.0)), shown(with([1, 1], 0.0)));
    assert_eq!(same[128..], other[128..], "the second sample is shown the same");
    assert!(furthest(&same[..128], &other[..128]) > 1e-3);
    assert!(furthest(&same, &shown(with([0, 1], 0.3))) > 1e-3, "noise acts");
    assert!(furthest(&same, &draw(&model, &plain)) > 1e-3, "nothing is shown");

    // Guidance towards a class keeps the image, guidance towards the image alone moves away from none.
    let guided = |labels: Vec<Option<u32>>| {
        let options = SampleOptions { labels, images: Some(with([0, 1], 0.0)), ..options(2, 2) };
        draw_with(&model, None, &options).unwrap().0
    };
    assert!(furthest(&guided(vec![Some(1); 2]), &guided(vec![None; 2])) > 1e-3);
    assert!(furthest(&guided(vec![None; 2]), &shown(with([0, 1], 0.0))) > 1e-3, "unlabelled, but guided");
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let images = Tensor::zeros((1, 3, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let with = |images: Tensor, noise: f64| Some(ShownImages { images, of: vec![0; 2], noise });
    let refused = |model: &Model, images: Option<ShownImages>| {
        let options = SampleOptions { images, ..options(2, 2) };
        draw_with(model, None, &options).unwrap_err().to_string()
    };
    let must = enlarging(0.0, 0.5);
    assert!(refused(&must, None).contains("must be shown a picture 2 times smaller"));
    assert!(refused(&must, with(images.clone(), 0.6)).contains("expected 0 to 0.5, as in training, got 0.6"));
    assert!(refused(&must, with(images.narrow(2, 0, 2).unwrap(), 0.0)).contains("expected images of [3, 4, 4]"));
    assert!(refused(&model(2, 1), with(images, 0.0)).contains("trained without"));
}

#[test]
fn a_start_is_kept_by_its_mask_and_left_by_its_strength() {
    let model = model(2, 7);
    let x0 = Key::new(1, "x0").normal_tensor((2, 8, 8), &Device::Cpu).unwrap();
    let known = x0.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let plain = SampleOptions { guidance: GuidanceOptions::default(), ..options(2, 2) };
    let with = |strength: f64, mask: Option<Tensor>| {
        let start = Some(Start { x0: x0.clone(), strength, mask });
        draw(&model, &SampleOptions { start, ..plain.clone() })
    };
    let mask: Vec<f32> = (0..64).map(|i| if i % 8 < 4 { 1.0 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (1, 8, 8), &Device::Cpu).unwrap();
    for sample in with(1.0, Some(mask)).chunks_exact(128) {
        let columns = |kept: bool| (0..128).filter(move |i| (i % 8 < 4) == kept);
        assert!(columns(true).all(|i| sample[i] == known[i]), "what is known is kept");
        assert!(columns(false).any(|i| (sample[i] - known[i]).abs() > 0.1), "the rest is drawn");
    }
    assert_eq!(with(1.0, None), draw(&model, &plain), "from noise alone");
    let levels = |strength: f64| {
        let start = Some(Start { x0: x0.clone(), strength, mask: None });
        SampleOptions { start, ..plain.clone() }.sigmas(&model).unwrap()
    };
    let all = plain.sigmas(&model).unwrap();
    assert_eq!(all.len(), 7);
    assert_eq!([levels(0.17), levels(0.5), levels(1.0)], [&all[5..], &all[3..], &all[..]], "the last of the levels");
    let mean_change = |x: Vec<f32>| x.iter().zip(known.iter().cycle()).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
    let changes = [0.17, 0.5, 1.0].map(|strength| mean_change(with(strength, None)));
    assert!(changes[0] < changes[1] && changes[1] < changes[2], "{changes:?}");
}

#[test]
fn a_learned_variance_comes_from_the_second_half_of_the_channels() {
    let model = model(4, 8);
    let learned = SampleOptions { sampler: "ddpm-learned".parse().unwrap(), ..options(3, 3) };
    let fixed = SampleOptions { sampler: "ddpm".parse().unwrap(), ..options(3, 3) };
    assert!(furthest(&draw(&model, &learned), &draw(&model, &fixed)) > 1e-3);
    let one_half = self::model(2, 8);
    assert!(draw_with(&one_half, None, &learned).unwrap_err().to_string().contains("did not learn one"));
}

#[test]
fn a_broken_weight_stops_with_step_and_sigma() {
    let model = model(2, 9);
    // Only the decoder nearest the data is broken: the noisier steps pass.
    let of_stage_1 = model.store().parameters().into_iter().find(|p| p.name().contains("decoders.0")).unwrap();
    let nan = Tensor::full(f32::NAN, of_stage_1.var().shape(), &Device::Cpu).unwrap();
    of_stage_1.var().set(&nan).unwrap();
    let some = options(2, 2);
    let sigmas = some.sigmas(&model).unwrap();
    let step = sigmas.iter().position(|s| stage_of(&BOUNDARIES, *s) == 0).unwrap();
    let message = draw_with(&model, None, &some).unwrap_err().to_string();
    let place = format!("step {step}, sigma {:.6}", sigmas[step]);
    assert!(step > 0 && message.contains(&place), "{message}, expected {place}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let model = model(2, 1);
    let start = Start { x0: Tensor::zeros((1, 8, 8), DType::F32, &Device::Cpu).unwrap(), strength: 1.5, mask: None };
    let mut wrong = SampleOptions { steps: 0, batch: 0, start: Some(start), sigma_max: Some(-1.0), ..options(2, 1) };
    wrong.labels = vec![None];
    wrong.guidance = GuidanceOptions { rescale: 2.0, interval: Some((3.0, 1.0)), ..wrong.guidance };
    let message = draw_with(&model, None, &wrong).unwrap_err().to_string();
    let parts =
        ["`steps`", "`batch`", "`labels`", "`sigma_min, sigma_max`", "`guidance rescale`", "interval`", "`start`", "`strength`"];
    for part in parts.into_iter().chain(["guidance 2 needs a condition"]) {
        assert!(message.contains(part), "{part} in {message}");
    }
    let fewer = Model::new(&ModelConfig { classes: 0, ..config(2) }, 0, &Device::Cpu).unwrap();
    let some = options(2, 2);
    assert!(draw_with(&model, Some(&fewer), &some).unwrap_err().to_string().contains("expected samples of"));
    assert!(draw_with(&fewer, None, &some).unwrap_err().to_string().contains("the model is unconditional"));
}
