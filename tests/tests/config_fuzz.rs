//! Damaged and hostile configurations: whatever they say, reading them ends with an answer or an error, soon, and without claiming
//! much more memory than four times their size.
//!
//! The inputs are mutations of the golden files' configurations. `STRATA_FUZZ_INPUTS=10000000` runs so many instead of a short set,
//! and `STRATA_FUZZ_SEED` others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "common/fuzz.rs"]
mod fuzz;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fuzz::{Random, SHORT_RUN, claimed, number};
use serde_json::{Value, json};
use strata_autoencoder::layouts::{diffusers, taesd};
use strata_diffusion::{
    import::Scheduler,
    model::ModelConfig,
    unet::{CostInput, DiffusersUNet, costs, diffusers_config_json},
};

/// Beside four times the text: tables of a schedule, the parts of a large network, and what a message takes.
const FLOOR: usize = 8 << 20;

/// What stands in the place of a value.
fn hostile(random: &mut Random) -> Value {
    let numbers =
        [0, 1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 65, 1000, 100_000, 1 << 20, (1 << 32) - 1, 1 << 32, u64::MAX / 2, u64::MAX];
    match random.below(12) {
        0..=3 => json!(numbers[random.below(numbers.len())]),
        4 => json!(-1),
        5 => json!(1e300),
        6 => Value::Null,
        7 => json!(random.below(2) == 0),
        8 => json!(["UNet2DModel", "AttnDownBlock2D", "", "conv", "resnet", "scale_shift", "VQModel"][random.below(7)]),
        9 => Value::Array(vec![json!(numbers[random.below(numbers.len())]); random.below(5)]),
        10 => Value::Array(vec![json!(8); random.below(300)]),
        _ => json!({ "a": [] }),
    }
}

/// Changes one value somewhere in `json`.
fn change(json: &mut Value, random: &mut Random) {
    let inner = match json {
        Value::Object(table) if !table.is_empty() && random.below(20) > 0 => {
            let key = table.keys().nth(random.below(table.len())).unwrap().clone();
            if random.below(10) == 0 {
                table.remove(&key);
                return;
            }
            table.get_mut(&key).unwrap()
        }
        Value::Array(list) if !list.is_empty() && random.below(2) > 0 => {
            let i = random.below(list.len());
            if random.below(5) == 0 {
                let copy = list[i].clone();
                list.push(copy);
                return;
            }
            &mut list[i]
        }
        other => {
            *other = hostile(random);
            return;
        }
    };
    change(inner, random);
}

fn mutate(seed: &Value, random: &mut Random) -> Vec<u8> {
    let mut json = seed.clone();
    (0..=random.below(4)).for_each(|_| change(&mut json, random));
    let mut text = json.to_string().into_bytes();
    // Rarely, since hardly any of these is JSON.
    if random.below(8) == 0 && !text.is_empty() {
        let at = random.below(text.len());
        text[at] ^= 1 << random.below(8);
    }
    text
}

/// Reads a text as each configuration that there is; answers whether one took it.
fn read(text: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return false };
    let unet = DiffusersUNet::from_json(&json).and_then(|config| config.translate());
    if let Ok(config) = &unet {
        let side = config.size.unwrap_or(64);
        // A network may be one that cannot be written, or too deep for its size; never a panic.
        let _ = (diffusers_config_json(config), costs(config, CostInput { height: side, width: side, context_tokens: 7 }));
    }
    let scheduler = Scheduler::from_json(&json).and_then(|scheduler| scheduler.to_json());
    let autoencoder = diffusers::Config::from_json(&json).map(|config| (config.kl().is_ok(), config.vq().is_ok()));
    let tiny = taesd::Config::from_json(&json).and_then(|config| config.tiny());
    let model = serde_json::from_value::<ModelConfig>(json).map(|config| config.validate());
    let autoencoder = autoencoder.is_ok_and(|(kl, vq)| kl || vq);
    unet.is_ok() || scheduler.is_ok() || autoencoder || tiny.is_ok() || model.is_ok_and(|valid| valid.is_ok())
}

fn seeds() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints");
    let files = [
        "diffusers_pipeline_tiny/repo/unet/config.json",
        "diffusers_pipeline_tiny/repo/vae/config.json",
        "diffusers_pipeline_tiny/repo/scheduler/scheduler_config.json",
        "diffusers_unet2d_bin/repo/config.json",
        "diffusers_unet2d_ddpm/repo/config.json",
        "diffusers_vae_old_names/repo/config.json",
    ];
    let mut seeds: Vec<Value> =
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(root.join(file)).unwrap()).unwrap()).collect();
    let unet = DiffusersUNet::from_json(&seeds[4]).unwrap().translate().unwrap();
    seeds.push(json!({
        "unet": unet, "parametrization": "eps", "schedule": { "kind": "ldm" }, "boundaries": [], "classes": 0, "class_names": [],
        "shape": [3, 8, 8], "latents": { "scale": [1.0], "shift": [0.0], "autoencoder_sha256": "" },
    }));
    seeds.push(
        json!({ "_class_name": "AutoencoderTiny", "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1] }),
    );
    seeds
}

#[test]
fn mutated_configurations_end_with_an_answer_or_an_error() {
    let inputs = number("STRATA_FUZZ_INPUTS").unwrap_or(SHORT_RUN);
    let (seeds, mut random) = (seeds(), Random(number("STRATA_FUZZ_SEED").unwrap_or(1)));
    for seed in &seeds {
        assert!(read(seed.to_string().as_bytes()), "not read as it is: {seed}");
    }
    let (mut accepted, mut most, mut slowest) = (0, 0.0f64, Duration::ZERO);
    for _ in 0..inputs {
        let text = mutate(&seeds[random.below(seeds.len())], &mut random);
        let started = Instant::now();
        let (taken, claimed) = claimed(|| read(&text));
        accepted += u64::from(taken);
        let limit = 4 * text.len() + FLOOR;
        assert!(claimed <= limit, "{claimed} bytes claimed for {}", String::from_utf8_lossy(&text));
        slowest = slowest.max(started.elapsed());
        most = most.max(claimed as f64 / limit as f64);
    }
    eprintln!("{inputs} configurations, {accepted} taken; slowest {slowest:?}, most memory {:.0} % of the limit", 100.0 * most);
    assert!(accepted > 0 && accepted < inputs, "the mutations reach nothing");
}
