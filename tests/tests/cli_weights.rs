//! Weight files of other programs: looked at and converted by the binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::{contents, refusal, strata};
use strata_nn::checkpoint::Checkpoint;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints").join(file)
}

fn output(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cli_inspect_shows_what_a_foreign_file_is() {
    let folder = tempfile::tempdir().unwrap();
    for (file, parts) in [
        ("lightning_ldm_ckpt/model.ckpt", ["latent diffusion model", "global_step: 1234", "averaged weights: 22 parameters"]),
        (
            "edm_snapshot_pkl/network-snapshot-000100.pkl",
            ["EDM", "ema._init_kwargs.model_type: SongUNet", "16x16_conv  (2 tensors"],
        ),
        ("score_sde_pth/checkpoint_8.pth", ["score-SDE", "ema.decay: 0.9999", "54 tensors"]),
        ("safetensors_sharded/model.safetensors.index.json", ["sharded", "unknown network", "layer0.weight  F32 [16, 20]"]),
        ("diffusers_pipeline_tiny/repo", ["UNet2DConditionModel", "AutoencoderKL", "quant_conv"]),
    ] {
        let text = output(strata(folder.path()).arg("inspect").arg(golden(file)));
        for part in parts {
            assert!(text.contains(part), "{file}: no `{part}` in\n{text}");
        }
    }
    let json = output(strata(folder.path()).arg("inspect").arg(golden("real_lpips_alex/alex.pth")).args(["--json", "--norms"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tensors"][0]["name"], "lin0.model.1.weight");
    assert!(json["tensors"][0]["norm"].as_f64().unwrap() > 0.0);
}

#[test]
fn cli_refuses_a_file_that_would_run_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = golden("evil_reduce_os_system_zip/w.pt");
    for command in [["inspect"].as_slice(), &["convert", "--plain"]] {
        let mut run = strata(folder.path());
        run.args(command).arg(&file);
        if command[0] == "convert" {
            run.arg("out.safetensors");
        }
        let stderr = refusal(&mut run);
        assert!(stderr.contains("posix.system") && stderr.contains("w.pt"), "{stderr}");
    }
    assert!(contents(folder.path()).is_empty());
}

#[test]
fn cli_convert_changes_the_container_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let file = golden("torch_zip_dtypes_views/weights.pt");
    output(strata(folder.path()).arg("convert").arg(&file).arg("out.safetensors"));
    let (before, after) = (Checkpoint::open(&file).unwrap(), Checkpoint::open(&out).unwrap());
    assert_eq!(before.tensors().len(), after.tensors().len());
    for (a, b) in before.tensors().iter().zip(after.tensors()) {
        assert_eq!((a.name(), a.dtype(), a.shape(), a.read()), (b.name(), b.dtype(), b.shape(), b.read()));
    }
    assert_eq!(after.metadata()["__metadata__.source"], "weights.pt");
    let stderr = refusal(strata(folder.path()).arg("convert").arg(&file).arg("out.safetensors"));
    assert!(stderr.contains("exists already"), "{stderr}");
    let damaged = golden("zip_wrong_crc/w.pt");
    let stderr = refusal(strata(folder.path()).arg("convert").arg(&damaged).arg("none.safetensors"));
    assert!(stderr.contains("CRC-32") && !folder.path().join("none.safetensors").exists(), "{stderr}");
}

#[test]
fn cli_convert_says_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refusal(strata(folder.path()).arg("convert").arg(golden("lightning_ldm_ckpt/model.ckpt")).arg("out"));
    assert!(stderr.contains("latent diffusion model") && stderr.contains("--yaml") && stderr.contains("--plain"), "{stderr}");
    let stderr = refusal(strata(folder.path()).arg("convert").arg(golden("real_lpips_alex/alex.pth")).arg("out"));
    assert!(stderr.contains(".safetensors"), "{stderr}");
    // It tells what it is; the golden one has only a few of such a network's layers.
    let snapshot = golden("edm_snapshot_pkl/network-snapshot-000100.pkl");
    let stderr = refusal(strata(folder.path()).arg("convert").arg(snapshot).arg("out"));
    assert!(stderr.contains("missing `model.dec.8x8_block0.conv0.weight`"), "{stderr}");
    assert!(contents(folder.path()).is_empty());
}

/// A network in EDM's layout, small and of random weights, becomes a folder that samples.
#[test]
fn cli_a_published_diffusion_model_becomes_a_folder_to_sample_from() {
    use strata_diffusion::unet::{KeyMap, UNet, UNetConfig};
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let sets = [
        "unet.size=16",
        "unet.in_channels=3",
        "unet.out_channels=3",
        "unet.width=16",
        "unet.decoders=[{ width = 16 }, { width = 16 }, { width = 16 }]",
    ];
    let config: UNetConfig = serde_json::from_value(serde_json::json!({
        "family": "song", "size": 16, "width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [1], "heads": { "count": 1 },
        "rescale": true, "resample": "block", "groups": 16, "decoders": [{ "width": 16 }, { "width": 16 }, { "width": 16 }],
    }))
    .unwrap();
    let store = strata_nn::params::ParamStore::new(3, &candle_core::Device::Cpu);
    UNet::new(&config, &store.root()).unwrap();
    let tensors = KeyMap::published(&config).unwrap().export(&store.tensors()).unwrap();
    strata_nn::weights::save(&folder.join("edm.safetensors"), &tensors, &Default::default()).unwrap();
    let convert = |out: &str| {
        let mut command = strata(folder);
        command.args(["convert", "edm.safetensors", out, "--preset", "small-edm-multistage"]);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    };
    let text = output(&mut convert("model"));
    assert!(text.contains("3 stages"), "{text}");
    output(strata(folder).args(["sample", "model", "--out", "drawn", "--seeds", "0-1", "--steps", "3", "--quiet"]));
    assert_eq!(image::open(folder.join("drawn/000001.png")).unwrap().width(), 16);
    let stderr = refusal(convert("other").args(["--set", "unet.width=32"]));
    assert!(stderr.contains("model.enc.16x16_conv.weight") && stderr.contains("expected"), "{stderr}");
    let stderr = refusal(strata(folder).args(["convert", "edm.safetensors", "other", "--preset", "celebahq256-ldm"]));
    assert!(stderr.contains("holds no autoencoder") && stderr.contains("--autoencoder"), "{stderr}");
    assert!(!folder.join("other").exists());
}

/// A checkpoint of latent diffusion, small and of random weights, is described by the YAML file beside it.
#[test]
fn cli_a_latent_diffusion_checkpoint_is_read_with_its_yaml_file() {
    use strata_autoencoder::{VqModel, layouts::compvis};
    use strata_diffusion::{
        import::ldm_config,
        unet::{KeyMap, UNet},
    };
    use strata_nn::params::ParamStore;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let cpu = candle_core::Device::Cpu;
    let yaml: serde_json::Value = serde_json::from_str(LDM).unwrap();
    let (config, _) = ldm_config(&yaml).unwrap();
    let network = ParamStore::new(3, &cpu);
    UNet::new(&config.unet, &network.root()).unwrap();
    let stage: compvis::FirstStage =
        serde_json::from_value(yaml["model"]["params"]["first_stage_config"]["params"].clone()).unwrap();
    let coder = ParamStore::new(4, &cpu);
    VqModel::new(&stage.vq().unwrap(), &coder.root()).unwrap();
    let mut tensors = KeyMap::published(&config.unet).unwrap().export(&network.tensors()).unwrap();
    let first_stage = compvis::key_map(&coder).export(&coder).unwrap();
    tensors.extend(first_stage.into_iter().map(|(name, t)| (format!("first_stage_model.{name}"), t)));
    strata_nn::weights::save(&folder.join("last.safetensors"), &tensors, &Default::default()).unwrap();
    let convert = |out: &str| {
        let mut command = strata(folder);
        command.args(["convert", "last.safetensors", out]);
        command
    };
    let stderr = refusal(&mut convert("model"));
    assert!(stderr.contains("0 YAML files beside it") && stderr.contains("--yaml"), "{stderr}");
    // JSON is YAML.
    std::fs::write(folder.join("project.yaml"), LDM).unwrap();
    let text = output(&mut convert("model"));
    assert!(text.contains("2 stages"), "{text}");
    output(strata(folder).args(["sample", "model", "--out", "drawn", "--seeds", "0-1", "--steps", "3", "--quiet"]));
    assert_eq!(image::open(folder.join("drawn/000001.png")).unwrap().width(), 16);
    std::fs::write(folder.join("config.yaml"), "model: [1, 2").unwrap();
    let stderr = refusal(&mut convert("other"));
    assert!(stderr.contains("config.yaml") && stderr.contains("line"), "{stderr}");
    let text = LDM.replace("__is_unconditional__", "ldm.modules.encoders.modules.BERTEmbedder");
    std::fs::write(folder.join("config.yaml"), text).unwrap();
    let stderr = refusal(&mut convert("other"));
    assert!(stderr.contains("BERTEmbedder"), "{stderr}");
    let text = output(convert("other").args(["--yaml", "project.yaml"]));
    assert!(text.contains("2 stages"), "{text}");
}

const LDM: &str = r#"{ "model": { "target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
    "linear_start": 0.0015, "linear_end": 0.0195, "image_size": 8, "cond_stage_config": "__is_unconditional__",
    "unet_config": { "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel_multistage", "params": {
        "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [2], "num_res_blocks": 1,
        "channel_mult": [1, 2], "num_head_channels": 16, "stage_num": 2, "de_nfs": [32, 32], "stage_interval": [500, 1000] } },
    "first_stage_config": { "target": "ldm.models.autoencoder.VQModelInterface", "params": {
        "embed_dim": 3, "n_embed": 64, "lossconfig": { "target": "torch.nn.Identity" },
        "ddconfig": { "double_z": false, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0 } } } } } }"#;

