//! Settings in layers and their errors.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde::{Deserialize, Serialize};
use strata_training::{
    Error, LrSchedule,
    settings::{Layers, resolve, to_toml},
};
use toml::Table;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Model {
    channels: Vec<usize>,
    dropout: f64,
    groups: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self { channels: vec![32, 64], dropout: 0.0, groups: 8 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Loss {
    L1,
    HuberSmooth,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    batch: usize,
    seed: u64,
    max_minutes: Option<f64>,
    loss: Loss,
    model: Model,
    schedule: LrSchedule,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "x".to_string(),
            batch: 16,
            seed: 0,
            max_minutes: None,
            loss: Loss::L1,
            model: Model::default(),
            schedule: LrSchedule::Warmup { warmup_images: 10 },
        }
    }
}

fn sets(list: &[&str]) -> Layers {
    Layers { sets: list.iter().map(ToString::to_string).collect(), ..Layers::default() }
}

fn error(layers: Layers) -> Error {
    resolve::<Config>(layers).unwrap_err()
}

#[test]
fn each_layer_lies_over_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "batch = 3\nseed = 3\n[model]\ngroups = 3\ndropout = 0.3\n").unwrap();
    let layers = Layers {
        preset: Some("name = 'preset'\nbatch = 2\n[model]\ngroups = 2\nchannels = [2]".parse().unwrap()),
        file: Some(file),
        sets: vec!["seed=4".to_string(), "model.dropout=0.4".to_string()],
        flags: "seed = 5".parse().unwrap(),
    };
    let (config, table) = resolve::<Config>(layers).unwrap();
    let model = Model { channels: vec![2], dropout: 0.4, groups: 3 };
    assert_eq!(config, Config { name: "preset".to_string(), batch: 3, seed: 5, model, ..Config::default() });
    let again = Layers { preset: Some(to_toml(&table).unwrap().parse().unwrap()), ..Layers::default() };
    assert_eq!(resolve::<Config>(again).unwrap().0, config);
}

#[test]
fn values_of_set() {
    let list = ["name=abc", "max_minutes=2", "model.channels=[1, 2, 3]", "loss=huber-smooth", "schedule.warmup_images=7"];
    let (config, _) = resolve::<Config>(sets(&list)).unwrap();
    assert_eq!((config.name.as_str(), config.max_minutes, config.loss), ("abc", Some(2.0), Loss::HuberSmooth));
    assert_eq!(config.model.channels, [1, 2, 3]);
    assert_eq!(config.schedule, LrSchedule::Warmup { warmup_images: 7 });
    for text in ["name=42", "name='42'", "name = \"42\""] {
        assert_eq!(resolve::<Config>(sets(&[text])).unwrap().0.name, "42");
    }
    for text in ["name", "=3", "model..groups=3"] {
        let message = error(sets(&[text])).to_string();
        assert!(message.contains("expected key=value") && message.contains(text), "{message}");
    }
}

#[test]
fn another_kind_replaces_the_table_whatever_the_order() {
    for list in [["schedule.kind=cosine", "schedule.total_images=9"], ["schedule.total_images=9", "schedule.kind=cosine"]] {
        let (config, _) = resolve::<Config>(sets(&list)).unwrap();
        assert_eq!(config.schedule, LrSchedule::Cosine { warmup_images: 0, total_images: 9, min: 0.0 });
    }
}

