//! Kinds of the area `edm_unet`: EDM's networks in its wrappers, the multistage one, and EDM's losses.

mod loss;
mod network;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Var};

use self::network::Network;
use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "edm_song_unet" | "edm_dhariwal_unet" => single(case),
        "edm_multistage_unet" => multistage(case),
        "edm_loss" => loss::run(case),
        other => bail!("`{other}` is no kind of the area edm_unet"),
    }
}

fn single(case: &Case) -> Result<Answer> {
    let network = Network::new(case, &case.config)?;
    let x = Var::from_tensor(&case.input("x")?)?;
    let sigmas = sigmas(case, "sigma")?;
    let d = network.denoise(x.as_tensor(), &sigmas, &network.condition(case, sigmas.len())?)?;
    let mut answer = Answer::new().with("out.D", d.clone());
    network.gradients(case, &d.sqr()?.mean_all()?, Some(&x), &mut answer)?;
    Ok(answer)
}

/// Runs `x.<run>`, `sigma.<run>`; one of them has the gradients.
fn multistage(case: &Case) -> Result<Answer> {
    let network = Network::new(case, &case.config)?;
    let of_gradient = case.config["_grad_stage"].as_str().unwrap_or_default();
    let mut answer = Answer::new();
    for run in case.input_names().filter_map(|name| name.strip_prefix("sigma.")) {
        let x = Var::from_tensor(&case.input(&format!("x.{run}"))?)?;
        let sigmas = sigmas(case, &format!("sigma.{run}"))?;
        let d = network.denoise(x.as_tensor(), &sigmas, &network.condition(case, sigmas.len())?)?;
        if run == of_gradient {
            network.gradients(case, &d.sqr()?.mean_all()?, Some(&x), &mut answer)?;
        }
        answer.insert(format!("out.D.{run}"), d);
    }
    Ok(answer)
}

fn sigmas(case: &Case, name: &str) -> Result<Vec<f64>> {
    let sigmas = case.input(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    sigmas.first().context("no noise level")?;
    Ok(sigmas)
}
