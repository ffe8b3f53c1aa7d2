//! Requests to a hub: addresses, tokens, attempts, and what refusals mean.

use std::{
    thread,
    time::{Duration, Instant},
};

use hf_hub::{Cache, api::sync::ApiBuilder};
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{Error, Repository, Result, Settings};

/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 10;
/// Time to find a server and connect to it.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait that a hub may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Between two looks whether to stop while waiting.
const GLANCE: Duration = Duration::from_millis(50);

/// A hub, and who asks it.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    settings: Settings,
}

/// Why an attempt failed.
pub(crate) enum Failure {
    /// Another attempt may do better, after the time that the hub asked for.
    Passing { why: String, wait: Option<Duration> },
    /// It will not.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// A failed attempt that another may mend.
#[allow(clippy::needless_pass_by_value, reason = "named where errors are mapped")]
pub(crate) fn passing(why: impl ToString) -> Failure {
    Failure::Passing { why: why.to_string(), wait: None }
}

impl Client {
    /// # Errors
    /// If the files of certificates that the environment names cannot be read.
    pub fn new(settings: Settings) -> Result<Self> {
        let mut builder = ApiBuilder::from_cache(Cache::new(settings.cache.clone()));
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        // The crate tells its address only as part of a file's.
        let api = builder.build().map_err(|e| Error::Network { subject: "the hub".into(), message: e.to_string() })?;
        let address = api.model("a/b".into()).url("c");
        let endpoint = address.strip_suffix("/a/b/resolve/main/c").unwrap_or(&address).to_string();
        // Offline nobody needs to be trusted.
        let certificates = if settings.offline { RootCerts::WebPki } else { root_certificates()? };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(settings.silence))
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(certificates).build());
        Ok(Self { agent: config.build().into(), endpoint, settings })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The address of something on the hub.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// The address of a file of a repository.
    pub(crate) fn file_at(&self, repo: &Repository, revision: &str, path: &str) -> String {
        let (revision, path) = (encoded(revision, false), encoded(path, true));
        self.at(&format!("{}/resolve/{revision}/{path}", repo.repo().url()))
    }

    /// The value of the header that says who asks. Only the hub itself is told.
    pub(crate) fn authorization(&self, url: &str) -> Option<String> {
        let own = url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        self.settings.token.as_ref().filter(|_| own).map(|token| format!("Bearer {token}"))
    }

