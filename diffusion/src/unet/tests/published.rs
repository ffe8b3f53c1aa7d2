//! Published configurations and checkpoints.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::{Built, build, largest_difference, message, normal};
use crate::{
    Error, Result,
    unet::{
        DecoderConfig, DiffusersUNet, EdmUNetConfig, Heads, KeyMap, LdmUNetConfig, ScoreSdeConfig, UNetConfig,
        diffusers_config_json, diffusers_keys,
    },
};

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Config(e.to_string()))
}

const LDM: &str = r#"{"in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1,
    "attention_resolutions": [1, 2], "channel_mult": [1, 2], "num_heads": 4, "stage_num": 3, "de_nfs": [64, 32, 32],
    "stage_interval": [442, 631, 1000]}"#;

const SONG: &str = r#"{"precond": "EDMPrecond", "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3,
    "label_dim": 3, "augment_dim": 2, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
    "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual", "decoder_type": "skip",
    "resample_filter": [1, 3, 3, 1]}"#;

const ADM: &str = r#"{"precond": "iDDPMPrecond", "model_type": "DhariwalUNet", "img_resolution": 16, "img_channels": 3,
    "label_dim": 3, "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}"#;

const STAGES: &str = r#"{"precond": "EDMPrecond", "num_groups": 16, "model_type": "MultistageUNet", "img_resolution": 16,
    "img_channels": 3, "en_model_channels": 16, "de_model_channels": [32, 16], "stage_num": 2, "channel_mult": [1, 2],
    "stage_interval": [[[0, 1.25]], [[1.25, null]]], "num_blocks": 1, "attn_resolutions": [8], "encoder_type": "skip"}"#;

const DIFFUSERS: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [16, 24], "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4, "num_class_embeds": 3, "flip_sin_to_cos": false, "freq_shift": 1, "downsample_padding": 0}"#;

const SCORE: &str = r#"{"model": {"en_nf": 16, "de_nfs": [32, 16], "stage_num": 2, "ch_mult": [1, 2], "num_res_blocks": 1,
    "stage_interval": [[[0, 0.442]], [[0.442, 1]]], "attn_resolutions": [8], "progressive_input": "residual",
    "progressive": "output_skip", "group": 16}, "data": {"image_size": 16, "centered": true}}"#;

/// The configuration of ours, the names, a prefix and a name that must be among them, of every published layout.
fn layouts() -> Result<Vec<(UNetConfig, KeyMap, &'static str)>> {
    let (ldm, score): (LdmUNetConfig, ScoreSdeConfig) = (read(LDM)?, read(SCORE)?);
    let [song, adm, stages]: [EdmUNetConfig; 3] = [read(SONG)?, read(ADM)?, read(STAGES)?];
    let diffusers = DiffusersUNet::from_json(&read(DIFFUSERS)?)?.translate()?;
    Ok(vec![
        (diffusers.clone(), diffusers_keys(&diffusers)?, "down_blocks.0.downsamplers.0.conv1.weight"),
        (
            ldm.translate()?,
            ldm.key_map()?.with_prefix("model.diffusion_model."),
            "model.diffusion_model.de_modules.1.0.1.qkv.weight",
        ),
        (song.translate()?, song.key_map()?, "model.enc.8x8_aux_residual.weight"),
        (adm.translate()?, adm.key_map()?, "model.dec.8x8_block1.qkv.weight"),
        (stages.translate()?, stages.key_map()?, "model.decs.1.16x16_up.conv0.weight"),
        (score.translate()?, score.key_map()?.with_prefix("module."), "module.de_modules.1.2.NIN_2.W"),
    ])
}

#[test]
fn published_checkpoints_go_in_and_out_unchanged() -> Result<()> {
    for (config, keys, expected) in layouts()? {
        let (from, to) = (build(&config)?, build(&config)?);
        for p in from.store.parameters() {
            p.var().set(&normal(p.name(), p.var().dims())?)?;
        }
        let mut exported = keys.export(&from.store.tensors())?;
        assert!(exported.iter().any(|(name, _)| name == expected), "{expected}");
        exported.extend(keys.unused());
        keys.load(&to.store, &exported.into_iter().collect(), "memory")?;
        for ((name, a), (_, b)) in from.store.tensors().iter().zip(to.store.tensors()) {
            assert_eq!(largest_difference(a, &b)?, 0.0, "{name}");
        }
    }
    Ok(())
}

