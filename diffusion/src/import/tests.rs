//! Checkpoints as the published programs write them, made from a network of ours.
#![allow(clippy::unwrap_used)]

use strata_nn::{params::ParamStore, random::Key, weights};

use super::*;
use crate::unet::{UNet, UNetConfig};

const LDM_UNET: &str = "in_channels = 3\nout_channels = 3\nwidth = 32\nmultipliers = [1, 2]\nblocks = 1\nattention = [1]\nsize = 8\n\
    heads = { count = 4 }\ndecoders = [{ width = 64, attention = [1] }, { width = 32 }]";
const LDM_CLASSES: &str = "in_channels = 3\nout_channels = 3\nwidth = 32\nmultipliers = [1, 2]\nblocks = 1\nattention = [1]\nsize = 8\n\
    heads = { count = 1 }\ntransformer = { depth = 1, context_width = 8 }\ndecoders = [{ width = 32, attention = [1] }]";
const SONG: &str = "family = \"song\"\nwidth = 16\nmultipliers = [1, 2]\nblocks = 1\nattention = [1]\nsize = 16\ngroups = 16\n\
    heads = { count = 1 }\nrescale = true\nresample = \"block\"\ndecoders = [{ width = 32, attention = [1] }, { width = 16 }]";
const SCORE: &str = "family = \"ncsnpp\"\nwidth = 16\nmultipliers = [1, 2]\nblocks = 1\nattention = [1]\nsize = 16\ngroups = 16\n\
    heads = { count = 1 }\nrescale = true\nresample = \"block\"\nfilter = [1.0, 3.0, 3.0, 1.0]\ninput_pyramid = \"residual\"\n\
    decoders = [{ width = 32, attention = [1] }, { width = 16 }]";

type Tensors = Vec<(String, Tensor)>;

/// A network of ours with random weights, and the same under published names.
fn published(unet: &str, seed: u64) -> (DiffusionTraining, UNet, Tensors) {
    let unet: UNetConfig = toml::from_str(unet).unwrap();
    let boundaries = if unet.decoders.len() > 1 { vec![2.0] } else { Vec::new() };
    let store = ParamStore::new(0, &Device::Cpu);
    let network = UNet::new(&unet, &store.root()).unwrap();
    for p in store.parameters() {
        let fill = Key::new(seed, p.name()).normal_tensor(p.var().shape().clone(), &Device::Cpu).unwrap();
        p.var().set(&(fill * 0.1).unwrap()).unwrap();
    }
    let keys = KeyMap::published(&unet).unwrap();
    let tensors = [keys.export(&store.tensors()).unwrap(), keys.unused()].concat();
    (DiffusionTraining { unet, boundaries, ..DiffusionTraining::default() }, network, tensors)
}

fn renamed(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(n, t)| (name(n), t.clone())).collect()
}

fn imported(tensors: &Tensors, config: &DiffusionTraining) -> Result<Model> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("published.safetensors");
    weights::save(&path, tensors, &BTreeMap::new()).unwrap();
    import(&Checkpoint::open(&path)?, config, LatentScaling::pixels(), &Device::Cpu)
}

fn parameters(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
    model.store().tensors().into_iter().map(|(name, t)| (name, values(t))).collect()
}

