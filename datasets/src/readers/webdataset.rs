//! WebDataset: tar shards in which neighbouring members of one key make a sample.

use std::path::{Path, PathBuf};

use crate::dataset::{Content, Metadata, Source};
use crate::listing::{Labels, Texts};
use crate::readers::files;
use crate::readers::regions::RangeFile;
use crate::readers::tar::{self, Member};
use crate::{Error, Result};

const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Offset and size within the shard.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    size: u64,
}

impl Part {
    /// What is not there.
    const NONE: Self = Self { offset: u64::MAX, size: 0 };

    fn is_there(self) -> bool {
        self.offset != u64::MAX
    }
}

/// 56 bytes beside the key and label.
#[derive(Clone, Copy)]
struct Sample {
    shard: u32,
    picture: Part,
    caption: Part,
    json: Part,
}

/// The samples of all shards that have a picture.
pub(crate) struct WebDataset {
    shards: Vec<(RangeFile, String)>,
    keys: Texts,
    labels: Labels,
    samples: Vec<Sample>,
}

impl WebDataset {
    /// Opens the archives that `path` names: one file, a pattern with `{a..b}`, or all archives of a folder.
    /// Errors if one is damaged, a `cls` is no number, or there is no picture.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut set = Self { shards: Vec::new(), keys: Texts::default(), labels: Labels::default(), samples: Vec::new() };
        for shard in shard_paths(path)? {
            set.add(&shard)?;
        }
        if set.samples.is_empty() {
            return Err(Error::NoImages { path: path.to_path_buf(), looked_for: format!("members {}", PICTURES.join(", ")) });
        }
        Ok(set)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = if tar::is_packed(path) { RangeFile::open_gzip(path)? } else { RangeFile::open(path)? };
        let mut sample: Vec<Member> = Vec::new();
        tar::each_member(&file, |member| {
            let key = |m: &Member| split_name(&m.name).0.to_string();
            if sample.first().is_some_and(|first| key(first) != key(&member)) {
                self.add_sample(&file, &sample)?;
                sample.clear();
            }
            sample.push(member);
            Ok(())
        })?;
        self.add_sample(&file, &sample)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.shards.push((file, name));
        Ok(())
    }

    /// Takes in neighbouring members of one key.
    fn add_sample(&mut self, file: &RangeFile, members: &[Member]) -> Result<()> {
        let Some(key) = members.first().map(|m| split_name(&m.name).0) else { return Ok(()) };
        let field = |names: &[&str]| {
            let found = members.iter().find(|m| names.iter().any(|n| n.eq_ignore_ascii_case(split_name(&m.name).1)));
            found.map(|m| Part { offset: m.offset, size: m.size })
        };
        let Some(picture) = field(&PICTURES) else { return Ok(()) };
        let label = match field(&["cls"]) {
            Some(part) => {
                let text = String::from_utf8_lossy(&file.read(part.offset, part.size.min(32))?).trim().to_string();
                Some(text.parse().map_err(|_| file.error(format!("`{key}.cls`: expected a class index, got `{text}`")))?)
            }
            None => None,
        };
        self.keys.push(key);
        self.labels.push(label);
        let shard = self.shards.len() as u32;
        let [caption, json] = ["txt", "json"].map(|name| field(&[name]).unwrap_or(Part::NONE));
        self.samples.push(Sample { shard, picture, caption, json });
        Ok(())
    }

    fn read(&self, i: usize, part: Part) -> Result<Vec<u8>> {
        self.shards[self.samples[i].shard as usize].0.read(part.offset, part.size)
    }
}

/// Key and field: the key ends at the first dot of the file name.
fn split_name(path: &str) -> (&str, &str) {
    let start = path.rfind('/').map_or(0, |i| i + 1);
    path[start..].find('.').map_or((path, ""), |dot| (&path[..start + dot], &path[start + dot + 1..]))
}

/// Whether the name is that of an archive.
pub(crate) fn is_archive(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz"].iter().any(|e| name.ends_with(e))
}

fn shard_paths(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        let names = files::entries(path)?.into_iter().filter(|(name, is_folder)| !is_folder && is_archive(name));
        return Ok(names.map(|(name, _)| path.join(name)).collect());
    }
    let text = path.to_string_lossy();
    Ok(expand(&text).map_err(|why| Error::file(path, why))?.into_iter().map(PathBuf::from).collect())
}

/// A pattern with any number of `{first..last}` and `{a,b}` written out.
fn expand(pattern: &str) -> std::result::Result<Vec<String>, String> {
    let Some((head, rest)) = pattern.split_once('{') else { return Ok(vec![pattern.to_string()]) };
    let (inner, tail) = rest.split_once('}').ok_or("a brace is not closed")?;
    let choices: Vec<String> = match inner.split_once("..") {
        Some((first, last)) => {
            let number = |t: &str| t.parse::<u64>().map_err(|_| format!("`{{{inner}}}`: expected numbers"));
            let (a, b) = (number(first)?, number(last)?);
            if b < a || b - a > 1_000_000 {
                return Err(format!("`{{{inner}}}`: expected ascending numbers, at most a million"));
            }
            (a..=b).map(|n| format!("{n:0width$}", width = first.len())).collect()
        }
        None => inner.split(',').map(str::to_string).collect(),
    };
    let tails = expand(tail)?;
    Ok(choices.iter().flat_map(|c| tails.iter().map(move |t| format!("{head}{c}{t}"))).collect())
}

impl Source for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn key(&self, i: usize) -> String {
        self.keys.get(i).to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        let part = self.samples[i].caption;
        if !part.is_there() {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&self.read(i, part)?).trim().to_string()))
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let (file, name) = &self.shards[self.samples[i].shard as usize];
        let mut metadata = Metadata::from_iter([("shard".to_string(), name.as_str().into())]);
        let part = self.samples[i].json;
        if part.is_there() {
            let json = serde_json::from_slice(&self.read(i, part)?);
            metadata.insert("json".into(), json.map_err(|e| file.error(format!("`{}.json`: {e}", self.keys.get(i))))?);
        }
        Ok(metadata)
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        Ok(self.samples[i].picture.size)
    }

    fn content(&self, i: usize) -> Result<Content> {
        self.read(i, self.samples[i].picture).map(Content::Encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns() {
        assert_eq!(split_name("a.b/c.seg.png"), ("a.b/c", "seg.png"));
        assert_eq!(expand("s-{08..10}.tar"), Ok(vec!["s-08.tar".into(), "s-09.tar".into(), "s-10.tar".into()]));
        assert_eq!(expand("{a,b}{1..2}"), Ok(vec!["a1".into(), "a2".into(), "b1".into(), "b2".into()]));
        assert!(expand("{2..1}").is_err() && expand("{1..").is_err());
    }
}
