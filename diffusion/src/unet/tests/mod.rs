//! Guards of the whole network: gradients reach every parameter, routing changes nothing, wrong configurations say why.

mod families;
mod published;

use candle_core::{Device, Tensor, Var};
use strata_conditioning::Condition;
use strata_nn::{
    params::{ParamStore, Parameter},
    random::Key,
};

use super::*;

fn small() -> UNetConfig {
    let decoder = |width, attention: &[usize]| DecoderConfig { width, attention: attention.to_vec(), heads: None };
    UNetConfig {
        in_channels: 3,
        out_channels: 3,
        width: 16,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![1],
        heads: Heads::Count(2),
        groups: 4,
        zero_init: false,
        decoders: vec![decoder(16, &[1]), decoder(8, &[0, 1]), decoder(8, &[])],
        ..UNetConfig::default()
    }
}

fn variants() -> Vec<(&'static str, UNetConfig)> {
    let linear = TransformerConfig { depth: 1, context_width: 6 };
    let transformer = Some(TransformerConfig { depth: 2, context_width: 6 });
    vec![
        ("plain", small()),
        ("mean", UNetConfig { resample: Resample::Mean, ..small() }),
        ("blocks", UNetConfig { resample: Resample::Block, scale_shift: true, blocks: 2, ..small() }),
        ("transformer", UNetConfig { transformer, condition_width: Some(5), ..small() }),
        ("classes", UNetConfig { classes: Some(4), dropout: 0.2, multipliers: vec![2, 1, 3], ..small() }),
        ("codebook", UNetConfig { codebook: Some(7), heads: Heads::Width(8), ..small() }),
        ("song", UNetConfig { classes: Some(4), augment: Some(3), ..edm(Family::Song) }),
        (
            "song with pyramids",
            UNetConfig {
                waves: Waves::Fourier,
                wave_multiplier: 2,
                filter: vec![1.0, 3.0, 3.0, 1.0],
                input_pyramid: InputPyramid::Residual,
                output_pyramid: true,
                ..edm(Family::Song)
            },
        ),
        (
            "adm",
            UNetConfig {
                scale_shift: true,
                heads: Heads::AtLeast(16),
                multipliers: vec![2, 1],
                classes: Some(4),
                augment: Some(3),
                ..edm(Family::Adm)
            },
        ),
        (
            "ncsnpp",
            UNetConfig {
                filter: vec![1.0, 3.0, 3.0, 1.0],
                input_pyramid: InputPyramid::Skip,
                output_pyramid: true,
                ..edm(Family::Ncsnpp)
            },
        ),
        (
            "ncsnpp of an odd filter",
            UNetConfig { filter: vec![1.0, 2.0, 1.0], input_pyramid: InputPyramid::Residual, ..edm(Family::Ncsnpp) },
        ),
        ("diffusers", UNetConfig { classes: Some(4), scale_shift: true, ..diffusers() }),
        ("diffusers with transformers", UNetConfig { transformer: Some(linear), ..diffusers() }),
    ]
}

/// With every departure from a family's rules.
fn diffusers() -> UNetConfig {
    let details = Details {
        eps: 1e-6,
        wave_shift: 1.0,
        sines_first: true,
        pad_right_below: true,
        down: vec![Resample::Convolution, Resample::Block],
        up: vec![Resample::Block, Resample::Convolution],
        heads: vec![1, 2, 4],
        middle_norm: false,
        linear_projection: true,
        ..Details::default()
    };
    UNetConfig { family: Family::Diffusers, multipliers: vec![1, 2, 1], details: Some(details), ..small() }
}

fn edm(family: Family) -> UNetConfig {
    let rescale = family != Family::Adm;
    UNetConfig { family, rescale, resample: Resample::Block, heads: Heads::Count(1), ..small() }
}

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    Ok(Key::new(1, name).normal_tensor(shape, &Device::Cpu)?)
}

struct Built {
    store: ParamStore,
    unet: UNet,
}