    /// One attempt to read `url`, from the byte `from`; redirects are followed. Answers with status 2xx, or 416 where bytes are
    /// asked for.
    pub(crate) fn get(&self, repo: &Repository, url: &str, from: u64) -> std::result::Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..=MAX_REDIRECTS {
            // Compressed, a body would have another size.
            let mut request = self.agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if let Some(who) = self.authorization(&url) {
                request = request.header(header::AUTHORIZATION, who);
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| unanswered(&url, &e))?;
            match redirect(&response, &url)? {
                Some(next) => url = next,
                None if from > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE => return Ok(response),
                None => return self.check(repo, response),
            }
        }
        Err(passing(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// One attempt to read the headers of a file. Only redirects within the hub are followed, since it is the hub that knows.
    pub(crate) fn head(&self, repo: &Repository, url: &str) -> std::result::Result<HeaderMap, Failure> {
        let mut url = url.to_string();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.head(&url).header(header::ACCEPT_ENCODING, "identity");
            if let Some(who) = self.authorization(&url) {
                request = request.header(header::AUTHORIZATION, who);
            }
            let response = request.call().map_err(|e| unanswered(&url, &e))?;
            let told = response.headers().contains_key("x-repo-commit");
            match redirect(&response, &url)? {
                Some(next) if !told => url = next,
                Some(_) => return Ok(response.into_parts().0.headers),
                None => return Ok(self.check(repo, response)?.into_parts().0.headers),
            }
        }
        Err(passing(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The response, if it says yes.
    pub(crate) fn check(&self, repo: &Repository, mut response: Response<Body>) -> std::result::Result<Response<Body>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() {
            let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let wait = header.map(|seconds: u64| Duration::from_secs(seconds).min(LONGEST_WAIT));
            return Err(Failure::Passing { why: format!("the hub answers {status}"), wait });
        }
        let of = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(ToString::to_string);
        let (code, said) = (of("x-error-code"), of("x-error-message"));
        let said = said.or_else(|| reason(&response.body_mut().read_to_string().ok()?));
        Err(Failure::Final(self.refusal(repo, status, code.as_deref(), said.as_deref())))
    }

    fn refusal(&self, repo: &Repository, status: StatusCode, code: Option<&str>, said: Option<&str>) -> Error {
        let signed_in = self.settings.token.is_some();
        let gated = code == Some("GatedRepo") || said.is_some_and(|s| s.to_lowercase().contains("gated"));
        let (message, remedy) = match (status.as_u16(), code) {
            (401 | 403, _) if gated => (
                "is gated: its authors want to be asked first",
                Some("open its page in a browser, agree there, and set HF_TOKEN to a token of that account"),
            ),
            (_, Some("RevisionNotFound")) => ("has no such revision", Some("name a branch, tag or commit behind the @")),
            (_, Some("EntryNotFound")) => {
                ("has no such file", Some("`strata pull owner/name` fetches all files, and lists them"))
            }
            (401, _) if signed_in && said.is_some_and(|s| s.contains("nvalid")) => {
                ("the hub does not accept the token", Some("set HF_TOKEN to a valid one, or unset it for what is public"))
            }
            (401, _) if !signed_in => (
                "does not exist, or is private",
                Some("check the name; for a private repository set HF_TOKEN to a token that may read it"),
            ),
            (401 | 403, _) => ("may not be read with this token", Some("set HF_TOKEN to a token that may read it")),
            (404, Some("RepoNotFound") | None) => {
                ("does not exist (or is private, and the token may not read it)", Some("check the name, and HF_TOKEN"))
            }
            _ => ("the hub refuses it", None),
        };
        let said = said.map_or(String::new(), |said| format!(": {}", shortened(said)));
        let message = format!("{message} ({status}{said})");
        Error::Refused { subject: repo.to_string(), message, remedy: remedy.map(ToString::to_string) }
    }

    /// Runs attempts until one succeeds or nothing more is gained. `progress` grows with what has been gained.
    pub(crate) fn persist<T>(
        &self,
        subject: &str,
        stop: &dyn Fn() -> bool,
        mut attempt: impl FnMut(&mut u64) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let (mut failed, mut gained) = (0, 0);
        loop {
            let before = gained;
            match attempt(&mut gained) {
                Ok(value) => return Ok(value),
                Err(_) if stop() => return Err(Error::Stopped),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { why, wait }) => {
                    failed = if gained > before { 1 } else { failed + 1 };
                    if failed >= self.settings.attempts {
                        let message = format!("{why} ({failed} attempts)");
                        return Err(Error::Network { subject: subject.to_string(), message });
                    }
                    let usual = self.settings.first_wait * 2u32.pow(failed.min(6) - 1);
                    pause(wait.unwrap_or(usual), stop)?;
                }
            }
        }
    }
}

/// A request without an answer. What will be so again is not tried again: an address or a certificate that cannot be used.
pub(crate) fn unanswered(url: &str, error: &ureq::Error) -> Failure {
    let (message, remedy) = match error {
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            (format!("no safe connection: {e}"), Some("SSL_CERT_FILE names the certificates that are trusted, as within firms"))
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (error.to_string(), Some("HF_ENDPOINT is the hub's address, https://..."))
        }
        other => return passing(other),
    };
    let subject = url.split('?').next().unwrap_or(url).to_string();
    Failure::Final(Error::Refused { subject, message, remedy: remedy.map(ToString::to_string) })
}

/// Where a response leads to, if it leads elsewhere.
fn redirect(response: &Response<Body>, url: &str) -> std::result::Result<Option<String>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| passing("a redirect that leads nowhere"))?;
    if location.starts_with("http://") || location.starts_with("https://") {
        return Ok(Some(location.to_string()));
    }
    let host = url.find("://").map_or(0, |at| at + 3);
    let root = url[host..].find('/').map_or(url.len(), |at| host + at);
    if !location.starts_with('/') {
        return Err(passing(format!("a redirect to {location:?}, expected an address")));
    }
    Ok(Some(format!("{}{location}", &url[..root])))
}

/// Waits, and looks up in between.
fn pause(time: Duration, stop: &dyn Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        if stop() {
            return Err(Error::Stopped);
        }
        match time.checked_sub(begin.elapsed()) {
            Some(left) if !left.is_zero() => thread::sleep(left.min(GLANCE)),
            _ => return Ok(()),
        }
    }
}

/// The reason in the body of a refusal: JSON's `error`.
fn reason(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json["error"].as_str().map(ToString::to_string)
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// As part of an address.
pub(crate) fn encoded(text: &str, with_slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (with_slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Those of the browsers, or those in the file that `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE` names, as within firms.
fn root_certificates() -> Result<RootCerts> {
    let Some(path) =
        ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(|name| std::env::var_os(name).filter(|v| !v.is_empty()))
    else {
        return Ok(RootCerts::WebPki);
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = items.collect();
    if certificates.is_empty() {
        return Err(Error::file(&path, "expected certificates in PEM, found none"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encoded("a b/ü#?.bin", true), "a%20b/%C3%BC%23%3F.bin");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
