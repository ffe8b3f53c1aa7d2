//! Runs or exports an autoencoder for the comparison in `tests/bench/exchange.py`.
//!
//! The first argument is a run, folder or weight file. With one more, a new folder, the network is written there in diffusers' layout.
//! With two more, safetensors files: the first has images `x` and latents `z`; into the second go `stored` (moments of a KL model,
//! latents of the others) and `y`, the images of `z`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::HashMap, path::Path};

use candle_core::{Device, safetensors};
use strata_autoencoder::{Result, export_diffusers, load};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [from, folder] => export_diffusers(&load(Path::new(from), &Device::Cpu)?, Path::new(folder), 1.0),
        [from, input, output] => {
            let model = load(Path::new(from), &Device::Cpu)?.model;
            let given = safetensors::load(input, &Device::Cpu)?;
            let computed = [("stored", model.encode_stored(&given["x"])?), ("y", model.decode(&given["z"])?)];
            Ok(safetensors::save(&HashMap::from(computed), output)?)
        }
        _ => panic!("two or three arguments, see the documentation"),
    }
}