fn build(config: &UNetConfig) -> Result<Built> {
    let store = ParamStore::new(3, &Device::Cpu);
    let unet = UNet::new(config, &store.root())?;
    Ok(Built { store, unet })
}

fn condition(unet: &UNet, batch: usize) -> Result<Condition> {
    let config = unet.config();
    let vector = match (config.classes, config.condition_width) {
        (Some(n), _) => Some(unet.embed_classes(&(0..batch).map(|i| Some((i % n) as u32)).collect::<Vec<_>>())?),
        (None, Some(width)) => Some(normal("vector", &[batch, width])?),
        (None, None) => None,
    };
    let context = config.transformer.as_ref().map(|t| normal("context", &[batch, 3, t.context_width])).transpose()?;
    let augment = config.augment.map(|n| normal("augment", &[batch, n])).transpose()?;
    Ok(Condition { vector, context, augment, ..Condition::none() })
}

const SIZE: [usize; 2] = [8, 12];
const C_NOISE: [f32; 5] = [3.0, 411.5, 800.0, 77.0, 999.0];
const STAGES: [usize; 5] = [2, 0, 1, 0, 2];

fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?)
}

#[test]
fn every_parameter_gets_a_gradient_from_a_mixed_batch() -> Result<()> {
    for (name, config) in variants() {
        let Built { store, unet } = build(&config)?;
        let x = normal("x", &[5, 3, SIZE[0], SIZE[1]])?;
        let y = unet.forward(&x, &C_NOISE, &STAGES, &condition(&unet, 5)?, Some(Key::new(0, "dropout")))?;
        let grads = (y.clone() * normal("weights", y.dims())?)?.sum_all()?.backward()?;
        for p in store.trainable() {
            let grad = grads.get(p.var()).map(|g| g.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()).transpose()?;
            assert!(grad.is_some_and(|g| g > 0.0 && g.is_finite()), "{name}: {} got {grad:?}", p.name());
        }
    }
    Ok(())
}

#[test]
fn checkpointed_activations_change_no_bit() -> Result<()> {
    for (name, config) in variants() {
        let Built { store, mut unet } = build(&config)?;
        let mut run = |recompute: bool| -> Result<Vec<Vec<f32>>> {
            unet.checkpoint_activations(recompute);
            let x = Var::from_tensor(&normal("x", &[5, 3, SIZE[0], SIZE[1]])?)?;
            let train = Some(Key::new(0, "dropout"));
            let y = unet.forward(x.as_tensor(), &C_NOISE, &STAGES, &condition(&unet, 5)?, train)?;
            let grads = (y.clone() * normal("weights", y.dims())?)?.sum_all()?.backward()?;
            let inner = y.sorted_nodes().len();
            let missing = || Error::Config("no gradient".into());
            let mut all = vec![vec![inner as f32], y.flatten_all()?.to_vec1()?];
            for var in std::iter::once(&x).chain(store.trainable().iter().map(Parameter::var)) {
                all.push(grads.get(var).ok_or_else(missing)?.flatten_all()?.to_vec1()?);
            }
            Ok(all)
        };
        let (plain, recomputed) = (run(false)?, run(true)?);
        assert_ne!(plain[0], recomputed[0], "{name}: the same graph");
        assert_eq!(plain.len(), recomputed.len(), "{name}");
        for (i, (a, b)) in plain.iter().zip(&recomputed).enumerate().skip(1) {
            assert!(a.iter().zip(b).all(|(a, b)| a == b), "{name}: result {i} (1: y, 2: x, 3..: parameters) differs");
        }
    }
    Ok(())
}

#[test]
fn decoders_that_no_sample_took_get_no_gradient() -> Result<()> {
    let Built { store, unet } = build(&small())?;
    let x = normal("x", &[2, 3, 8, 8])?;
    let grads = unet.forward(&x, &[1.0, 2.0], &[1, 1], &Condition::none(), None)?.sqr()?.sum_all()?.backward()?;
    for p in store.trainable() {
        let idle = p.name().starts_with("decoders.0") || p.name().starts_with("decoders.2");
        assert_eq!(grads.get(p.var()).is_none(), idle, "{}", p.name());
    }
    Ok(())
}

