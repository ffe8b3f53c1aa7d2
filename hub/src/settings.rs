//! Where the cache and the hub are, and how patient to be: from the environment variables of Python's `huggingface_hub`.

use std::{env, path::PathBuf, time::Duration};

use hf_hub::Cache;

/// What a [`Client`](crate::Client) is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The hub's address; none: the usual one.
    pub endpoint: Option<String>,
    /// Who asks.
    pub token: Option<String>,
    /// Only what is in the cache may be used.
    pub offline: bool,
    /// Attempts in a row without a byte of progress.
    pub attempts: u32,
    /// Time before the second attempt; it doubles with each further one.
    pub first_wait: Duration,
    /// Longest silence of a connection.
    pub silence: Duration,
    /// Files at a time.
    pub workers: usize,
}

impl Settings {
    /// From `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, as Python's libraries read them; `offline` adds to the last but one.
    pub fn from_env(offline: bool) -> Self {
        let home =
            text("HF_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(text("XDG_CACHE_HOME")?).join("huggingface")));
        let cache = match (text("HF_HUB_CACHE"), home) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => home.join("hub"),
            (None, None) => Cache::default().path().clone(),
        };
        let of_file = text("HF_TOKEN_PATH").map_or_else(
            || Cache::new(cache.clone()).token(),
            |path| Some(std::fs::read_to_string(path).ok()?.trim().to_string()),
        );
        let silence = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|t| t.parse().ok()).filter(|t: &f64| *t > 0.0 && *t < 1e6);
        Self {
            endpoint: text("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_string()),
            token: text("HF_TOKEN").or(of_file).filter(|token| !token.is_empty()),
            offline: offline
                || text("HF_HUB_OFFLINE").is_some_and(|t| ["1", "on", "yes", "true"].contains(&t.to_lowercase().as_str())),
            attempts: 5,
            first_wait: Duration::from_millis(500),
            silence: silence.map_or(Duration::from_secs(30), Duration::from_secs_f64),
            workers: 4,
            cache,
        }
    }
}

/// A variable that is set and not empty.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}
