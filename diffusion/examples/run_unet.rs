//! Runs or exports a U-Net of diffusers for the comparison in `tests/bench/exchange.py`.
//!
//! The first argument is a folder of diffusers with one network. With one more, a new folder, the network is written there again. With
//! two more, safetensors files: the first has `sample`, `timestep` and, where the network takes them, `class_labels` and
//! `encoder_hidden_states`; into the second goes the answer `y`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, safetensors};
use serde_json::Value;
use strata_conditioning::Condition;
use strata_diffusion::unet::{DiffusersUNet, UNet, UNetConfig, diffusers_config_json, diffusers_keys, modern_name};
use strata_nn::{checkpoint::DIFFUSERS_WEIGHTS, params::ParamStore, weights};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn load(folder: &Path) -> Result<(UNetConfig, ParamStore, UNet)> {
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let config = DiffusersUNet::from_json(&json)?.translate()?;
    let store = ParamStore::new(0, &Device::Cpu);
    let unet = UNet::new(&config, &store.root())?;
    let tensors = weights::load(&folder.join(DIFFUSERS_WEIGHTS), &Device::Cpu)?.tensors;
    let tensors = tensors.into_iter().map(|(name, t)| (modern_name(&name), t)).collect();
    diffusers_keys(&config)?.load(&store, &tensors, "the folder")?;
    Ok((config, store, unet))
}

fn run(unet: &UNet, given: &HashMap<String, candle_core::Tensor>) -> Result<candle_core::Tensor> {
    let timesteps: Vec<f32> = given["timestep"].to_dtype(DType::F32)?.to_vec1()?;
    let labels = given.get("class_labels").map(|labels| labels.to_dtype(DType::U32)?.to_vec1::<u32>()).transpose()?;
    let vector = labels.map(|ids| unet.embed_classes(&ids.into_iter().map(Some).collect::<Vec<_>>())).transpose()?;
    let condition = Condition { vector, context: given.get("encoder_hidden_states").cloned(), ..Condition::none() };
    Ok(unet.forward(&given["sample"], &timesteps, &vec![0; timesteps.len()], &condition, None)?)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [from, folder] => {
            let ((config, store, _), folder) = (load(Path::new(from))?, Path::new(folder));
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join("config.json"), diffusers_config_json(&config)?.to_string())?;
            let tensors = diffusers_keys(&config)?.export(&store.tensors())?;
            Ok(weights::save(&folder.join(DIFFUSERS_WEIGHTS), &tensors, &[("format".to_string(), "pt".to_string())].into())?)
        }
        [from, input, output] => {
            let y = run(&load(Path::new(from))?.2, &safetensors::load(input, &Device::Cpu)?)?;
            Ok(safetensors::save(&HashMap::from([("y", y)]), output)?)
        }
        _ => panic!("two or three arguments, see the documentation"),
    }
}
