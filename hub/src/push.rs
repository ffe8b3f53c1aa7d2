//! Files into a repository, as one commit.

use std::{io::Read, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::http::header;

use crate::{
    Client, Error, Kind, Repository, Result,
    client::{Failure, encoded, passing, unanswered},
};

/// Bytes of a file that the hub looks at to decide how it is kept.
const SAMPLE: usize = 512;

/// A file to write.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Where it is here.
    pub file: PathBuf,
    /// Its path in the repository.
    pub path: String,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The address of the commit, as the hub tells it.
    pub address: Option<String>,
    /// Bytes that the hub did not have.
    pub sent: u64,
}

/// A file as it is here.
struct Local<'a> {
    upload: &'a Upload,
    size: u64,
    sha256: String,
    sample: Vec<u8>,
}

/// Writes the files as one commit on the repository's revision, which must be a branch; the repository is created where there is
/// none, `private` or not. `stop` is asked between files.
///
/// # Errors
/// If there is no token, the token may not write, a file cannot be read, or the hub cannot be reached.
pub fn push(
    client: &Client,
    repo: &Repository,
    files: &[Upload],
    (summary, private): (&str, bool),
    stop: &dyn Fn() -> bool,
) -> Result<Pushed> {
    if client.settings().offline {
        return Err(Error::Offline(repo.to_string()));
    }
    if client.settings().token.is_none() {
        let remedy = Some("set HF_TOKEN to a token that may write".to_string());
        return Err(Error::Refused { subject: repo.to_string(), message: "writing needs a token".into(), remedy });
    }
    let files: Vec<Local<'_>> = files.iter().map(Local::read).collect::<Result<_>>()?;
    create(client, repo, private, stop)?;
    let large = large(client, repo, &files, stop)?;
    let mut sent = 0;
    for (file, _) in files.iter().zip(&large).filter(|(_, large)| **large) {
        if stop() {
            return Err(Error::Stopped);
        }
        sent += upload(client, repo, file, stop)?;
    }
    let mut lines = vec![json!({ "key": "header", "value": { "summary": summary, "description": "" } })];
    for (file, large) in files.iter().zip(&large) {
        lines.push(if *large { file.pointer() } else { file.inline()? });
        sent += if *large { 0 } else { file.size };
    }
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let url = client.at(&format!("api/{}/commit/{}", api(repo), encoded(&repo.revision, false)));
    let answer = post(client, repo, &url, ("application/x-ndjson", &body), stop)?;
    Ok(Pushed { address: answer["commitUrl"].as_str().map(ToString::to_string), sent })
}

impl<'a> Local<'a> {
    fn read(upload: &'a Upload) -> Result<Self> {
        let failed = |e: std::io::Error| Error::file(&upload.file, e);
        let mut file = std::fs::File::open(&upload.file).map_err(failed)?;
        let (mut hasher, mut size, mut sample) = (Sha256::new(), 0, Vec::new());
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = file.read(&mut buffer).map_err(failed)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            sample.extend_from_slice(&buffer[..n.min(SAMPLE.saturating_sub(sample.len()))]);
            size += n as u64;
        }
        Ok(Self { upload, size, sha256: format!("{:x}", hasher.finalize()), sample })
    }

    /// The line of a commit for a file that was uploaded before.
    fn pointer(&self) -> Value {
        let value = json!({ "path": self.upload.path, "algo": "sha256", "oid": self.sha256, "size": self.size });
        json!({ "key": "lfsFile", "value": value })
    }

    /// The line of a commit that holds the file.
    fn inline(&self) -> Result<Value> {
        let content = std::fs::read(&self.upload.file).map_err(|e| Error::file(&self.upload.file, e))?;
        let value = json!({ "content": BASE64_STANDARD.encode(content), "path": self.upload.path, "encoding": "base64" });
        Ok(json!({ "key": "file", "value": value }))
    }
}

/// `models/owner/name`
fn api(repo: &Repository) -> String {
    let kind = match repo.kind {
        Kind::Model => "models",
        Kind::Dataset => "datasets",
    };
    format!("{kind}/{}", repo.name)
}

fn create(client: &Client, repo: &Repository, private: bool, stop: &dyn Fn() -> bool) -> Result<()> {
    let (owner, name) = repo.name.split_once('/').unwrap_or(("", &repo.name));
    let kind = if repo.kind == Kind::Model { "model" } else { "dataset" };
    let body = json!({ "name": name, "organization": owner, "type": kind, "private": private }).to_string();
    let url = client.at("api/repos/create");
    client.persist(&repo.to_string(), stop, |_| {
        let response = request(client, &url, "application/json", &body)?;
        // It is there already: whether it may be written shows with the commit.
        if response.status() == 409 { Ok(()) } else { client.check(repo, response).map(drop) }
    })
}

