//! What a file is called in the cache and verified by: its published hash.

use std::io::Read;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hash in the making, of what a published one is of.
pub(crate) enum Hasher {
    /// Of the contents: large files.
    Sha256(Sha256),
    /// Of a header with the size, and the contents: files that git keeps itself.
    GitBlob(Sha1),
    /// The name is no hash that is known.
    Unknown,
}

impl Hasher {
    /// For a file of `size` bytes that is called `id`.
    pub(crate) fn new(id: &str, size: u64) -> Self {
        let hex = id.bytes().all(|b| b.is_ascii_hexdigit());
        match id.len() {
            64 if hex => Self::Sha256(Sha256::new()),
            40 if hex => Self::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Self::Unknown,
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::GitBlob(hasher) => hasher.update(data),
            Self::Unknown => {}
        }
    }

    /// Takes in all of `reader`.
    pub(crate) fn read(&mut self, mut reader: impl Read) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.update(&buffer[..n]),
            }
        }
    }

    /// The hash in lower-case hexadecimal digits; nothing where none is known.
    pub(crate) fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(hasher) => Some(format!("{:x}", hasher.finalize())),
            Self::GitBlob(hasher) => Some(format!("{:x}", hasher.finalize())),
            Self::Unknown => None,
        }
    }
}

/// Whether `id` may be the name of a file.
pub(crate) fn is_file_name(id: &str) -> bool {
    let letters = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    letters && !id.is_empty() && id.len() <= 128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_large_files() {
        let of = |id: &str, data: &[u8]| {
            let mut hasher = Hasher::new(id, data.len() as u64);
            hasher.update(data);
            hasher.finish()
        };
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(of(git, b"hello").as_deref(), Some(git));
        assert_eq!(of(sha256, b"hello").as_deref(), Some(sha256));
        assert_eq!(of("abc", b"hello"), None);
        assert!(is_file_name(git) && !is_file_name("../x") && !is_file_name(""));
    }
}