/// Networks of diffusers become folders to sample from, and go back with the same numbers.
#[test]
fn cli_networks_of_diffusers_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    output(strata(folder).arg("convert").arg(golden("diffusers_unet2d_ddpm/repo")).arg("model"));
    output(strata(folder).args(["sample", "model", "--out", "drawn", "--seeds", "0-1", "--steps", "3", "--quiet"]));
    assert_eq!(image::open(folder.join("drawn/000001.png")).unwrap().width(), 8);
    output(strata(folder).args(["convert", "model", "back"]));
    let before = Checkpoint::open(&golden("diffusers_unet2d_ddpm/repo/diffusion_pytorch_model.safetensors")).unwrap();
    let after = Checkpoint::open(&folder.join("back/unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(before.tensors().len(), after.tensors().len());
    for a in before.tensors() {
        let b = after.get(a.name()).unwrap();
        assert!(a.shape() == b.shape() && a.read() == b.read(), "{}", a.name());
    }
    let index = std::fs::read_to_string(folder.join("back/model_index.json")).unwrap();
    assert!(index.contains("DDPMPipeline") && index.contains("UNet2DModel"), "{index}");
    let stderr = refusal(strata(folder).arg("convert").arg(golden("diffusers_pipeline_tiny/repo")).arg("told"));
    assert!(stderr.contains("no text encoder") && stderr.contains("--text-encoder"), "{stderr}");
    assert!(!folder.join("told").exists());
}
