//! Tokenizers over vocabularies small enough to read.

use std::path::PathBuf;

use super::*;

const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\n##s\nred\n,\n";

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.path().join(name);
    std::fs::write(&path, text).map_err(|e| Error::file(&path, e))?;
    Ok(path)
}

fn dir() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(|e| Error::file(std::path::Path::new("."), e))
}

fn message<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn what_does_not_fit_is_told_in_the_words_of_the_text() -> Result<()> {
    let dir = dir()?;
    let tokenizer = TextTokenizer::bert(&file(&dir, "vocab.txt", WORDS)?, BertRules::default(), 5, Padding::MaxLength)?;
    let tokens = tokenizer.encode(&["", "A Cat", "a red cat,  RED Cats "])?;
    assert_eq!(tokens.ids, [[2, 3, 0, 0, 0], [2, 4, 5, 3, 0], [2, 4, 7, 5, 3]]);
    assert_eq!(tokens.lengths, [2, 4, 5]);
    let cut = Cut { index: 2, tokens: 4, text: ",  RED Cats".to_string(), max_length: 5 };
    assert_eq!(cut.to_string(), "text 2: the last 4 tokens did not fit into 5 and were cut off: `,  RED Cats`");
    assert_eq!(tokens.cut, [cut]);
    assert_eq!(tokens.mask(&candle_core::Device::Cpu)?.to_vec2::<f32>()?[1], [1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(tokens.tensor(&candle_core::Device::Cpu)?.dims(), [3, 5]);
    assert!(message(tokenizer.encode::<&str>(&[])).contains("no text given"));
    Ok(())
}

#[test]
fn the_longest_text_of_a_batch_decides_where_asked_to() -> Result<()> {
    let dir = dir()?;
    let tokenizer = TextTokenizer::bert(&file(&dir, "vocab.txt", WORDS)?, BertRules::default(), 64, Padding::Longest)?;
    assert_eq!(tokenizer.encode(&["a", "cats"])?.ids, [[2, 4, 3, 0], [2, 5, 6, 3]]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad_id(), tokenizer.max_length()), (9, 0, 64));
    Ok(())
}

#[test]
fn a_tokenizer_json_keeps_its_pieces_but_not_its_lengths() -> Result<()> {
    let dir = dir()?;
    let made = TextTokenizer::bert(&file(&dir, "vocab.txt", WORDS)?, BertRules::default(), 4, Padding::Longest)?;
    let mut inner = made.inner.clone();
    let short = tokenizers::TruncationParams { max_length: 3, ..Default::default() };
    inner.with_truncation(Some(short)).map_err(Error::tokenizer)?;
    inner.with_padding(Some(tokenizers::PaddingParams { pad_id: 6, ..Default::default() }));
    let path = dir.path().join("tokenizer.json");
    inner.save(&path, false).map_err(Error::tokenizer)?;
    let read = TextTokenizer::from_json(&path, None, 6, Padding::MaxLength)?;
    assert_eq!(read.encode(&["a red cat"])?.ids, [[2, 4, 7, 5, 3, 6]]);
    let read = TextTokenizer::from_json(&path, Some("[PAD]"), 6, Padding::MaxLength)?;
    assert_eq!(read.encode(&["a red cat"])?.ids, [[2, 4, 7, 5, 3, 0]]);
    let absent = message(TextTokenizer::from_json(&path, Some("<pad>"), 6, Padding::MaxLength));
    assert!(absent.contains("no padding token `<pad>`"), "{absent}");
    Ok(())
}

#[test]
fn pairs_merge_in_the_order_of_their_file() -> Result<()> {
    let dir = dir()?;
    let table = r#"{"a":0,"b":1,"c":2,"!":3,"a</w>":4,"b</w>":5,"c</w>":6,"!</w>":7,"ab</w>":8,"ca":9,"cab</w>":10,
        "<|startoftext|>":11,"<|endoftext|>":12}"#;
    let merges = "#version: 0.2\na b</w>\nc a\nc ab</w>\n";
    let (table, merges) = (file(&dir, "vocab.json", table)?, file(&dir, "merges.txt", merges)?);
    let end = TextTokenizer::clip_files(&table, &merges, "<|endoftext|>", 8, Padding::MaxLength)?;
    assert_eq!(end.encode(&["CAB!  ba"])?.ids, [[11, 10, 7, 1, 4, 12, 12, 12]]);
    assert_eq!(end.encode(&["a<|endoftext|>b"])?.lengths, [5]);
    let zero = TextTokenizer::clip_files(&table, &merges, "!", 8, Padding::MaxLength)?;
    assert_eq!(zero.encode(&["ab!!"])?.ids, [[11, 8, 3, 3, 12, 3, 3, 3]], "the padding token takes precedence");
    Ok(())
}

#[test]
fn files_of_another_kind_are_refused() -> Result<()> {
    let dir = dir()?;
    let words = file(&dir, "vocab.txt", "a\n[UNK]\n[PAD]\n")?;
    let text = message(TextTokenizer::bert(&words, BertRules::default(), 8, Padding::Longest));
    assert!(text.contains("vocab.txt") && text.contains("lacks [CLS], [SEP]"), "{text}");
    let words = file(&dir, "vocab.txt", WORDS)?;
    let text = message(TextTokenizer::bert(&words, BertRules::default(), 2, Padding::Longest));
    assert!(text.contains("a length of 2 leaves no room"), "{text}");
    let text = message(TextTokenizer::clip(&words, 0, 77, Padding::MaxLength));
    assert!(text.contains("line 2: expected a pair"), "{text}");
    let few = file(&dir, "merges.txt", "#version\na b\n")?;
    let text = message(TextTokenizer::clip(&few, 0, 77, Padding::MaxLength));
    assert!(text.contains("expected at least 48894, got 1"), "{text}");
    let text = message(TextTokenizer::from_json(&words, None, 77, Padding::MaxLength));
    assert!(text.contains("no tokenizer.json"), "{text}");
    let text = message(TextTokenizer::from_json(&dir.path().join("absent"), None, 77, Padding::MaxLength));
    assert!(text.contains("absent"), "{text}");
    Ok(())
}
