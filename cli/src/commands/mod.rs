//! One file and one function per command. `run` takes the arguments as typed; what another command also needs is a
//! function beside it, so that the demo has no code path of its own.

pub mod convert;
pub mod convert_diffusers;
pub mod convert_ema;
pub mod convert_published;
pub mod data_convert;
pub mod data_inspect;
pub mod data_verify;
pub mod decode;
pub mod demo;
pub mod demo_report;
pub mod encode;
mod encoders;
pub mod eval;
pub mod images;
pub mod inspect;
pub mod inspect_weights;
pub mod likeness;
mod peers;
pub mod pull;
pub mod push;
mod push_card;
pub mod sample;
pub mod settings;
pub mod stages;
mod stages_report;
pub mod texts;
pub mod train_autoencoder;
pub mod train_diffusion;
mod train_pictures;
