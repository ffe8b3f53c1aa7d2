//! The table of all kinds of case, and the list of those that no code implements yet.
//!
//! To implement a kind: write it in its area's file, add an arm here and take its name out of [`PENDING`].

pub mod adversarial;
pub mod autoencoder;
pub mod checkpoints;
pub mod clustering;
pub mod conditioning;
pub mod data;
pub mod edm_unet;
pub mod features;
mod fetched;
pub mod ldm_unet;
pub mod metrics;
pub mod optim;
pub mod samplers;
pub mod schedules;
pub mod score_sde_unet;
pub mod text_encoders;
pub mod tokenizers;

use anyhow::Result;

use crate::golden::{Answer, Case};

/// Computes one case.
pub type Run = fn(&Case) -> Result<Answer>;

/// What computes the cases of `kind`; nothing when no code does.
pub fn implementation(kind: &str) -> Option<Run> {
    Some(match kind {
        "ldm_class_embedder" | "ldm_spatial_rescaler" => conditioning::run,
        "bert_text" | "bert_text_real" | "clip_text" | "ldm_bert_embedder" | "t5_encoder" => text_encoders::run,
        "bert_wordpiece_tokenize" | "clip_bpe_tokenize" => tokenizers::run,
        "lpips_patchgan_loss" => adversarial::run,
        "ldm_autoencoder_kl"
        | "diffusers_autoencoder_kl"
        | "ldm_vq_model"
        | "diffusers_vq_model"
        | "diffusers_autoencoder_tiny" => autoencoder::run,
        "edm_dhariwal_unet" | "edm_loss" | "edm_multistage_unet" | "edm_song_unet" => edm_unet::run,
        "ldm_unet" | "ldm_unet_multistage" => ldm_unet::run,
        "score_sde_ncsnpp_multistage" => score_sde_unet::run,
        "adamw" | "ema" | "grad_clip" | "grad_sanitize" | "lr_schedule" | "phema_weights" => optim::run,
        "algorithm1"
        | "functional_similarity"
        | "gradient_clustering"
        | "interval_partition"
        | "optimal_denoiser"
        | "snr_clustering"
        | "timestep_clustering" => clustering::run,
        "cfg_dpm_solver"
        | "ddpm_ancestral"
        | "diffusers_scheduler"
        | "dpm_solver"
        | "edm_ablation_sampler"
        | "edm_sampler"
        | "ldm_ddim"
        | "ldm_plms" => samplers::run,
        "dpm_time_steps" | "edm_sigma_grid" | "k_sigma_grids" | "ldm_beta_schedule" | "ldm_ddim_timesteps"
        | "min_snr_weights" | "vp_continuous" | "vp_discrete" | "zero_terminal_snr" => schedules::run,
        "dataset_listing" => data::run,
        "image_resize" | "inception_v3_fid" | "lpips" => features::run,
        "frechet_distance" | "inception_score" | "kid" | "precision_recall" => metrics::run,
        "import_checkpoint" | "diffusers_repo" => checkpoints::run,
        _ => return None,
    })
}

/// Kinds that no code implements yet: pending in the project's own cases, a failure in a directory given by `STRATA_GOLDEN_DIR`.
/// None of them may have an arm above.
pub const PENDING: &[&str] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_pending_kinds_are_not_implemented_and_listed_once() {
        let both: Vec<_> = PENDING.iter().filter(|kind| implementation(kind).is_some()).collect();
        assert!(both.is_empty(), "implemented, but still in PENDING: {both:?}");
        let unique: std::collections::BTreeSet<_> = PENDING.iter().collect();
        assert_eq!(unique.len(), PENDING.len(), "a kind is listed twice in PENDING");
    }
}