#[test]
fn rows_of_a_mixed_batch_are_what_they_are_alone() -> Result<()> {
    for (name, config) in variants() {
        let Built { unet, .. } = build(&UNetConfig { dropout: 0.0, ..config })?;
        let x = normal("x", &[5, 3, SIZE[0], SIZE[1]])?;
        let cond = condition(&unet, 5)?;
        let all = Var::from_tensor(&x)?;
        let y = unet.forward(all.as_tensor(), &C_NOISE, &STAGES, &cond, None)?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        let grad = grads.get(&all).cloned().ok_or_else(|| Error::Config("x has no gradient".into()))?;
        for row in 0..5 {
            let one = Var::from_tensor(&x.narrow(0, row, 1)?)?;
            let cond = cond.index_select(&Tensor::new(&[row as u32], &Device::Cpu)?).map_err(|e| Error::Config(e.to_string()))?;
            let alone = unet.forward(one.as_tensor(), &C_NOISE[row..=row], &STAGES[row..=row], &cond, None)?;
            let grads = alone.sqr()?.sum_all()?.backward()?;
            assert!(largest_difference(&alone, &y.narrow(0, row, 1)?)? < 2e-5, "{name}: row {row}");
            let alone = grads.get(&one).cloned().ok_or_else(|| Error::Config("x has no gradient".into()))?;
            assert!(largest_difference(&alone, &grad.narrow(0, row, 1)?)? < 1e-4, "{name}: gradient of row {row}");
        }
    }
    Ok(())
}

