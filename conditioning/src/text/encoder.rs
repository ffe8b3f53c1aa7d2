//! A text encoder in its published folder: configuration, weights and tokenizer, as one thing that answers contexts.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;
use strata_nn::{checkpoint::Checkpoint, params::ParamStore};

use super::{BertConfig, BertModel, BertRules, ClipConfig, ClipTextModel, Cut, Padding, T5Config, T5Encoder, TextTokenizer};
use crate::{Error, Result};

/// Tokens of a text where nothing else is asked for: as many as CLIP takes, and captions rarely have more.
const USUAL_TOKENS: usize = 77;
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Texts to contexts `[B, tokens, width]` for cross attention. CLIP's rows of padding are kept, as it was trained; those of BERT and
/// T5 are zeros, since a U-Net attends to all of a context.
#[derive(Debug)]
pub struct TextEncoder {
    network: Network,
    tokenizer: TextTokenizer,
    width: usize,
    weights: PathBuf,
    device: Device,
}

#[derive(Debug)]
enum Network {
    Bert(BertModel),
    Clip(ClipTextModel),
    T5(T5Encoder),
}

/// What a configuration says, before the weights are read.
enum Kind {
    Bert(BertConfig),
    Clip(ClipConfig),
    T5(T5Config),
}

impl TextEncoder {
    /// From the folder `dir`: `config.json` of BERT, CLIP (its text part or all of it) or T5; `model.safetensors` or
    /// `pytorch_model.bin`; `tokenizer.json` or the vocabulary files. `tokens`: the length of every row, start and end included;
    /// without it 77, or what the encoder takes at most.
    ///
    /// # Errors
    /// If a file is missing or damaged, the parts do not fit together, or `tokens` is more than the encoder takes.
    pub fn open(dir: &Path, tokens: Option<usize>, device: &Device) -> Result<Self> {
        let kind = Kind::read(&dir.join("config.json"))?;
        let tokens = rows(tokens, kind.positions(), dir)?;
        let tokenizer = tokenizer(dir, &kind, tokens)?;
        if tokenizer.vocab_size() > kind.vocabulary() {
            return Err(Error::file(
                dir,
                format!(
                    "the tokenizer does not belong to this encoder: it has {} tokens, the encoder's table {}",
                    tokenizer.vocab_size(),
                    kind.vocabulary()
                ),
            ));
        }
        let path = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| Error::file(dir, format!("holds neither {} nor {}", WEIGHTS[0], WEIGHTS[1])))?;
        let tensors = Checkpoint::open(&path)?.load_where(device, |name| kind.name(name))?;
        let store = ParamStore::new(0, device);
        let network = kind.network(&store, &tensors)?;
        store.load(&tensors, &path.display().to_string())?;
        store.freeze();
        Ok(Self { network, tokenizer, width: kind.width(), weights: path, device: device.clone() })
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of every text.
    pub fn tokens(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// The file that its weights are from.
    pub fn weights(&self) -> &Path {
        &self.weights
    }

    /// Contexts `[B, tokens, width]` float32, and what did not fit.
    ///
    /// # Errors
    /// If there is no text, or one cannot be tokenized.
    pub fn encode(&self, texts: &[&str]) -> Result<(Tensor, Vec<Cut>)> {
        let tokens = self.tokenizer.encode(texts)?;
        let (ids, mask) = (tokens.tensor(&self.device)?, tokens.mask(&self.device)?);
        let shown = |x: Tensor| Ok::<_, Error>(x.broadcast_mul(&mask.unsqueeze(2)?)?);
        let context = match &self.network {
            Network::Bert(bert) => shown(bert.forward(&ids, Some(&mask))?)?,
            Network::T5(t5) => shown(t5.forward(&ids, Some(&mask))?.last)?,
            Network::Clip(clip) => clip.forward(&ids, None)?.last,
        };
        Ok((context, tokens.cut))
    }
}

/// The length of rows. Errors if more is asked for than there are positions.
fn rows(asked: Option<usize>, positions: usize, dir: &Path) -> Result<usize> {
    match asked {
        Some(n) if n > positions => Err(Error::file(dir, format!("{n} tokens are asked for, but the encoder takes {positions}"))),
        Some(n) => Ok(n),
        None => Ok(USUAL_TOKENS.min(positions)),
    }
}

impl Kind {
    fn read(path: &Path) -> Result<Self> {
        let json =
            read_json(path)?.ok_or_else(|| Error::file(path, "is missing: expected the folder of a published text encoder"))?;
        match json["model_type"].as_str() {
            Some("bert") => Ok(Self::Bert(parse(&json, path)?)),
            Some("clip_text_model") => Ok(Self::Clip(parse(&json, path)?)),
            Some("clip") => {
                let mut text = json["text_config"].clone();
                text["projection_dim"] = json["projection_dim"].clone();
                Ok(Self::Clip(parse(&text, path)?))
            }
            Some("t5") => Ok(Self::T5(parse(&json, path)?)),
            other => Err(Error::file(
                path,
                format!("`model_type`: expected bert, clip_text_model, clip or t5, got {}", other.unwrap_or("none")),
            )),
        }
    }

