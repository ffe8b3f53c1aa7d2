//! Captions embedded once beside the latents, training on them, and drawing by prompt, with a tiny encoder in the published layout.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, path::Path};

use candle_core::Device;
use common::{
    refusal,
    run::{SMALL_AUTOENCODER, ok},
    strata,
};
use serde_json::json;
use strata_conditioning::text::{BertConfig, BertModel};
use strata_nn::params::ParamStore;

const WIDTH: usize = 16;

/// A folder as published, with random weights of `seed`.
fn encoder(folder: &Path, seed: u64, width: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] a dark bright picture of the night day";
    let count = words.split(' ').count();
    std::fs::write(folder.join("vocab.txt"), words.replace(' ', "\n") + "\n").unwrap();
    let config = json!({"model_type": "bert", "vocab_size": count, "hidden_size": width, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let config: BertConfig = serde_json::from_value(config).unwrap();
    let store = ParamStore::new(seed, &Device::Cpu);
    BertModel::new(&store.root(), &config, true).unwrap();
    strata_nn::weights::save(&folder.join("model.safetensors"), &store.tensors(), &BTreeMap::new()).unwrap();
}

/// Dark and bright pictures with their captions beside them; one has none.
fn captioned(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..24u32 {
        let (shade, text) = if i % 2 == 0 { (30 + i as u8, "a dark picture") } else { (200 + i as u8, "a bright picture") };
        image::RgbImage::from_pixel(16, 16, image::Rgb([shade; 3])).save(folder.join(format!("{i:02}.png"))).unwrap();
        if i < 23 {
            std::fs::write(folder.join(format!("{i:02}.txt")), text).unwrap();
        }
    }
}

fn pixels(folder: &Path, file: &str) -> Vec<u8> {
    image::open(folder.join(file)).unwrap().into_rgb8().into_raw()
}

#[test]
fn cli_captions_are_embedded_once_and_prompts_decide_what_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    encoder(&folder.join("encoder"), 0, WIDTH);
    captioned(&folder.join("pictures"));
    let train =
        ["train", "autoencoder", "--data", "pictures", "--out", "autoencoder", "--size", "16", "--images", "1600", "--quiet"];
    ok(folder, &train, SMALL_AUTOENCODER);
    let encode = ["encode", "--autoencoder", "autoencoder", "--data", "pictures", "--out", "latents"];
    let (text, stderr) = ok(folder, &encode, &["--text-encoder", "encoder", "--text-tokens", "4"]);
    assert!(text.contains("3 distinct captions embedded, 4 tokens of width 16"), "{text}");
    assert!(stderr.contains("a bright picture") && stderr.contains("`picture`"), "what was cut is not named: {stderr}");
    std::fs::remove_dir_all(folder.join("latents")).unwrap();
    let (_, stderr) = ok(folder, &encode, &["--text-encoder", "encoder", "--text-tokens", "6"]);
    assert!(!stderr.contains("cut"), "{stderr}");
    let before = std::fs::read(folder.join("latents/captions.safetensors")).unwrap();
    ok(folder, &encode, &["--text-encoder", "encoder", "--text-tokens", "6"]);
    assert!(before == std::fs::read(folder.join("latents/captions.safetensors")).unwrap());
    let other = [&encode[..], &["--text-encoder", "encoder", "--text-tokens", "5"]].concat();
    assert!(refusal(strata(folder).args(other)).contains("with 6 tokens"));

    let train =
        ["train", "diffusion", "--latents", "latents", "--preset", "emoji-text", "--out", "run", "--images", "4800", "--quiet"];
    let small = ["--set", "unet.width=16", "--set", "unet.groups=8", "--set", "unet.multipliers=[1,2]", "--batch", "8"];
    let decoders = ["--set", "unet.decoders=[{ width = 16, attention = [1] }]", "--set", "stage_policy=\"natural\""];
    let quick = ["--set", "optimizer.lr=4e-3", "--set", "lr_schedule={ kind = \"constant\" }"];
    let average = ["--set", "ema={ kind = \"constant\", decay = 0.9 }"];
    let train = [&train[..], &small, &decoders, &quick, &average].concat();
    let wrong = refusal(strata(folder).args(&train));
    assert!(wrong.contains("`unet.transformer.context_width` is 384, but the text encoder's embeddings are 16 wide"), "{wrong}");
    ok(folder, &train, &["--set", "unet.transformer.context_width=16"]);
    let (text, _) = ok(folder, &["inspect", "run"], &[]);
    assert!(text.contains("texts: 6 tokens of width 16"), "{text}");

    let sample = ["sample", "run", "--steps", "4", "--seeds", "0-7"];
    let mean = |more: &[&str], out: &str| {
        let (_, stderr) = ok(folder, &[&sample[..], &["--out", out]].concat(), more);
        let values: Vec<u8> = (0..8).flat_map(|i| pixels(folder, &format!("{out}/{i:06}.png"))).collect();
        (values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64, stderr)
    };
    let (dark, stderr) = mean(&["--prompt", "a dark picture"], "dark");
    assert!(stderr.contains("2 texts encoded for 8 images"), "{stderr}");
    let (bright, _) = mean(&["--prompt", "a bright picture", "--negative-prompt", "a dark picture"], "bright");
    assert!(bright > dark + 5.0, "dark {dark}, bright {bright}");
    let eight: String =
        ["a", "a dark", "a bright", "a picture", "the", "the night", "the day", "a picture of the night"].join("\n");
    std::fs::write(folder.join("eight.txt"), eight).unwrap();
    let many = ["sample", "run", "--steps", "1", "--seeds", "0-255", "--batch", "64", "--prompts", "eight.txt", "--guidance"];
    let (_, stderr) = ok(folder, &many, &["1", "--out", "many"]);
    assert!(stderr.contains("8 texts encoded for 256 images"), "{stderr}");
    let (_, stderr) = ok(folder, &many, &["3", "--out", "guided"]);
    assert!(stderr.contains("9 texts encoded for 256 images"), "the empty one, too: {stderr}");
    std::fs::write(folder.join("prompts.txt"), "a dark picture\na bright picture\n").unwrap();
    let (_, stderr) = mean(&["--prompts", "prompts.txt"], "both");
    assert!(stderr.contains("3 texts encoded for 8 images"), "{stderr}");
    assert_eq!(pixels(folder, "both/000002.png"), pixels(folder, "dark/000002.png"));
    mean(&[], "unasked");

    let refused = |more: &[&str]| refusal(strata(folder).args([&sample[..], &["--out", "none"]].concat()).args(more));
    assert!(refused(&["--prompt", ""]).contains("expected a text, got an empty one"));
    std::fs::write(folder.join("foreign.txt"), b"a\n\xff\xfe\n").unwrap();
    assert!(refused(&["--prompts", "foreign.txt"]).contains("UTF-8, but lines are not: 2"));
    encoder(&folder.join("others"), 1, WIDTH);
    assert!(refused(&["--prompt", "a", "--text-encoder", "others"]).contains("not the text encoder of this model"));
    encoder(&folder.join("wide"), 1, 2 * WIDTH);
    assert!(refused(&["--prompt", "a", "--text-encoder", "wide"]).contains("32 wide, the model was trained with 16"));
    let words = std::fs::read_to_string(folder.join("others/vocab.txt")).unwrap() + "noon\n";
    std::fs::write(folder.join("others/vocab.txt"), words).unwrap();
    let said = refused(&["--prompt", "a", "--text-encoder", "others"]);
    assert!(said.contains("the tokenizer does not belong to this encoder: it has 14 tokens, the encoder's table 13"), "{said}");
    std::fs::rename(folder.join("encoder"), folder.join("moved")).unwrap();
    assert!(refused(&["--prompt", "a"]).contains("no longer at"));
    ok(folder, &sample, &["--out", "again", "--prompt", "a dark picture", "--text-encoder", "moved", "--quiet"]);
    assert_eq!(pixels(folder, "again/000000.png"), pixels(folder, "dark/000000.png"));
}