/// The averages come from one network, the weights they are the averages of from another.
#[test]
fn averages_are_taken_and_all_names_are_understood() {
    let ldm = |n: &str| n.to_string();
    let ldm_average = |n: &str| format!("model_ema.{}", n.strip_prefix("model.").unwrap().replace('.', ""));
    let score = |n: &str| format!("model.{n}");
    let ema = |n: &str| format!("ema.{n}");
    type Rename<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(&str, Rename<'_>, Rename<'_>); 3] = [(LDM_UNET, &ldm, &ldm_average), (SONG, &ldm, &ema), (SCORE, &score, &ema)];
    for (unet, plain, average) in cases {
        let (config, network, averages) = published(unet, 1);
        let (_, _, raw) = published(unet, 2);
        let file = [renamed(&raw, plain), renamed(&averages, average)].concat();
        let model = imported(&file, &config).unwrap();
        let x = Key::new(0, "x").normal_tensor((2, 3, 16, 16), &Device::Cpu).unwrap();
        let ours = model.network(&x, &[0.5, 9.0], &model.condition(&[None, None], &[]).unwrap(), None).unwrap();
        let c_in = |s: f64| model.preconditioning(s).c_in as f32;
        let scaled = x.broadcast_mul(&Tensor::new(&[c_in(0.5), c_in(9.0)], &Device::Cpu).unwrap().reshape((2, 1, 1, 1)).unwrap());
        let noise = [0.5, 9.0].map(|s| model.preconditioning(s).c_noise as f32);
        let expected = network.forward(&scaled.unwrap(), &noise, &[0, 1], &Default::default(), None).unwrap();
        let difference = (ours - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(difference, 0.0, "{unet}");
        assert!(expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3, "{unet}");
        // Without averages the weights themselves are taken.
        assert_ne!(parameters(&imported(&renamed(&raw, plain), &config).unwrap()), parameters(&model), "{unet}");
    }
}

#[test]
fn a_bare_network_and_a_table_of_classes() {
    let (config, _, tensors) = published(LDM_CLASSES, 1);
    let bare = renamed(&tensors, |n| n.strip_prefix(LDM).unwrap().to_string());
    assert!(imported(&bare, &config).is_err(), "cross attention without a table of classes");
    let table = Key::new(0, "table").normal_tensor((6, 8), &Device::Cpu).unwrap();
    let with_table = [bare, vec![(CLASSES.to_string(), table.clone())]].concat();
    let model = imported(&with_table, &config).unwrap();
    assert_eq!(model.config().classes, 5);
    let rows = table.to_vec2::<f32>().unwrap();
    let told = model.condition(&[Some(2), None], &[]).unwrap().context.unwrap().squeeze(1).unwrap();
    assert_eq!(told.to_vec2::<f32>().unwrap(), [rows[2].clone(), rows[5].clone()]);
}

#[test]
fn what_does_not_fit_is_named() {
    let (config, _, mut tensors) = published(LDM_UNET, 1);
    let (missing, _) = tensors.remove(3);
    tensors.push((
        format!("{LDM}de_modules.0.9.0.in_layers.0.weight"),
        Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap(),
    ));
    let text = imported(&tensors, &config).unwrap_err().to_string();
    assert!(
        text.contains(&format!("missing `{missing}`")) && text.contains("unexpected `model.diffusion_model.de_modules.0.9."),
        "{text}"
    );
    let text = imported(&renamed(&tensors, |n| format!("other.{n}")), &config).unwrap_err().to_string();
    assert!(text.contains("is the preset the right one"), "{text}");
}

#[test]
fn an_edm_snapshot_tells_what_it_is() {
    use serde_json::json;
    let told = [
        ("ema.class_name", json!("EDMPrecond")),
        ("ema._init_kwargs.img_resolution", json!(32)),
        ("ema._init_kwargs.img_channels", json!(3)),
        ("ema._init_kwargs.label_dim", json!(10)),
        ("ema._init_kwargs.sigma_max", json!("inf")),
        ("ema.model.class_name", json!("SongUNet")),
        ("ema.model._init_kwargs.in_channels", json!(3)),
        ("ema.model._init_kwargs.channel_mult", json!([2, 2, 2])),
        ("ema.model._init_kwargs.augment_dim", json!(9)),
    ];
    let metadata = told.map(|(key, value)| (key.to_string(), value)).into();
    let unet = EdmUNetConfig::of_snapshot(&metadata).unwrap().translate().unwrap();
    assert_eq!((unet.family, unet.size, unet.classes, unet.augment), (Family::Song, Some(32), Some(10), Some(9)));
    assert_eq!((unet.width, unet.multipliers, unet.blocks, unet.attention), (128, vec![2, 2, 2], 4, vec![1]));
    EdmUNetConfig::of_snapshot(&BTreeMap::new()).unwrap_err();
}
