//! BERT's WordPiece from its published vocabulary.

use std::path::Path;

use tokenizers::{
    AddedToken, Tokenizer, models::wordpiece::WordPiece, normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
    processors::bert::BertProcessing,
};

use crate::{Error, Result};

/// How BERT's tokenizer cleans text. The default is that of the uncased models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BertRules {
    /// Lower-case.
    pub lower_case: bool,
    /// Drop accents; `None` does so where text is lower-cased.
    pub strip_accents: Option<bool>,
    /// Make each CJK ideograph a word.
    pub split_ideographs: bool,
}

impl Default for BertRules {
    fn default() -> Self {
        Self { lower_case: true, strip_accents: None, split_ideographs: true }
    }
}

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The tokenizer, and the id of its padding.
pub(super) fn tokenizer(path: &Path, rules: BertRules) -> Result<(Tokenizer, u32)> {
    let text = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let vocab = WordPiece::read_bytes(&text).map_err(|e| Error::file(path, format!("no vocabulary of a token a line: {e}")))?;
    let id = |token: &str| vocab.get(token).copied();
    let missing: Vec<&str> = SPECIAL.into_iter().filter(|token| *token != "[MASK]" && id(token).is_none()).collect();
    let (Some(pad), Some(cls), Some(sep), true) = (id("[PAD]"), id("[CLS]"), id("[SEP]"), missing.is_empty()) else {
        return Err(Error::file(path, format!("no BERT vocabulary: lacks {}", missing.join(", "))));
    };
    let special: Vec<AddedToken> =
        SPECIAL.into_iter().filter(|token| id(token).is_some()).map(|token| AddedToken::from(token, true)).collect();
    let model = WordPiece::builder().vocab(vocab).build().map_err(Error::tokenizer)?;
    let mut tokenizer = Tokenizer::new(model);
    let clean = BertNormalizer::new(true, rules.split_ideographs, rules.strip_accents, rules.lower_case);
    tokenizer.with_normalizer(Some(clean)).map_err(Error::tokenizer)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(("[SEP]".to_string(), sep), ("[CLS]".to_string(), cls))));
    tokenizer.add_special_tokens(special).map_err(Error::tokenizer)?;
    Ok((tokenizer, pad))
}