#[test]
fn checkpoints_that_do_not_fit_list_every_key() -> Result<()> {
    for (config, keys, expected) in layouts()? {
        let Built { store, .. } = build(&config)?;
        let exported = keys.export(&store.tensors())?;
        let wrong = exported.iter().map(|(name, _)| name.clone()).find(|name| name != expected).unwrap_or_default();
        let mut tensors: HashMap<String, Tensor> = exported.into_iter().collect();
        tensors.remove(expected);
        tensors.insert("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu)?);
        tensors.insert(wrong.clone(), Tensor::zeros(7, DType::F32, &Device::Cpu)?);
        let text = message(keys.load(&store, &tensors, "model.ckpt"));
        let parts =
            [format!("missing `{expected}`"), "unexpected `extra`".into(), format!("`{wrong}`: expected ["), "got [7]".into()];
        for part in parts.iter().chain([&"model.ckpt".to_string()]) {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
    Ok(())
}

#[test]
fn the_published_counter_decides_where_later_decoders_attend() -> Result<()> {
    let placement = |ldm: &LdmUNetConfig| -> Result<Vec<Vec<usize>>> {
        Ok(ldm.translate()?.decoders.into_iter().map(|d| d.attention).collect())
    };
    let config: LdmUNetConfig = read(LDM)?;
    assert_eq!(placement(&config)?, [vec![0, 1], vec![1], vec![]]);
    let without_one = LdmUNetConfig { attention_resolutions: vec![2], ..config.clone() };
    assert_eq!(placement(&without_one)?, [vec![1], vec![], vec![]]);
    let one_level = LdmUNetConfig { channel_mult: vec![1], ..config };
    assert_eq!(placement(&one_level)?, [vec![0], vec![0], vec![0]]);
    Ok(())
}

#[test]
fn stages_follow_the_published_comparisons() -> Result<()> {
    let edm: EdmUNetConfig = read(STAGES)?;
    assert_eq!([0.1, 1.2, 1.3, 70.0].map(|sigma| edm.stage_of(sigma).ok()), [Some(0), Some(0), Some(1), Some(1)]);
    assert_eq!(edm.boundaries(), Some(vec![1.25]));
    // The published upper end is compared with ln(sigma) / 4, so that an interval further up is not found.
    let apart = vec![vec![(0.0, Some(1.0)), (4.0, None)], vec![(1.0, Some(4.0))]];
    let overlap = EdmUNetConfig { stage_interval: Some(apart), ..edm };
    assert_eq!(overlap.stage_of(6.0).ok(), Some(1));
    assert_eq!(overlap.boundaries(), None);
    let score: ScoreSdeConfig = read(SCORE)?;
    assert_eq!([1.0, 441.9, 442.1, 999.0].map(|label| score.stage_of(label).ok()), [Some(0), Some(0), Some(1), Some(1)]);
    assert!(message(score.stage_of(0.0)).contains("no stage has 0"));
    let bounds = score.boundaries().unwrap_or_default();
    assert!((bounds[0] - 2.510_267).abs() < 1e-5, "{bounds:?}");
    Ok(())
}

#[test]
fn published_configurations_that_cannot_be_built_say_why() -> Result<()> {
    let edm: EdmUNetConfig = read(STAGES)?;
    let text = message(EdmUNetConfig { stage_num: Some(3), ..edm.clone() }.translate());
    assert!(text.contains("`stage_num` 3, 2 widths in `de_model_channels` and 2 in `stage_interval`"), "{text}");
    let text = message(EdmUNetConfig { encoder_type: "dense".into(), ..edm.clone() }.translate());
    assert!(text.contains("`encoder_type`: expected one of standard, skip, residual, got `dense`"), "{text}");
    let text = message(EdmUNetConfig { resample_filter: vec![1.0, 2.0, 1.0], ..edm }.translate());
    assert!(text.contains("`filter`: expected an even number of taps"), "{text}");
    let mut score: ScoreSdeConfig = read(SCORE)?;
    (score.model.fir, score.model.resblock_type) = (false, "ddpm".into());
    let text = message(score.translate());
    for part in ["`resblock_type`: expected biggan, got `ddpm`", "`progressive_input` residual: expected `fir` true"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    Ok(())
}

#[test]
fn a_network_of_ours_is_written_for_diffusers_or_the_reasons_are_told() -> Result<()> {
    let decoder = |width| DecoderConfig { width, attention: vec![1], heads: None };
    let config = UNetConfig {
        width: 16,
        multipliers: vec![1, 2],
        attention: vec![1],
        heads: Heads::Width(8),
        groups: 4,
        decoders: vec![decoder(16)],
        ..UNetConfig::default()
    };
    let back = DiffusersUNet::from_json(&diffusers_config_json(&config)?)?.translate()?;
    // Another family, but the same network: the same tensors, under the same names.
    let (ours, theirs) = (build(&config)?, build(&back)?);
    let exported = |built: &Built, config| -> Result<Vec<(String, Vec<usize>)>> {
        let mut all: Vec<_> = diffusers_keys(config)?.export(&built.store.tensors())?;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all.into_iter().map(|(name, t)| (name, t.dims().to_vec())).collect())
    };
    assert_eq!(exported(&ours, &config)?, exported(&theirs, &back)?);
    let text = message(diffusers_config_json(&UNetConfig {
        heads: Heads::Count(2),
        attention: vec![0, 1],
        rescale: true,
        decoders: vec![decoder(8)],
        ..config.clone()
    }));
    for part in ["`decoders.0.width`", "`rescale`", "`heads`"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let several = UNetConfig { decoders: vec![decoder(16), decoder(16)], ..config };
    assert!(message(diffusers_config_json(&several)).contains("expected one, got 2"));
    Ok(())
}

#[test]
fn a_configuration_of_diffusers_that_has_no_counterpart_is_refused_with_all_reasons() -> Result<()> {
    let mut json: serde_json::Value = read(DIFFUSERS)?;
    json["class_embed_type"] = "timestep".into();
    json["time_embedding_type"] = "fourier".into();
    json["new_key"] = 1.into();
    let text = message(DiffusersUNet::from_json(&json).map(drop));
    for part in ["`class_embed_type`: expected null, got \"timestep\"", "`time_embedding_type`", "`new_key` is unknown"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let mut json: serde_json::Value = read(DIFFUSERS)?;
    // Null is not what an absent key is.
    let heads = |json: &serde_json::Value| Ok::<_, Error>(DiffusersUNet::from_json(json)?.translate()?.details.map(|d| d.heads));
    assert_eq!(heads(&json)?, Some(vec![2, 3]));
    json["attention_head_dim"] = serde_json::Value::Null;
    assert_eq!(heads(&json)?, Some(vec![1, 1]));
    json["mid_block_type"] = serde_json::Value::Null;
    assert!(message(heads(&json)).contains("`mid_block_type`"));
    let mut json: serde_json::Value = read(DIFFUSERS)?;
    json["layers_per_block"] = serde_json::json!(1u64 << 40);
    assert!(message(DiffusersUNet::from_json(&json)?.translate()).contains("`blocks`: expected at most"));
    Ok(())
}
