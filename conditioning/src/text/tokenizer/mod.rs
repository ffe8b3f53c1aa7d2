//! Texts to token ids of equal length, and what of them did not fit.

mod bert;
mod clip;
mod tokens;

use std::path::Path;

use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use crate::{Error, Result};

pub use bert::BertRules;
pub use tokens::{Cut, Tokens};

/// How far rows are filled up with the padding token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// To the maximum length, as the encoders of diffusion models are fed.
    #[default]
    MaxLength,
    /// To the longest text of the batch, as sentence encoders are fed.
    Longest,
}

/// Texts to token ids: the start and end tokens of its kind around what fits of a text, then padding.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    max_length: usize,
    pad_id: u32,
    padding: Padding,
}

/// One text.
struct Row {
    ids: Vec<u32>,
    /// How many tokens of which text did not fit.
    lost: Option<(usize, String)>,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`; its own settings of truncation and padding give way to these. `pad`: the padding token; without
    /// it, the file's own, else the first of `<pad>`, `[PAD]`, `<|endoftext|>` that the vocabulary has.
    ///
    /// # Errors
    /// If the file cannot be read, has no such token, or `max_length` leaves no room for a text.
    pub fn from_json(path: &Path, pad: Option<&str>, max_length: usize, padding: Padding) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
        let mut inner = Tokenizer::from_bytes(bytes).map_err(|e| Error::file(path, format!("no tokenizer.json: {e}")))?;
        let known = |token: &str| inner.token_to_id(token);
        let pad_id = match (pad, inner.get_padding()) {
            (Some(token), _) => known(token).ok_or_else(|| Error::file(path, format!("has no padding token `{token}`")))?,
            (None, Some(own)) => own.pad_id,
            (None, None) => ["<pad>", "[PAD]", "<|endoftext|>"]
                .iter()
                .find_map(|token| known(token))
                .ok_or_else(|| Error::file(path, "has none of the padding tokens <pad>, [PAD], <|endoftext|>"))?,
        };
        inner.with_padding(None).with_truncation(None).map_err(|e| Error::file(path, e))?;
        Self::new(inner, pad_id, max_length, padding)
    }

    /// BERT's WordPiece (Devlin et al. 2019) from `vocab.txt`, a token a line: `[CLS]`, the text, `[SEP]`, then `[PAD]`.
    ///
    /// # Errors
    /// If the file cannot be read, lacks one of those tokens or `[UNK]`, or `max_length` leaves no room for a text.
    pub fn bert(vocab: &Path, rules: BertRules, max_length: usize, padding: Padding) -> Result<Self> {
        let (inner, pad_id) = bert::tokenizer(vocab, rules)?;
        Self::new(inner, pad_id, max_length, padding)
    }

    /// CLIP's byte pairs (Radford et al. 2021) from the published `bpe_simple_vocab_16e6.txt(.gz)`: `<|startoftext|>`, the text,
    /// `<|endoftext|>`, then `pad_id`. ViT-L/14 is padded with the end token, 49407. OpenCLIP-H is padded with 0, the token `!`;
    /// as in the published tokenizer, every `!` of a text is that token then.
    ///
    /// # Errors
    /// If the file cannot be read or is another one, the id is none, or `max_length` leaves no room for a text.
    pub fn clip(vocab: &Path, pad_id: u32, max_length: usize, padding: Padding) -> Result<Self> {
        Self::new(clip::from_merges(vocab, pad_id)?, pad_id, max_length, padding)
    }

    /// The same from the files that published pipelines carry, `vocab.json` and `merges.txt`. `pad`: the padding token.
    ///
    /// # Errors
    /// If a file cannot be read, a token is missing, or `max_length` leaves no room for a text.
    pub fn clip_files(vocab: &Path, merges: &Path, pad: &str, max_length: usize, padding: Padding) -> Result<Self> {
        let (inner, pad_id) = clip::from_files(vocab, merges, pad)?;
        Self::new(inner, pad_id, max_length, padding)
    }

    fn new(inner: Tokenizer, pad_id: u32, max_length: usize, padding: Padding) -> Result<Self> {
        let tokenizer = Self { inner, max_length, pad_id, padding };
        let around = tokenizer.around();
        if max_length <= around {
            return Err(Error::Config(format!(
                "tokenizer: a length of {max_length} leaves no room for text beside {around} tokens around it"
            )));
        }
        Ok(tokenizer)
    }

    /// The number of tokens put around a text.
    fn around(&self) -> usize {
        self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false))
    }

    /// The length that longer texts are cut to, in tokens, those around the text included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The id that fills rows up.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The ids of a text without anything around, cut off or filled up.
    ///
    /// # Errors
    /// If the vocabulary lacks what the text needs.
    pub fn raw(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode(text, false).map_err(Error::tokenizer)?.get_ids().to_vec())
    }

    /// Tokens of a batch of texts. An empty text is one like others: what unconditional samples are made with. What did not fit
    /// is told in [`Tokens::cut`].
    ///
    /// # Errors
    /// If there is no text at all, or the vocabulary lacks what a text needs.
    pub fn encode<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tokens> {
        if texts.is_empty() {
            return Err(Error::Config("tokenizer: no text given".to_string()));
        }
        let rows = texts.iter().map(|text| self.row(text.as_ref())).collect::<Result<Vec<_>>>()?;
        let lost = rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.lost.clone()?)));
        let cut = lost.map(|(index, (tokens, text))| Cut { index, tokens, text, max_length: self.max_length }).collect();
        let rows: Vec<Vec<u32>> = rows.into_iter().map(|row| row.ids).collect();
        let length = match self.padding {
            Padding::MaxLength => self.max_length,
            Padding::Longest => rows.iter().map(Vec::len).max().unwrap_or(0).max(1),
        };
        Ok(Tokens::padded(rows, length, self.pad_id, cut))
    }

    fn row(&self, text: &str) -> Result<Row> {
        let mut encoding = self.inner.encode(text, false).map_err(Error::tokenizer)?;
        let room = self.max_length - self.around();
        let lost = encoding.get_offsets().get(room).map(|&(start, _)| {
            let rest = text.get(start..).unwrap_or_default().trim();
            (encoding.len() - room, rest.to_string())
        });
        encoding.truncate(room, 0, TruncationDirection::Right);
        let whole = self.inner.post_process(encoding, None, true).map_err(Error::tokenizer)?;
        Ok(Row { ids: whole.get_ids().to_vec(), lost })
    }
}

#[cfg(test)]
mod tests;
