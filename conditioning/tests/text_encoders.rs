//! Encoders of tiny sizes: every parameter learns, and what does not fit is refused.

use candle_core::{Device, Tensor};
use serde_json::json;
use strata_conditioning::{
    Error, Result,
    text::{BertConfig, BertModel, ClipConfig, ClipTextModel, LdmTextConfig, LdmTextModel, T5Config, T5Encoder},
};
use strata_nn::params::ParamStore;

fn config<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::Config(e.to_string()))
}

fn bert_config() -> Result<BertConfig> {
    config(json!({"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 6, "type_vocab_size": 2, "model_type": "bert"}))
}

fn clip_config() -> Result<ClipConfig> {
    config(json!({"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 6, "eos_token_id": 8, "projection_dim": 5}))
}

fn ids() -> Result<Tensor> {
    Ok(Tensor::new(&[[0u32, 1, 2, 3, 8, 8], [4, 5, 6, 7, 1, 8]], &Device::Cpu)?)
}

fn assert_learns(store: &ParamStore, answer: &Tensor) -> Result<()> {
    let grads = (answer * answer.exp()?)?.mean_all()?.backward()?;
    let idle: Vec<String> =
        store.trainable().iter().filter(|p| grads.get(p.var()).is_none()).map(|p| p.name().to_string()).collect();
    assert_eq!(idle, Vec::<String>::new());
    Ok(())
}

#[test]
fn every_parameter_learns() -> Result<()> {
    let mask = Tensor::new(&[[1f32, 1., 1., 1., 1., 0.], [1.; 6]], &Device::Cpu)?;
    let store = || ParamStore::new(0, &Device::Cpu);
    let bert_store = store();
    let bert = BertModel::new(&bert_store.root(), &bert_config()?, true)?;
    let pooled = bert.pooled(&bert.forward(&ids()?, Some(&mask))?)?;
    assert_learns(&bert_store, &pooled.ok_or(Error::Config("no pooler".into()))?)?;
    let clip_store = store();
    let clip = ClipTextModel::new(&clip_store.root(), &clip_config()?)?;
    let projected = clip.forward(&ids()?, Some(&mask))?.projected;
    assert_learns(&clip_store, &projected.ok_or(Error::Config("no projection".into()))?)?;
    for kind in ["relu", "gated-gelu"] {
        let t5_store = store();
        let t5: T5Config = config(json!({"vocab_size": 9, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2, "num_heads": 2,
            "feed_forward_proj": kind}))?;
        assert_learns(&t5_store, &T5Encoder::new(&t5_store.root(), &t5)?.forward(&ids()?, Some(&mask))?.last)?;
    }
    let ldm_store = store();
    let ldm = LdmTextModel::new(&ldm_store.root(), &LdmTextConfig { n_embed: 8, n_layer: 2, vocab_size: 9, max_seq_len: 6 })?;
    assert_learns(&ldm_store, &ldm.logits(&ldm.forward(&ids()?)?)?)
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let store = ParamStore::new(0, &Device::Cpu);
    let bert = BertModel::new(&store.root(), &bert_config()?, false)?;
    let message = |result: Result<Tensor>| result.err().map(|e| e.to_string()).unwrap_or_default();
    let foreign = Tensor::new(&[[1u32, 9]], &Device::Cpu)?;
    assert!(message(bert.forward(&foreign, None)).contains("token 9: expected a number below 9"));
    let long = Tensor::zeros((1, 7), candle_core::DType::U32, &Device::Cpu)?;
    assert!(message(bert.forward(&long, None)).contains("7 tokens in a row: expected 1 to 6"));
    let odd = BertConfig { num_attention_heads: 3, ..bert_config()? };
    let refused = BertModel::new(&ParamStore::new(0, &Device::Cpu).root(), &odd, false).err().map(|e| e.to_string());
    assert_eq!(refused.as_deref(), Some("text encoder: 3 heads cannot share a width of 8"));
    Ok(())
}

/// Padding with the end token, and what stands behind the end, do not change what is pooled.
#[test]
fn clip_pools_at_the_first_end() -> Result<()> {
    let clip = ClipTextModel::new(&ParamStore::new(0, &Device::Cpu).root(), &clip_config()?)?;
    let pooled = |ids: &[u32]| -> Result<Vec<f32>> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        Ok(clip.forward(&ids, None)?.pooled.flatten_all()?.to_vec1()?)
    };
    assert_eq!(pooled(&[0, 1, 2, 8, 8, 8])?, pooled(&[0, 1, 2, 8, 3, 4])?);
    assert_ne!(pooled(&[0, 1, 2, 8, 8, 8])?, pooled(&[0, 1, 3, 8, 8, 8])?);
    Ok(())
}
