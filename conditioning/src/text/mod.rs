//! Text: encoders with the parameter names and configurations of published files.

mod bert;
mod blocks;
mod clip;
mod ldm;
mod t5;
#[cfg(test)]
mod tests;

pub use bert::{BertConfig, BertModel};
pub use blocks::{TextActivation, mean_pooled, normalized};
pub use clip::{ClipConfig, ClipOutput, ClipTextModel};
pub use ldm::{LdmTextConfig, LdmTextModel};
pub use t5::{T5Config, T5Encoder, T5FeedForward, T5Output};
