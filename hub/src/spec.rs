//! What names a repository, a revision and a file.

use std::fmt::Display;

use hf_hub::{Repo, RepoType};

use crate::{Error, Result};

/// Which kind of repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights and configurations.
    Model,
    /// Images and their labels.
    Dataset,
}

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its kind.
    pub kind: Kind,
    /// `owner/name`.
    pub name: String,
    /// A branch, tag or commit.
    pub revision: String,
}

/// A repository, or a file or folder in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The repository.
    pub repo: Repository,
    /// A path in it.
    pub file: Option<String>,
}

const EXPECTED: &str = "owner/name[@revision][/file], with datasets/ or models/ in front where the kind is not clear";

impl Spec {
    /// Reads `[datasets/|models/]owner/name[@revision][/file]`; without one of the prefixes it is of the kind `usual`.
    ///
    /// # Errors
    /// If it is nothing like that.
    pub fn parse(text: &str, usual: Kind) -> Result<Self> {
        let wrong = || Error::Spec { given: text.to_string(), expected: EXPECTED.to_string() };
        let (kind, rest) = match text.split_once('/') {
            Some(("datasets", rest)) if rest.contains('/') => (Kind::Dataset, rest),
            Some(("models", rest)) if rest.contains('/') => (Kind::Model, rest),
            _ => (usual, text),
        };
        let (owner, rest) = rest.split_once('/').ok_or_else(wrong)?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, file) = match rest.strip_prefix('@') {
            Some(rest) => revision(rest),
            None => ("main", rest.strip_prefix('/')),
        };
        let file = file.map(|file| file.trim_end_matches('/')).filter(|file| !file.is_empty());
        let named = |part: &str| is_name(part) && part.len() <= 96;
        if !named(owner) || !named(name) || !is_revision(revision) || file.is_some_and(|file| !is_path(file)) {
            return Err(wrong());
        }
        let repo = Repository { kind, name: format!("{owner}/{name}"), revision: revision.to_string() };
        Ok(Self { repo, file: file.map(ToString::to_string) })
    }
}

/// A revision at the beginning of `text`, and the file behind it. Those of pull requests and conversions hold slashes.
fn revision(text: &str) -> (&str, Option<&str>) {
    let parts = if text.starts_with("refs/") { 3 } else { 1 };
    match text.match_indices('/').nth(parts - 1) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn is_name(part: &str) -> bool {
    let letters = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    letters && !part.is_empty() && !part.starts_with('.') && !part.contains("..")
}

fn is_revision(text: &str) -> bool {
    text.split('/').all(is_name)
}

/// Whether a path stays below the folder that it is relative to, on every system.
pub(crate) fn is_path(path: &str) -> bool {
    let sound = |part: &str| !["", ".", ".."].contains(&part) && !part.contains(['\\', ':', '\0']);
    path.split('/').all(sound)
}

impl Repository {
    pub(crate) fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.name.clone(), kind, self.revision.clone())
    }

    /// Whether the revision is a commit, which never changes.
    pub(crate) fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// Whether `text` is the name of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(f, "{kind}{}", self.name)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn specs_name_kind_revision_and_file() {
        for (text, kind, name, revision, file) in [
            ("a/b", Kind::Model, "a/b", "main", None),
            ("a/b/", Kind::Model, "a/b", "main", None),
            ("a/b@v1.0", Kind::Model, "a/b", "v1.0", None),
            ("a/b@v1/x/y.bin", Kind::Model, "a/b", "v1", Some("x/y.bin")),
            ("a/b/x@y", Kind::Model, "a/b", "main", Some("x@y")),
            ("a/b@refs/pr/3/x", Kind::Model, "a/b", "refs/pr/3", Some("x")),
            ("datasets/a/b", Kind::Dataset, "a/b", "main", None),
            ("models/a/b/c", Kind::Model, "a/b", "main", Some("c")),
            ("datasets/b", Kind::Model, "datasets/b", "main", None),
        ] {
            let repo = Repository { kind, name: name.into(), revision: revision.into() };
            let expected = Spec { repo, file: file.map(Into::into) };
            assert_eq!(Spec::parse(text, Kind::Model).unwrap(), expected, "{text}");
        }
        assert_eq!(Spec::parse("a/b", Kind::Dataset).unwrap().repo.to_string(), "datasets/a/b");
    }

    #[test]
    fn what_leads_elsewhere_is_no_spec() {
        for text in
            ["", "a", "/b", "a/", "../b", "a/..", "a/b/../c", "a/b//c", "a/b@../x", "a/b@", "a b/c", "a/b/c\\d", "a/b/C:x"]
        {
            Spec::parse(text, Kind::Model).unwrap_err();
        }
    }
}
