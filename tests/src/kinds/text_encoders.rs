//! Kinds of the area `conditioning` that encode tokens: CLIP, BERT, T5 and latent diffusion's own transformer.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use strata_conditioning::text::{
    BertModel, BertRules, ClipTextModel, LdmTextModel, Padding, T5Encoder, TextTokenizer, mean_pooled, normalized,
};
use strata_nn::{params::ParamStore, weights};

use super::fetched::{Fetched, fetch};
use crate::golden::{Answer, Case};

/// Runs one case of these kinds.
///
/// # Errors
/// If the kind is none of them, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "bert_text" => bert(case),
        "bert_text_real" => bert_real(case),
        "clip_text" => clip(case),
        "ldm_bert_embedder" => ldm(case),
        "t5_encoder" => t5(case),
        kind => bail!("`{kind}` is no kind of text encoder"),
    }
}

fn ids(case: &Case, name: &str) -> Result<Tensor> {
    Ok(case.input(name)?.to_dtype(DType::U32)?)
}

fn mask(case: &Case) -> Result<Option<Tensor>> {
    Ok(case.input_opt("attention_mask").map(|mask| mask.to_dtype(DType::F32)).transpose()?)
}

/// The keys that the encoder's own configuration reads, which are the source's; `others` are read by the tokenizer or are given.
fn configured<T: DeserializeOwned>(case: &Case, keys: &[&str], others: &[&str]) -> Result<T> {
    let config = case.config()?;
    let taken = keys.iter().filter_map(|key| Some((key.to_string(), config.raw(key)?.clone())));
    let value = Value::Object(taken.collect::<Map<_, _>>());
    config.without_effect(others);
    config.finish()?;
    serde_json::from_value(value).context("`config`")
}

const BERT_KEYS: [&str; 9] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
];

fn bert(case: &Case) -> Result<Answer> {
    let (store, weights) = (ParamStore::new(0, &Device::Cpu), case.weights()?);
    let pooler = weights.contains_key("pooler.dense.weight");
    let model = BertModel::new(&store.root(), &configured(case, &BERT_KEYS, &[])?, pooler)?;
    store.load(&weights, "case.json")?;
    let types = case.input_opt("token_type_ids").map(|types| types.to_dtype(DType::U32)).transpose()?;
    let ids = ids(case, "input_ids")?;
    let mask = mask(case)?.map_or_else(|| Tensor::ones(ids.dims(), DType::F32, &Device::Cpu), Ok)?;
    let embedded = model.embed(&ids, types.as_ref())?;
    let last = model.encode(&embedded, Some(&mask))?;
    let mean = mean_pooled(&last, &mask)?;
    let mut answer = Answer::new()
        .with("out.embeddings", embedded)
        .with("out.mean_pooled_normalized", normalized(&mean)?)
        .with("out.mean_pooled", mean);
    if let Some(pooled) = model.pooled(&last)? {
        answer.insert("out.pooler_output", pooled);
    }
    Ok(answer.with("out.last_hidden_state", last))
}

/// Published weights, which are fetched: a sentence encoder from text to vector.
fn bert_real(case: &Case) -> Result<Answer> {
    let config = configured(case, &BERT_KEYS, &["vocab", "texts", "max_length"])?;
    let path = match fetch(case)? {
        Fetched::File(path) => path,
        Fetched::Nothing(why) => return Ok(Answer::not_run(why)),
    };
    let mut tensors = weights::load(&path, &Device::Cpu)?.tensors;
    tensors.remove("embeddings.position_ids");
    let store = ParamStore::new(0, &Device::Cpu);
    let model = BertModel::new(&store.root(), &config, tensors.contains_key("pooler.dense.weight"))?;
    store.load(&tensors, &path.display().to_string())?;
    store.freeze();
    let texts: Vec<String> = case.config()?.get("texts")?;
    let (vocab, length): (String, usize) = (case.config()?.get("vocab")?, case.config()?.get("max_length")?);
    let tokenizer = TextTokenizer::bert(&case.file(&vocab)?, BertRules::default(), length, Padding::Longest)?;
    let tokens = tokenizer.encode(&texts)?;
    let (ids, mask) = (tokens.tensor(&Device::Cpu)?, tokens.mask(&Device::Cpu)?);
    let mean = mean_pooled(&model.forward(&ids, Some(&mask))?, &mask)?;
    Ok(Answer::new()
        .with("out.input_ids", ids.to_dtype(DType::I64)?)
        .with("out.attention_mask", mask.to_dtype(DType::I64)?)
        .with("out.sentence_embedding", normalized(&mean)?)
        .with("out.mean_pooled", mean))
}

const CLIP_KEYS: [&str; 10] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "eos_token_id",
    "projection_dim",
];

fn clip(case: &Case) -> Result<Answer> {
    let store = ParamStore::new(0, &Device::Cpu);
    let model = ClipTextModel::new(&store.root(), &configured(case, &CLIP_KEYS, &["bos_token_id", "pad_token_id"])?)?;
    store.load(&case.weights()?, "case.json")?;
    let out = model.forward(&ids(case, "input_ids")?, mask(case)?.as_ref())?;
    let mut answer = Answer::new()
        .with("out.embeddings", out.embeddings)
        .with("out.last_hidden_state", out.last)
        .with("out.penultimate_hidden_state", out.penultimate)
        .with("out.penultimate_normed", out.penultimate_normed)
        .with("out.pooler_output", out.pooled);
    if let Some(projected) = out.projected {
        answer.insert("out.text_embeds", projected);
    }
    Ok(answer)
}

/// Heads, their width and the inner width are the source's constants; a case that says otherwise is none of it.
fn ldm(case: &Case) -> Result<Answer> {
    for (key, value) in [("heads", 8), ("dim_head", 64), ("ff_mult", 4)] {
        let got = case.config()?.opt::<usize>(key)?;
        ensure!(got.is_none_or(|n| n == value), "`config.{key}`: expected {value}, got {got:?}");
    }
    ensure!(!case.config()?.or("use_tokenizer", false)?, "`config.use_tokenizer`: expected false, tokens are given");
    let keys = ["n_embed", "n_layer", "vocab_size", "max_seq_len"];
    let config = configured(case, &keys, &["use_tokenizer", "heads", "dim_head", "ff_mult"])?;
    let store = ParamStore::new(0, &Device::Cpu);
    let model = LdmTextModel::new(&store.root(), &config)?;
    store.load(&case.weights()?, "case.json")?;
    let x = model.forward(&ids(case, "tokens")?)?;
    Ok(Answer::new().with("out.logits", model.logits(&x)?).with("out.embeddings", x))
}

const T5_KEYS: [&str; 10] = [
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "feed_forward_proj",
];

fn t5(case: &Case) -> Result<Answer> {
    let store = ParamStore::new(0, &Device::Cpu);
    let model = T5Encoder::new(&store.root(), &configured(case, &T5_KEYS, &[])?)?;
    store.load(&case.weights()?, "case.json")?;
    let ids = ids(case, "input_ids")?;
    let masked = model.forward(&ids, mask(case)?.as_ref())?;
    let mut answer = Answer::new().with("out.last_hidden_state", masked.last);
    answer.insert("out.hidden_state_1", masked.hidden.into_iter().next().context("T5 without a block")?);
    if case.expects("out.last_hidden_state_no_mask") {
        answer.insert("out.last_hidden_state_no_mask", model.forward(&ids, None)?.last);
    }
    Ok(answer)
}
