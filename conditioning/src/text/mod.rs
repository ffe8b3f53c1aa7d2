//! Text: tokenizers and encoders, with the parameter names and configurations of published files.

mod bert;
mod blocks;
mod clip;
mod encoder;
mod ldm;
mod t5;
mod tokenizer;

pub use bert::{BertConfig, BertModel};
pub use blocks::{TextActivation, mean_pooled, normalized};
pub use clip::{ClipConfig, ClipOutput, ClipTextModel};
pub use encoder::TextEncoder;
pub use ldm::{LdmTextConfig, LdmTextModel};
pub use t5::{T5Config, T5Encoder, T5FeedForward, T5Output};
pub use tokenizer::{BertRules, Cut, Padding, TextTokenizer, Tokens};
