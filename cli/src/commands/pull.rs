//! `strata pull`

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use strata_hub::{Error, Kind, Pulled, Spec, Wanted};

use crate::{
    Outcome, args,
    bars::{Downloads, size},
    context::Context,
    fetched::{client, explained},
    hint::hinted,
};

/// The command.
///
/// # Errors
/// If the repository or a file cannot be had, or `--to` holds other files of the same names.
pub fn run(args: &args::Pull, context: &Context) -> anyhow::Result<Outcome> {
    let usual = if args.dataset { Kind::Dataset } else { Kind::Model };
    let spec = Spec::parse(args.repo.strip_prefix("hf:").unwrap_or(&args.repo), usual)?;
    ensure!(spec.file.is_none(), "{}: expected a repository, got a file in one; use --include", args.repo);
    let wanted = if args.include.is_empty() { Wanted::All } else { Wanted::Matching(args.include.clone()) };
    let progress = Downloads::new(context);
    let pulled = strata_hub::pull(&client(context)?, &spec.repo, &wanted, &progress);
    progress.finish();
    let pulled = match pulled {
        Err(Error::Stopped) => {
            context.say(Error::Stopped);
            return Ok(Outcome::Interrupted);
        }
        other => other.map_err(explained)?,
    };
    if let Some(to) = &args.to {
        place(&pulled, to)?;
    }
    let folder = args.to.as_ref().unwrap_or(&pulled.folder);
    if args.json {
        let json = json!({ "folder": folder, "commit": pulled.commit, "files": pulled.files, "bytes": pulled.bytes });
        println!("{json}");
    } else {
        let files = if pulled.files.len() == 1 { "file" } else { "files" };
        let commit = pulled.commit.get(..12).unwrap_or(&pulled.commit);
        println!("{}: {} {files}, {}, commit {commit}", folder.display(), pulled.files.len(), size(pulled.bytes));
    }
    Ok(Outcome::Done)
}

/// Copies the files out of the cache. What is there already must be the same.
fn place(pulled: &Pulled, to: &Path) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let mut other = Vec::new();
    for path in &pulled.files {
        let (from, there) = (pulled.folder.join(path), to.join(path));
        if !there.exists() {
            missing.push((from, there));
        } else if !same(&from, &there)? {
            other.push(path.as_str());
        }
    }
    if !other.is_empty() {
        return Err(hinted(format!("{}: holds other files: {}", to.display(), other.join(", ")), "choose another --to"));
    }
    for (from, there) in missing {
        let folder = there.parent().context("a file without a folder")?;
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut beside = tempfile::NamedTempFile::new_in(folder).with_context(|| folder.display().to_string())?;
        let mut source = File::open(&from).with_context(|| from.display().to_string())?;
        std::io::copy(&mut source, &mut beside).with_context(|| there.display().to_string())?;
        beside.as_file().set_permissions(source.metadata()?.permissions())?;
        beside.persist(&there).with_context(|| there.display().to_string())?;
    }
    Ok(())
}

/// Whether two files hold the same.
fn same(a: &Path, b: &Path) -> anyhow::Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (a, b) = (open(a)?, open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::with_capacity(1 << 18, a), BufReader::with_capacity(1 << 18, b));
    let (mut x, mut y) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut x)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(&mut y[..n])?;
        if x[..n] != y[..n] {
            return Ok(false);
        }
    }
}
