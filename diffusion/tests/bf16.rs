//! The U-Net with bfloat16 activations, in a process of its own: the type is a setting of the whole program.
#![allow(clippy::panic)]

use candle_core::{DType, Device, Tensor};
use strata_conditioning::Condition;
use strata_diffusion::{
    Result,
    unet::{DecoderConfig, Heads, TransformerConfig, UNet, UNetConfig},
};
use strata_nn::{params::ParamStore, precision, random::Key};

fn configs() -> Vec<UNetConfig> {
    let decoder = |width| DecoderConfig { width, attention: vec![1], heads: None };
    let plain = UNetConfig {
        in_channels: 4,
        out_channels: 4,
        width: 16,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![1],
        groups: 8,
        zero_init: false,
        dropout: 0.1,
        decoders: vec![decoder(32), decoder(16)],
        heads: Heads::Count(2),
        ..UNetConfig::default()
    };
    let transformer = Some(TransformerConfig { depth: 1, context_width: 6 });
    vec![
        UNetConfig { scale_shift: true, ..plain.clone() },
        UNetConfig { transformer, condition_width: Some(5), ..plain.clone() },
        UNetConfig { classes: Some(3), ..plain },
    ]
}

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    Ok(Key::new(1, name).normal_tensor(shape, &Device::Cpu)?)
}

fn condition(unet: &UNet) -> Result<Condition> {
    let config = unet.config();
    Ok(Condition {
        vector: match (config.classes, config.condition_width) {
            (Some(_), _) => Some(unet.embed_classes(&[Some(0), Some(1), Some(2)])?),
            (None, Some(width)) => Some(normal("vector", &[3, width])?),
            (None, None) => None,
        },
        context: config.transformer.as_ref().map(|t| normal("context", &[3, 4, t.context_width])).transpose()?,
        ..Condition::none()
    })
}

#[test]
fn answers_are_close_and_gradients_are_float32() -> Result<()> {
    let x = normal("x", &[3, 4, 8, 8])?;
    for config in configs() {
        let store = ParamStore::new(3, &Device::Cpu);
        let unet = UNet::new(&config, &store.root())?;
        let run = || unet.forward(&x, &[10.0, 400.0, 900.0], &[0, 1, 0], &condition(&unet)?, None);
        precision::set_activations(DType::F32)?;
        let exact = run()?;
        precision::set_activations(DType::BF16)?;
        let rounded = run()?;
        assert_eq!(rounded.dtype(), DType::F32);
        let size = |t: Tensor| -> Result<f32> { Ok(t.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?) };
        let (difference, whole) = (size((&rounded - &exact)?)?, size(exact)?);
        assert!(difference > 1e-5 * whole, "nothing was rounded: {difference} of {whole}");
        assert!(difference < 0.05 * whole, "{difference} of {whole}");
        let train = Some(Key::new(0, "dropout"));
        let y = unet.forward(&x, &[10.0, 400.0, 900.0], &[0, 1, 0], &condition(&unet)?, train)?;
        let gradients = y.sqr()?.sum_all()?.backward()?;
        for p in store.trainable() {
            let Some(g) = gradients.get(p.var()) else { panic!("{} has no gradient", p.name()) };
            assert_eq!(g.dtype(), DType::F32, "{}", p.name());
            let sum = size(g.clone())?;
            assert!(sum > 0.0 && sum.is_finite(), "{}: {sum}", p.name());
        }
    }
    precision::set_activations(DType::F32)?;
    Ok(())
}
