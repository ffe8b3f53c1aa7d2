//! What every training run needs, whatever is trained: optimizer, averages, learning rates, run directory, settings.
//!
//! - [`optimizer`]: AdamW and Adam with groups, clipping and the skipping of broken steps; [`gradients`]: norms, clipping
//!   and sanitising of plain tensors.
//! - [`ema`]: averages of the parameters; [`power_ema`], [`post_hoc`]: power-function profiles, what is kept of them in
//!   training, and averages of any width afterwards.
//! - [`lr_schedule`]: the learning rate over images and steps.
//! - [`run`]: the run directory, with a lock, a log and atomic checkpoints ([`checkpoint`]).
//! - [`settings`]: defaults < preset < file < `--set` < flags, with errors that name the key.
//! - [`progress`]: what a library tells its caller while it works, and how the caller stops it; [`stopwatch`]: seconds
//!   per step.
//! - [`peers`], [`ranks`]: processes that train one model together.
//! - [`tensorboard`]: event files of scalars; [`run`] writes one of its log.
//!
//! ```
//! use candle_core::Device;
//! use strata_nn::params::{Init, ParamStore};
//! use strata_training::{AdamWConfig, Ema, EmaSchedule, LrSchedule, Optimizer, StepOptions};
//!
//! let store = ParamStore::new(0, &Device::Cpu);
//! let w = store.root().param("w", 3, Init::ONES)?;
//! let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig::default())?;
//! let mut ema = Ema::new(&store, EmaSchedule::Constant { decay: 0.9 })?;
//! let schedule = LrSchedule::Warmup { warmup_images: 64 };
//! for step in 0..8 {
//!     let grads = w.get().sqr()?.sum_all()?.backward()?;
//!     let lr_multiplier = schedule.multiplier(step, step * 16);
//!     let report = optimizer.step(&grads, StepOptions { lr_multiplier, max_grad_norm: Some(1.0) })?;
//!     assert!(!report.skipped && report.grad_norm > 0.0);
//!     ema.update(16)?;
//! }
//! # Ok::<(), strata_training::Error>(())
//! ```

mod adam;
mod card;
pub mod checkpoint;
mod diagnosis;
pub mod ema;
mod error;
pub mod files;
pub mod gradients;
mod host;
pub mod lr_schedule;
pub mod memory;
pub mod optimizer;
pub mod peers;
pub mod post_hoc;
pub mod power_ema;
pub mod progress;
pub mod ranks;
pub mod run;
pub mod settings;
mod stats;
pub mod stopwatch;
mod sweep;
pub mod tensorboard;

pub use checkpoint::CheckpointParts;
pub use ema::{Ema, EmaSchedule};
pub use error::{Error, Result};
pub use files::{sha256_bytes, sha256_file};
pub use lr_schedule::LrSchedule;
pub use optimizer::{AdamWConfig, Group, Optimizer, StepOptions, StepReport};
pub use peers::Peers;
pub use progress::{Interrupt, NoProgress, Progress};
pub use ranks::Ranks;
pub use run::RunDir;
pub use stopwatch::Stopwatch;