#[test]
fn a_fresh_network_answers_zero_and_the_seed_decides_the_rest() -> Result<()> {
    let Built { unet, .. } = build(&UNetConfig { zero_init: true, ..small() })?;
    let y = unet.forward(&normal("x", &[1, 3, 4, 6])?, &[5.0], &[0], &Condition::none(), None)?;
    assert_eq!(y.abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn dropout_acts_in_training_alone_and_follows_its_key() -> Result<()> {
    let Built { unet, .. } = build(&UNetConfig { dropout: 0.5, ..small() })?;
    let x = normal("x", &[1, 3, 8, 8])?;
    let run = |train: Option<Key>| unet.forward(&x, &[5.0], &[0], &Condition::none(), train);
    let key = Key::new(0, "dropout");
    let (a, b, c, off) = (run(Some(key))?, run(Some(key))?, run(Some(key.step(1)))?, run(None)?);
    assert_eq!(largest_difference(&a, &b)?, 0.0);
    assert!(largest_difference(&a, &c)? > 1e-3 && largest_difference(&a, &off)? > 1e-3);
    Ok(())
}

#[test]
fn concat_joins_the_input() -> Result<()> {
    let Built { unet, .. } = build(&UNetConfig { in_channels: 5, ..small() })?;
    let (x, extra) = (normal("x", &[1, 3, 8, 8])?, normal("extra", &[1, 2, 8, 8])?);
    let joined = unet.forward(&Tensor::cat(&[&x, &extra], 1)?, &[5.0], &[0], &Condition::none(), None)?;
    let cond = Condition { concat: Some(extra), ..Condition::none() };
    assert_eq!(largest_difference(&unet.forward(&x, &[5.0], &[0], &cond, None)?, &joined)?, 0.0);
    Ok(())
}

#[test]
fn the_cost_table_counts_the_parameters_that_are_built() -> Result<()> {
    for (name, config) in variants() {
        let Built { store, .. } = build(&config)?;
        let costs = costs(&config, CostInput { height: 8, width: 12, context_tokens: 3 })?;
        let built: usize = store.trainable().iter().map(|p| p.var().elem_count()).sum();
        assert_eq!(costs.parameters(), built as u64, "{name}");
        let decoder0: usize =
            store.parameters().iter().filter(|p| p.name().starts_with("decoders.0.")).map(|p| p.var().elem_count()).sum();
        assert_eq!(costs.decoders[0].parameters, decoder0 as u64, "{name}");
    }
    Ok(())
}

#[test]
fn parameter_names_are_api() -> Result<()> {
    let Built { store, .. } = build(&small())?;
    let modules: std::collections::BTreeSet<String> =
        store.parameters().iter().filter_map(|p| p.name().rsplit_once('.').map(|(module, _)| module.to_string())).collect();
    for expected in [
        "time_embedding.linear1",
        "encoder.conv_in",
        "encoder.block1.conv1",
        "encoder.block1.attention.qkv",
        "encoder.down1.conv",
        "middle.block0.attention.out",
        "middle.block1.norm2",
        "decoders.0.block0.skip",
        "decoders.0.block0.attention.qkv",
        "decoders.1.up0.conv",
        "decoders.2.norm_out",
        "decoders.2.conv_out",
    ] {
        assert!(modules.contains(expected), "{expected} is not among {modules:?}");
    }
    Ok(())
}

fn message<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn configurations_that_cannot_be_built_say_every_value_and_reason() {
    let bad = UNetConfig { width: 17, blocks: 0, attention: vec![2], dropout: 1.0, ..small() };
    let text = message(bad.validate());
    for part in ["`width`: expected an even number", "got 17", "`blocks`", "`attention`: expected levels 0 to 1", "`dropout`"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let text = message(UNetConfig { groups: 5, ..small() }.validate());
    assert!(text.contains("encoder.block0: 16 channels cannot be divided into 5 groups"), "{text}");
    let text = message(UNetConfig { heads: Heads::Width(5), ..small() }.validate());
    assert!(text.contains("middle.block0: 32 channels cannot be divided into heads (Width(5))"), "{text}");
    let text = message(small().check_size(8, 13));
    assert!(text.contains("width 13") && text.contains("multiple of 2"), "{text}");
    let text = message(small().check_stages(4));
    assert!(text.contains("4 stages need 4 decoders") && text.contains("[16, 8, 8]"), "{text}");
    assert!(message(UNetConfig::preset("nothing")).contains("celebahq256-ldm-multistage"));
    let text = toml::from_str::<UNetConfig>("width = 16\nwidht = 3").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("widht"), "{text}");
}

#[test]
fn inputs_that_do_not_fit_are_refused() -> Result<()> {
    let Built { unet, .. } = build(&UNetConfig { classes: Some(3), ..small() })?;
    let x = normal("x", &[1, 3, 8, 8])?;
    let none = Condition::none();
    let cond = Condition { vector: Some(unet.embed_classes(&[Some(2)])?), ..Condition::none() };
    assert!(message(unet.forward(&x, &[1.0], &[3], &cond, None)).contains("decoder 3"));
    assert!(message(unet.forward(&x, &[1.0], &[], &cond, None)).contains("0 stages"));
    assert!(message(unet.forward(&x, &[1.0], &[0], &none, None)).contains("`Condition::vector` is missing"));
    assert!(message(unet.forward(&x.narrow(1, 0, 2)?, &[1.0], &[0], &cond, None)).contains("expected 3 channels, got 2"));
    assert!(message(unet.embed_classes(&[Some(3)])).contains("class 3"));
    let narrow = Condition { vector: Some(normal("v", &[1, 5])?), ..Condition::none() };
    assert!(message(unet.forward(&x, &[1.0], &[0], &narrow, None)).contains("expected [1, 64], got [1, 5]"));
    let two = Condition { vector: Some(normal("v", &[2, 64])?), ..Condition::none() };
    assert!(message(unet.forward(&x, &[1.0], &[0], &two, None)).contains("`Condition::vector`: expected 1 rows, got [2, 64]"));
    let context = Condition { context: Some(normal("c", &[1, 2, 5])?), ..cond };
    assert!(message(unet.forward(&x, &[1.0], &[0], &context, None)).contains("no cross attention"));
    Ok(())
}