#[test]
fn unknown_keys_name_the_nearest_and_where_they_stand() {
    let Error::UnknownKey { key, origin, nearest, known } = error(sets(&["model.drpout=1"])) else { panic!("another error") };
    assert_eq!((key.as_str(), origin.as_str(), nearest.as_deref()), ("model.drpout", "--set", Some("model.dropout")));
    assert_eq!(known, ["model.channels", "model.dropout", "model.groups"]);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "bach = 3\n").unwrap();
    let message = error(Layers { file: Some(file), ..Layers::default() }).to_string();
    assert!(message.contains("c.toml") && message.contains("did you mean `batch`?"), "{message}");

    let message = error(sets(&["max_minuets=3"])).to_string();
    assert!(message.contains("did you mean `max_minutes`?"), "an optional key is known too: {message}");
    let message = error(sets(&["zzzzzzzzzzz=3"])).to_string();
    assert!(!message.contains("did you mean") && message.contains("batch"), "{message}");
    let message = error(sets(&["schedule.warmup_image=3"])).to_string();
    assert!(message.contains("`schedule.warmup_image`") && message.contains("`schedule.warmup_images`"), "{message}");
}

#[test]
fn all_unknown_keys_are_reported_at_once() {
    let flags: Table = "nam = 1\nbatch_size = 2".parse().unwrap();
    let message = error(Layers { flags, ..sets(&["model.group=1"]) }).to_string();
    for part in ["3 settings", "`nam` in the command line", "`batch_size`", "`model.group` in --set"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn wrong_values_name_key_expectation_and_value() {
    let cases = [
        ("batch=many", "key `batch` in --set: expected usize, got \"many\""),
        ("model.groups=-1", "key `model.groups` in --set: expected usize, got -1"),
        ("model.groups=1.5", "key `model.groups` in --set: expected usize, got 1.5"),
        ("model.dropout=true", "key `model.dropout` in --set: expected f64, got true"),
        ("model.channels=[1, 'a']", "key `model.channels` in --set: expected usize"),
        ("model=3", "key `model` in --set"),
        ("loss=huber-smoth", "did you mean `huber-smooth`?"),
        ("schedule.kind=cosin", "did you mean `cosine`?"),
        ("schedule.kind=cosine", "key `schedule.total_images` in --set: expected a value, got none"),
    ];
    for (text, part) in cases {
        let message = error(sets(&[text])).to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let message = error(Layers { file: Some(dir.path().join("none.toml")), ..Layers::default() }).to_string();
    assert!(message.contains("none.toml"), "{message}");
    let broken = dir.path().join("broken.toml");
    std::fs::write(&broken, "a = \n").unwrap();
    let message = error(Layers { file: Some(broken), ..Layers::default() }).to_string();
    assert!(message.contains("broken.toml") && message.contains("line 1"), "{message}");
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Heads {
    Count(usize),
    Width(usize),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Network {
    heads: Heads,
    width: usize,
}

impl Default for Network {
    fn default() -> Self {
        Self { heads: Heads::Width(32), width: 8 }
    }
}

/// A choice that is one word or a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    Natural,
    Probabilities(Vec<f64>),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Outer {
    network: Network,
    policy: Policy,
}

#[test]
fn a_word_gives_way_to_a_table() {
    for text in ["policy={ probabilities = [0.5, 0.5] }", "policy.probabilities=[0.5, 0.5]"] {
        assert_eq!(resolve::<Outer>(sets(&[text])).unwrap().0.policy, Policy::Probabilities(vec![0.5, 0.5]));
    }
    let message = resolve::<Outer>(sets(&["policy=[0.5, 0.5]"])).unwrap_err().to_string();
    assert!(message.contains("key `policy` in --set: expected"), "{message}");
}

#[test]
fn a_choice_named_by_its_only_key_is_replaced_and_sets_add_up() {
    let preset: Table = toml::from_str("[network]\nheads = { count = 1 }").unwrap();
    let layers = Layers { preset: Some(preset), ..sets(&["network.width=4"]) };
    let (settings, _) = resolve::<Outer>(layers).unwrap();
    assert_eq!(settings.network, Network { heads: Heads::Count(1), width: 4 });
    let (settings, _) = resolve::<Outer>(sets(&["network.width=4", "network.heads={ count = 2 }"])).unwrap();
    assert_eq!(settings.network, Network { heads: Heads::Count(2), width: 4 });
}
