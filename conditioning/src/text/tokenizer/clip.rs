//! CLIP's byte pairs from their published files.

use std::{collections::HashMap, io::Read, path::Path};

use ahash::AHashMap;
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::BPE,
    normalizers::{Lowercase, NFC, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreSequence,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

use crate::{Error, Result};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Merges that the vocabulary of 49408 uses; the published file has more.
const MERGES: usize = 49152 - 256 - 2;
/// Words, one digit, runs of anything else.
const PIECES: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

type Merges = Vec<(String, String)>;

/// The tokenizer from the list of merges, plain or compressed.
pub(super) fn from_merges(path: &Path, pad_id: u32) -> Result<Tokenizer> {
    let merges = merges(&read(path)?, path)?;
    if merges.len() < MERGES {
        return Err(Error::file(path, format!("no merges of CLIP: expected at least {MERGES}, got {}", merges.len())));
    }
    let merges: Merges = merges.into_iter().take(MERGES).collect();
    let alphabet = alphabet();
    let endings = alphabet.iter().map(|symbol| format!("{symbol}</w>")).collect::<Vec<_>>();
    let joined = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let special = [START, END].map(ToString::to_string);
    let tokens: Vec<String> = alphabet.into_iter().chain(endings).chain(joined).chain(special).collect();
    let pad = tokens.get(pad_id as usize).cloned();
    let pad = pad.ok_or_else(|| Error::Config(format!("padding id {pad_id}: expected one below {}", tokens.len())))?;
    let vocab = tokens.into_iter().enumerate().map(|(id, token)| (token, id as u32)).collect();
    build(vocab, merges, &pad, path).map(|(tokenizer, _)| tokenizer)
}

/// The tokenizer from a table of ids and the list of merges, and the id of its padding.
pub(super) fn from_files(vocab: &Path, merges_path: &Path, pad: &str) -> Result<(Tokenizer, u32)> {
    let table: HashMap<String, u32> =
        serde_json::from_str(&read(vocab)?).map_err(|e| Error::file(vocab, format!("no table of token ids: {e}")))?;
    build(table.into_iter().collect(), merges(&read(merges_path)?, merges_path)?, pad, vocab)
}

fn build(vocab: AHashMap<String, u32>, merges: Merges, pad: &str, path: &Path) -> Result<(Tokenizer, u32)> {
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| Error::file(path, format!("lacks the token `{token}`")));
    let (start, end, pad_id) = (id(START)?, id(END)?, id(pad)?);
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_string())
        .unk_token(END.to_string())
        .build()
        .map_err(|e| Error::file(path, e))?;
    let mut tokenizer = Tokenizer::new(model);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_string()), " ").map_err(Error::tokenizer)?;
    let clean: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(Sequence::new(clean))).map_err(Error::tokenizer)?;
    let pieces = Split::new(SplitPattern::Regex(PIECES.to_string()), SplitDelimiterBehavior::Removed, true);
    let pieces: Vec<PreTokenizerWrapper> =
        vec![pieces.map_err(Error::tokenizer)?.into(), ByteLevel::default().add_prefix_space(false).into()];
    tokenizer.with_pre_tokenizer(Some(PreSequence::new(pieces)));
    let around = RobertaProcessing::new((END.to_string(), end), (START.to_string(), start));
    tokenizer.with_post_processor(Some(around.trim_offsets(false).add_prefix_space(false)));
    tokenizer.add_special_tokens([START, END, pad].map(|token| AddedToken::from(token, true))).map_err(Error::tokenizer)?;
    Ok((tokenizer, pad_id))
}

/// The characters that stand for bytes: printable ones for themselves, then, from U+0100, the others.
fn alphabet() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let own = (0..256).filter(printable);
    let others = (256..).zip((0..256).filter(|byte| !printable(byte))).map(|(code, _)| code);
    own.chain(others).filter_map(char::from_u32).map(String::from).collect()
}

/// Pairs, one a line, after a line with the version.
fn merges(text: &str, path: &Path) -> Result<Merges> {
    let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_string(), b.trim_end().to_string()));
    let lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    let wrong = |i: usize, line: &str| Error::file(path, format!("line {}: expected a pair of symbols, got `{line}`", i + 1));
    lines.map(|(i, line)| pair(line).ok_or_else(|| wrong(i, line))).collect()
}

/// A text file, compressed with gzip or not.
fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let bytes = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).map_err(|e| Error::file(path, e))?;
            plain
        }
        false => bytes,
    };
    String::from_utf8(bytes).map_err(|e| Error::file(path, e))
}
