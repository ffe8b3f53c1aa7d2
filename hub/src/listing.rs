//! What a repository holds at a revision.

use serde::Deserialize;
use ureq::http::{HeaderMap, header};

use crate::{
    Client, Error, Repository, Result,
    client::{Failure, encoded, passing},
    identity::is_file_name,
    spec::{is_commit, is_path},
};

/// A file on the hub.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// Its path in the repository.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its name in the cache: the SHA-256 of a large file, git's hash of a small one.
    pub(crate) id: String,
}

/// A repository at a commit.
pub(crate) struct Listing {
    pub(crate) commit: String,
    /// Paths, with size and name where the hub lists these.
    pub(crate) files: Vec<(String, Option<(u64, String)>)>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    size: Option<u64>,
}

/// Everything in the repository, in alphabetical order.
pub(crate) fn list(client: &Client, repo: &Repository, stop: &dyn Fn() -> bool) -> Result<Listing> {
    let kind = repo.repo().api_url();
    let at = kind.strip_suffix(&repo.revision).map_or(kind.clone(), |head| format!("{head}{}", encoded(&repo.revision, false)));
    let url = client.at(&format!("api/{at}?blobs=true"));
    let info: Info = client.persist(&repo.to_string(), stop, |_| {
        let mut response = client.get(repo, &url, 0)?;
        let body = response.body_mut().with_config().limit(1 << 28).read_to_string().map_err(passing)?;
        serde_json::from_str(&body).map_err(|e| passing(format!("the hub's list of files cannot be read: {e}")))
    })?;
    let sound = info.siblings.iter().find(|s| !is_path(&s.rfilename));
    if let Some(bad) = sound {
        let message = format!("lists a file `{}`, whose path leads elsewhere", bad.rfilename.escape_debug());
        return Err(Error::Damaged { subject: repo.to_string(), message });
    }
    let mut files: Vec<_> = info.siblings.into_iter().map(Sibling::into_file).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Listing { commit: checked_commit(repo, &info.sha)?, files })
}

impl Sibling {
    fn into_file(self) -> (String, Option<(u64, String)>) {
        let of_large = self.lfs.and_then(|large| Some((large.size.or(self.size)?, large.sha256?)));
        let known = of_large.or_else(|| Some((self.size?, self.blob?)));
        (self.rfilename, known.filter(|(_, id)| is_file_name(id)))
    }
}

/// One file by its headers, and the commit that the revision is.
pub(crate) fn file(
    client: &Client,
    repo: &Repository,
    revision: &str,
    path: &str,
    stop: &dyn Fn() -> bool,
) -> Result<(String, Remote)> {
    let url = client.file_at(repo, revision, path);
    let subject = format!("{repo}/{path}");
    let headers = client.persist(&subject, stop, |_| {
        client.head(repo, &url).map_err(|failure| match failure {
            Failure::Final(Error::Refused { message, remedy, .. }) => {
                Failure::Final(Error::Refused { subject: subject.clone(), message, remedy })
            }
            other => other,
        })
    })?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let missing = |what: &str| Error::Damaged { subject: subject.clone(), message: format!("the hub does not tell its {what}") };
    let id = etag(&headers).filter(|id| is_file_name(id)).ok_or_else(|| missing("hash (ETag)"))?;
    let size = text("x-linked-size").or(text(header::CONTENT_LENGTH.as_str())).and_then(|size| size.parse().ok());
    let commit = text("x-repo-commit").ok_or_else(|| missing("commit"))?;
    let remote = Remote { path: path.to_string(), size: size.ok_or_else(|| missing("size"))?, id };
    Ok((checked_commit(repo, commit)?, remote))
}

/// The hash of the file itself, before that of what is served in its place.
fn etag(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-linked-etag").or(headers.get(header::ETAG))?.to_str().ok()?;
    Some(value.trim_start_matches("W/").trim_matches('"').to_string())
}

fn checked_commit(repo: &Repository, commit: &str) -> Result<String> {
    if is_commit(commit) {
        return Ok(commit.to_string());
    }
    let message = format!("its commit is {:?}, expected 40 hexadecimal digits", commit.chars().take(80).collect::<String>());
    Err(Error::Damaged { subject: repo.to_string(), message })
}
