//! Files that grow by lines.

use std::path::Path;

use anyhow::Context as _;
use strata_nn::weights::write_atomic;

/// The lines of a file, none where there is no file. A line that lost power left half of is not there, and is taken off the file.
///
/// # Errors
/// If the file cannot be read or mended.
pub fn whole_lines(file: &Path) -> anyhow::Result<Vec<String>> {
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    if end < text.len() {
        write_atomic(file, &text.as_bytes()[..end])?;
    }
    Ok(text[..end].lines().map(ToString::to_string).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        assert!(whole_lines(&file).unwrap().is_empty());
        std::fs::write(&file, "1\n2\n3").unwrap();
        assert_eq!(whole_lines(&file).unwrap(), ["1", "2"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n2\n");
    }
}
