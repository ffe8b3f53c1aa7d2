//! `strata pull`, `strata push` and `hf:` paths of the binary against a hub on this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use common::{
    binary,
    hub::{COMMIT, Fault, Hub, TOKEN},
    refusal, strata,
};

/// The environment of a person whose hub is `hub`.
fn environment(hub: &Hub, folder: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("HF_ENDPOINT", hub.endpoint()),
        ("HF_HOME", folder.join("hf").display().to_string()),
        ("HF_HUB_CACHE", String::new()),
        ("HF_TOKEN", String::new()),
        ("HF_HUB_OFFLINE", String::new()),
        ("NO_PROXY", "127.0.0.1,localhost".into()),
    ]
}

fn run(hub: &Hub, folder: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = strata(folder);
    command.envs(environment(hub, folder)).args(args);
    command
}

fn output(mut command: assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn golden(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints").join(file)).unwrap()
}

/// The pipeline of the golden cases as a repository.
fn pipeline() -> Hub {
    let file = |path: &str, large| (path.to_string(), golden(&format!("diffusers_pipeline_tiny/repo/{path}")), large);
    let files = [
        file("model_index.json", false),
        file("unet/config.json", false),
        file("unet/diffusion_pytorch_model.safetensors", true),
        file("vae/config.json", false),
        file("vae/diffusion_pytorch_model.safetensors", true),
    ];
    Hub::new(&files.iter().map(|(path, content, large)| (path.as_str(), content.clone(), *large)).collect::<Vec<_>>())
}

#[test]
fn cli_pull_fetches_copies_and_goes_offline() {
    let (hub, dir) = (pipeline(), tempfile::tempdir().unwrap());
    let folder = dir.path();
    let text = output(run(&hub, folder, &["pull", "owner/name", "--include", "vae/", "--to", "here"]));
    assert!(text.contains("2 files") && text.contains("here"), "{text}");
    assert!(folder.join("here/vae/config.json").is_file() && !folder.join("here/unet").exists());
    let json = output(run(&hub, folder, &["pull", "owner/name", "--json", "--quiet"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["commit"].as_str(), json["files"].as_array().unwrap().len()), (Some(COMMIT), 5));
    hub.state().log.clear();
    output(run(&hub, folder, &["pull", "owner/name", "--offline"]));
    let text = output(run(&hub, folder, &["inspect", "hf:owner/name/vae/diffusion_pytorch_model.safetensors", "--offline"]));
    assert!(text.contains("a AutoencoderKL of diffusers"), "{text}");
    assert!(hub.state().log.is_empty(), "the network was used");
    std::fs::write(folder.join("here/vae/config.json"), "other").unwrap();
    let stderr = refusal(&mut run(&hub, folder, &["pull", "owner/name", "--to", "here"]));
    assert!(stderr.contains("holds other files: vae/config.json"), "{stderr}");
    let stderr = refusal(&mut run(&hub, folder, &["pull", "owner/other", "--offline"]));
    assert!(stderr.contains("not in the cache") && stderr.contains("hint: "), "{stderr}");
}

#[test]
fn cli_hf_paths_are_fetched_where_a_path_is_taken() {
    let (hub, dir) = (pipeline(), tempfile::tempdir().unwrap());
    let folder = dir.path();
    // The file alone is asked for; its configuration comes along.
    let text =
        output(run(&hub, folder, &["convert", "hf:owner/name/vae/diffusion_pytorch_model.safetensors", "vae.safetensors"]));
    assert!(text.contains("an autoencoder of"), "{text}");
    let text = output(run(&hub, folder, &["convert", "hf:owner/name/vae", "again.safetensors"]));
    assert!(text.contains("an autoencoder of"), "{text}");
    let text = output(run(&hub, folder, &["inspect", "hf:owner/name@main"]));
    assert!(text.contains("UNet2DConditionModel"), "{text}");
    hub.state().refuses = Some((401, "GatedRepo"));
    let stderr = refusal(&mut run(&hub, folder, &["inspect", "hf:owner/name/unet/diffusion_pytorch_model.safetensors"]));
    assert!(stderr.contains("is gated") && stderr.contains("hint: open its page"), "{stderr}");
    let mut command = run(&hub, folder, &["inspect", "hf:owner/name/unet/diffusion_pytorch_model.safetensors"]);
    output({
        command.env("HF_TOKEN", TOKEN);
        command
    });
}

/// A killed download leaves nothing that looks complete, and the next one goes on; two at once fetch a file once.
#[test]
fn cli_pulls_survive_being_killed_and_each_other() {
    const BLOB: &str = "/cdn/weights.bin";
    let content: Vec<u8> = (0..2_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (hub, dir) = (Hub::new(&[("weights.bin", content.clone(), true)]), tempfile::tempdir().unwrap());
    let folder = dir.path();
    hub.fail(BLOB, &[Fault::Wait, Fault::Wait]);
    let start = || {
        let mut command = Command::new(binary());
        command.args(["pull", "owner/name"]).current_dir(folder).envs(environment(&hub, folder));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let repo = folder.join("hf/hub/models--owner--name");
    let incomplete = || {
        let blobs = std::fs::read_dir(repo.join("blobs")).ok()?;
        blobs.flatten().find_map(|entry| Some(entry.metadata().ok()?.len()).filter(|len| *len > 900_000))
    };
    let mut first = start();
    while incomplete().is_none() {
        assert!(first.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!repo.join("snapshots").exists() && !repo.join("refs").exists());
    assert!(std::fs::read_dir(repo.join("blobs")).unwrap().all(|e| e.unwrap().path().extension().unwrap() == "incomplete"));
    let (second, third) = (start(), start());
    while hub.seen(BLOB).len() < 2 {
        std::thread::yield_now();
    }
    hub.open();
    for child in [second, third] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(std::fs::read(repo.join("snapshots").join(COMMIT).join("weights.bin")).unwrap() == content);
    let seen = hub.seen(BLOB);
    assert_eq!(seen.len(), 2, "fetched more than once: {seen:?}");
    assert!(seen[1].header("range").is_some_and(|range| range != "bytes=0-"), "{seen:?}");
}

#[test]
fn cli_push_writes_a_model_with_its_card() {
    let (hub, dir) = (Hub::new(&[]), tempfile::tempdir().unwrap());
    let folder = dir.path();
    std::fs::create_dir(folder.join("unet")).unwrap();
    std::fs::write(
        folder.join("unet/diffusion_pytorch_model.bin"),
        golden("diffusers_unet2d_bin/repo/diffusion_pytorch_model.bin"),
    )
    .unwrap();
    std::fs::write(folder.join("unet/config.json"), golden("diffusers_unet2d_bin/repo/config.json")).unwrap();
    output(run(&hub, folder, &["convert", "unet", "model"]));
    std::fs::write(folder.join("metrics.json"), r#"{"fid": 12.5}"#).unwrap();
    let args = ["push", "model", "owner/name", "--metrics", "metrics.json", "--license", "mit"];
    output(run(&hub, folder, &[args.as_slice(), &["--to", "as-uploaded"]].concat()));
    let card = std::fs::read_to_string(folder.join("as-uploaded/README.md")).unwrap();
    for part in ["license: mit", "# name", "strata sample hf:owner/name", "| fid | 12.5 |", "a UNet2DModel of diffusers"] {
        assert!(card.contains(part), "no `{part}` in\n{card}");
    }
    let stderr = refusal(&mut run(&hub, folder, &args));
    assert!(stderr.contains("needs a token") && stderr.contains("HF_TOKEN"), "{stderr}");
    let mut command = run(&hub, folder, &args);
    command.env("HF_TOKEN", TOKEN);
    let text = output(command);
    assert!(text.contains(&format!("/owner/name/commit/{COMMIT}")) && text.contains("2 files"), "{text}");
    assert!(hub.state().uploaded.values().any(|body| *body == std::fs::read(folder.join("model/model.safetensors")).unwrap()));
}