    fn positions(&self) -> usize {
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            Self::Clip(config) => config.max_position_embeddings,
            // Relative positions have no end; T5 was trained on 512 tokens.
            Self::T5(_) => 512,
        }
    }

    fn vocabulary(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::Clip(config) => config.vocab_size,
            Self::T5(config) => config.vocab_size,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden_size,
            Self::Clip(config) => config.hidden_size,
            Self::T5(config) => config.d_model,
        }
    }

    /// The name of a published file's tensor in the network; none for what is not the encoder's.
    fn name(&self, published: &str) -> Option<String> {
        if published.ends_with("position_ids") {
            return None;
        }
        match self {
            Self::Bert(_) => {
                let name = published.strip_prefix("bert.").unwrap_or(published);
                let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
                (!name.starts_with("cls.")).then_some(name)
            }
            Self::Clip(_) => {
                let other = ["vision_model.", "visual_projection.", "logit_scale"];
                let bare = ["embeddings.", "encoder.", "final_layer_norm."];
                let prefix = if bare.iter().any(|start| published.starts_with(start)) { "text_model." } else { "" };
                (!other.iter().any(|start| published.starts_with(start))).then(|| format!("{prefix}{published}"))
            }
            Self::T5(_) => {
                let other = published.starts_with("decoder.") || published.starts_with("lm_head.");
                // The tied copy is the same table; files have either or both.
                let name = if published == "encoder.embed_tokens.weight" { "shared.weight" } else { published };
                (!other).then(|| name.to_string())
            }
        }
    }

    fn network(&self, store: &ParamStore, tensors: &HashMap<String, Tensor>) -> Result<Network> {
        let root = store.root();
        Ok(match self {
            Self::Bert(config) => Network::Bert(BertModel::new(&root, config, tensors.contains_key("pooler.dense.weight"))?),
            Self::Clip(config) => {
                // Configurations name a width also where there is no projection.
                let projection_dim = config.projection_dim.filter(|_| tensors.contains_key("text_projection.weight"));
                Network::Clip(ClipTextModel::new(&root, &ClipConfig { projection_dim, ..config.clone() })?)
            }
            Self::T5(config) => Network::T5(T5Encoder::new(&root, config)?),
        })
    }
}

fn tokenizer(dir: &Path, kind: &Kind, tokens: usize) -> Result<TextTokenizer> {
    // A pipeline of diffusers keeps it in a folder of its own.
    let beside = dir.with_file_name("tokenizer");
    let own = ["tokenizer.json", "vocab.json", "vocab.txt"].iter().any(|name| dir.join(name).is_file());
    let dir = if !own && beside.is_dir() { beside.as_path() } else { dir };
    let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let pad = config["pad_token"].as_str().or_else(|| config["pad_token"]["content"].as_str());
    let (json, vocab, words) = (dir.join("tokenizer.json"), dir.join("vocab.json"), dir.join("vocab.txt"));
    if json.is_file() {
        return TextTokenizer::from_json(&json, pad, tokens, Padding::MaxLength);
    }
    match kind {
        Kind::Clip(_) if vocab.is_file() => {
            let merges = dir.join("merges.txt");
            TextTokenizer::clip_files(&vocab, &merges, pad.unwrap_or("<|endoftext|>"), tokens, Padding::MaxLength)
        }
        Kind::Bert(_) if words.is_file() => {
            let usual = BertRules::default();
            let rules = BertRules {
                lower_case: config["do_lower_case"].as_bool().unwrap_or(usual.lower_case),
                strip_accents: config["strip_accents"].as_bool(),
                ..usual
            };
            TextTokenizer::bert(&words, rules, tokens, Padding::MaxLength)
        }
        _ => Err(Error::file(
            dir,
            "holds no tokenizer: expected tokenizer.json, or vocab.txt of BERT, or vocab.json and merges.txt of CLIP",
        )),
    }
}

/// The table in a file; none where there is no file.
fn read_json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, e)),
    }
}

fn parse<T: DeserializeOwned>(json: &Value, path: &Path) -> Result<T> {
    serde_json::from_value(json.clone()).map_err(|e| Error::file(path, e))
}
