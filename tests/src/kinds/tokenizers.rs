//! Kinds of the area `conditioning` without a network: tokenizers over published vocabularies.

use anyhow::{Context, Result, bail, ensure};
use strata_conditioning::text::{BertRules, Padding, TextTokenizer};

use crate::golden::{Answer, Case};

/// Runs one case of a tokenizer.
///
/// # Errors
/// If the kind is none of them, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "bert_wordpiece_tokenize" => bert(case),
        "clip_bpe_tokenize" => clip(case),
        kind => bail!("`{kind}` is no tokenizer"),
    }
}

fn bert(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let rules = BertRules {
        lower_case: config.or("do_lower_case", true)?,
        strip_accents: config.opt("strip_accents")?,
        split_ideographs: config.or("tokenize_chinese_chars", true)?,
    };
    let (vocab, texts): (String, Vec<String>) = (config.get("vocab")?, config.get("texts")?);
    let tokenizer = TextTokenizer::bert(&case.file(&vocab)?, rules, config.get("max_length")?, Padding::MaxLength)?;
    config.finish()?;
    let mut answer = Answer::new();
    padded(&mut answer, &tokenizer, &texts)?;
    raw(&mut answer, "out.raw", &raw_rows(&tokenizer, &texts)?)?;
    Ok(answer)
}

fn clip(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (vocab, texts): (String, Vec<String>) = (config.get("vocab")?, config.get("texts")?);
    let (pad_id, max_length): (u32, usize) = (config.get("pad_token_id")?, config.get("max_length")?);
    config.finish()?;
    let tokenizer = TextTokenizer::clip(&case.file(&vocab)?, pad_id, max_length, Padding::MaxLength)?;
    let mut answer = Answer::new();
    padded(&mut answer, &tokenizer, &texts)?;
    let rows = raw_rows(&tokenizer, &texts)?;
    raw(&mut answer, "out.raw", &rows)?;
    original(case, &mut answer, rows, max_length)?;
    Ok(answer)
}

/// `out.input_ids` and `out.attention_mask`.
fn padded(answer: &mut Answer, tokenizer: &TextTokenizer, texts: &[String]) -> Result<()> {
    let tokens = tokenizer.encode(texts)?;
    let shape = (texts.len(), tokens.length());
    let mask = tokens.lengths.iter().flat_map(|&n| (0..tokens.length()).map(move |i| i64::from(i < n)));
    answer.insert_values("out.attention_mask", mask.collect::<Vec<i64>>(), shape)?;
    answer.insert_values("out.input_ids", tokens.ids.into_iter().flatten().map(i64::from).collect(), shape)
}

fn raw_rows(tokenizer: &TextTokenizer, texts: &[String]) -> Result<Vec<Vec<i64>>> {
    texts.iter().map(|text| Ok(tokenizer.raw(text)?.into_iter().map(i64::from).collect())).collect()
}

/// `<prefix>_ids` and `<prefix>_lengths`.
fn raw(answer: &mut Answer, prefix: &str, rows: &[Vec<i64>]) -> Result<()> {
    let ids = rows.concat();
    let count = ids.len();
    answer.insert_values(format!("{prefix}_ids"), ids, count)?;
    answer.insert_values(format!("{prefix}_lengths"), rows.iter().map(|row| row.len() as i64).collect(), rows.len())
}

/// `out.openai_*`: the original's clean-up repairs text first, which no published pipeline of ours does. Where it changes nothing
/// both give the same ids; the texts where it does are listed in the case's notes and stand for themselves.
fn original(case: &Case, answer: &mut Answer, mut rows: Vec<Vec<i64>>, max_length: usize) -> Result<()> {
    let (ids, lengths) = (integers(case, "out.openai_raw_ids")?, integers(case, "out.openai_raw_lengths")?);
    ensure!(lengths.len() == rows.len(), "`out.openai_raw_lengths`: expected {} of them, got {}", rows.len(), lengths.len());
    let repaired = repaired(case)?;
    let mut rest = ids.as_slice();
    for (i, length) in lengths.into_iter().enumerate() {
        let (row, after) = rest.split_at_checked(usize::try_from(length)?).context("`out.openai_raw_ids`: too short")?;
        rest = after;
        if repaired.contains(&i) {
            rows[i] = row.to_vec();
        }
    }
    let filled = rows.iter().flat_map(|row| {
        let text = row.iter().copied().take(max_length - 2);
        let around = [49406].into_iter().chain(text).chain([49407]);
        around.chain(std::iter::repeat(0)).take(max_length).collect::<Vec<i64>>()
    });
    answer.insert_values("out.openai_ids", filled.collect(), (rows.len(), max_length))?;
    raw(answer, "out.openai_raw", &rows)
}

/// The list of texts in the case's notes.
fn repaired(case: &Case) -> Result<Vec<usize>> {
    let notes = case.json["notes"].as_str().unwrap_or_default();
    let Some((_, list)) = notes.rsplit_once('[') else { return Ok(Vec::new()) };
    let list = list.split_once(']').context("`notes`: a list without its end")?.0;
    let numbers = list.split(',').map(str::trim).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().with_context(|| format!("`notes`: `{number}` is no index"))).collect()
}

fn integers(case: &Case, name: &str) -> Result<Vec<i64>> {
    Ok(case.tensor(name)?.flatten_all()?.to_vec1::<i64>()?)
}