/// Which files the hub wants to be uploaded apart from the commit.
fn large(client: &Client, repo: &Repository, files: &[Local<'_>], stop: &dyn Fn() -> bool) -> Result<Vec<bool>> {
    let one =
        |file: &Local<'_>| json!({ "path": file.upload.path, "sample": BASE64_STANDARD.encode(&file.sample), "size": file.size });
    let body = json!({ "files": files.iter().map(one).collect::<Vec<_>>() }).to_string();
    let url = client.at(&format!("api/{}/preupload/{}", api(repo), encoded(&repo.revision, false)));
    let answer = post(client, repo, &url, ("application/json", &body), stop)?;
    let modes = answer["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mode = |file: &Local<'_>| modes.iter().find(|mode| mode["path"] == file.upload.path);
    Ok(files.iter().map(|file| mode(file).is_some_and(|mode| mode["uploadMode"] == "lfs")).collect())
}

/// Sends a large file, unless the hub has it. Answers the bytes sent.
fn upload(client: &Client, repo: &Repository, file: &Local<'_>, stop: &dyn Fn() -> bool) -> Result<u64> {
    let body = json!({
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": [{ "oid": file.sha256, "size": file.size }],
        "hash_algo": "sha256",
        "ref": { "name": format!("refs/heads/{}", repo.revision) },
    });
    let url = client.at(&format!("{}.git/info/lfs/objects/batch", repo.repo().url()));
    let answer = post(client, repo, &url, ("application/vnd.git-lfs+json", &body.to_string()), stop)?;
    let object = &answer["objects"][0];
    let subject = format!("{repo}/{}", file.upload.path);
    if let Some(message) = object["error"]["message"].as_str() {
        return Err(Error::Refused { subject, message: message.to_string(), remedy: None });
    }
    let Some(action) = object["actions"].get("upload") else { return Ok(0) };
    let href = action["href"].as_str().unwrap_or_default();
    let header = action["header"].as_object().cloned().unwrap_or_default();
    match header.get("chunk_size").and_then(|size| size.as_str()?.parse::<u64>().ok().filter(|size| *size > 0)) {
        None => drop(put(client, repo, file, (href, 0..file.size), stop)?),
        Some(chunk) => {
            let mut parts = Vec::new();
            for (number, start) in (1..).zip((0..file.size).step_by(chunk as usize)) {
                let to = header.get(&format!("{number:05}")).or(header.get(&number.to_string())).and_then(Value::as_str);
                let to = to.ok_or_else(|| Error::Damaged {
                    subject: subject.clone(),
                    message: format!("the hub gives no address for part {number}"),
                })?;
                let etag = put(client, repo, file, (to, start..(start + chunk).min(file.size)), stop)?;
                parts.push(json!({ "partNumber": number, "etag": etag }));
            }
            let body = json!({ "oid": file.sha256, "parts": parts }).to_string();
            post(client, repo, href, ("application/vnd.git-lfs+json", &body), stop)?;
        }
    }
    if let Some(verify) = object["actions"]["verify"]["href"].as_str() {
        let body = json!({ "oid": file.sha256, "size": file.size }).to_string();
        post(client, repo, verify, ("application/vnd.git-lfs+json", &body), stop)?;
    }
    Ok(file.size)
}

/// Sends a part of a file, and answers the name that the storage gives it.
fn put(
    client: &Client,
    repo: &Repository,
    file: &Local<'_>,
    (to, range): (&str, std::ops::Range<u64>),
    stop: &dyn Fn() -> bool,
) -> Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let subject = format!("{repo}/{}", file.upload.path);
    client.persist(&subject, stop, |_| {
        let failed = |e: std::io::Error| Failure::Final(Error::file(&file.upload.file, e));
        let mut source = std::fs::File::open(&file.upload.file).map_err(failed)?;
        source.seek(SeekFrom::Start(range.start)).map_err(failed)?;
        let mut body = source.take(range.end - range.start);
        let request = client.agent().put(to).header(header::CONTENT_LENGTH, (range.end - range.start).to_string());
        let response = request.send(ureq::SendBody::from_reader(&mut body)).map_err(|e| unanswered(to, &e))?;
        let response = client.check(repo, response)?;
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
        Ok(etag.to_string())
    })
}

fn post(client: &Client, repo: &Repository, url: &str, (kind, body): (&str, &str), stop: &dyn Fn() -> bool) -> Result<Value> {
    client.persist(&repo.to_string(), stop, |_| {
        let mut response = client.check(repo, request(client, url, kind, body)?)?;
        let text = response.body_mut().read_to_string().map_err(passing)?;
        // Some answers are empty.
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    })
}

fn request(client: &Client, url: &str, kind: &str, body: &str) -> std::result::Result<ureq::http::Response<ureq::Body>, Failure> {
    let mut request = client.agent().post(url).header(header::CONTENT_TYPE, kind).header(header::ACCEPT, kind);
    if let Some(who) = client.authorization(url) {
        request = request.header(header::AUTHORIZATION, who);
    }
    request.send(body.as_bytes()).map_err(|e| unanswered(url, &e))
}
