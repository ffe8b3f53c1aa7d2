//! Files of a repository into the cache.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    Client, Error, Repository, Result, Wanted,
    cache::Store,
    download::Job,
    listing::{self, Listing, Remote},
};

/// Who is told how far it is, and says whether to stop. Called from several threads.
pub trait Progress: Sync {
    /// Before the first byte: the files, each with its size.
    fn begin(&self, files: &[(String, u64)]) {
        let _ = files;
    }

    /// So many bytes of a file, by its place in the list, are here.
    fn advance(&self, file: usize, bytes: u64) {
        let _ = (file, bytes);
    }

    /// A file is whole.
    fn done(&self, file: usize) {
        let _ = file;
    }

    /// Whether to stop.
    fn stop(&self) -> bool {
        false
    }
}

/// Nobody is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

/// What is in the cache now.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The folder of the commit, which holds the files under their paths.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// The paths of the wanted files.
    pub files: Vec<String>,
    /// Their size together.
    pub bytes: u64,
}

/// Fetches the wanted files of a repository; those that are in the cache stay as they are. The revision counts as fetched when all
/// of them are whole.
///
/// # Errors
/// If the repository may not be read, nothing is wanted of it, or a file cannot be had whole: all of these files. Offline, if the
/// revision is not in the cache.
pub fn pull(client: &Client, repo: &Repository, wanted: &Wanted, progress: &dyn Progress) -> Result<Pulled> {
    let store = Store::new(&client.settings().cache, repo);
    if client.settings().offline {
        return cached(&store, repo, wanted);
    }
    let stop = || progress.stop();
    let listing = listing::list(client, repo, &stop)?;
    let chosen = wanted.of(listing.files.iter().map(|(path, _)| path.as_str()));
    if chosen.is_empty() {
        return Err(nothing(repo, wanted, &listing));
    }
    let files = complete(client, repo, listing.files, &chosen, &listing.commit, &stop)?;
    fetch_all(client, &store, repo, (&listing.commit, &files), progress)?;
    store.set_commit(&listing.commit)?;
    let bytes = files.iter().map(|file| file.size).sum();
    let names = files.into_iter().map(|file| file.path).collect();
    Ok(Pulled { folder: store.snapshot(&listing.commit), commit: listing.commit, files: names, bytes })
}

/// Fetches one file, and answers where it is in the cache.
///
/// # Errors
/// If there is no such file, it may not be read, or it cannot be had whole.
pub fn pull_file(client: &Client, repo: &Repository, path: &str, progress: &dyn Progress) -> Result<PathBuf> {
    let store = Store::new(&client.settings().cache, repo);
    let there = |commit: &str| Some(store.snapshot(commit).join(path)).filter(|file| file.exists());
    let cached = store.commit().and_then(|commit| there(&commit));
    if client.settings().offline || (repo.is_pinned() && cached.is_some()) {
        return cached.ok_or_else(|| Error::Offline(format!("{repo}/{path}")));
    }
    let (commit, file) = listing::file(client, repo, &repo.revision, path, &|| progress.stop())?;
    fetch_all(client, &store, repo, (&commit, std::slice::from_ref(&file)), progress)?;
    store.set_commit(&commit)?;
    Ok(store.snapshot(&commit).join(path))
}

/// Sizes and names that the list does not tell are asked for, file by file.
fn complete(
    client: &Client,
    repo: &Repository,
    files: Vec<(String, Option<(u64, String)>)>,
    chosen: &HashSet<String>,
    commit: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Remote>> {
    let one = |(path, known): (String, Option<(u64, String)>)| match known {
        Some((size, id)) => Ok(Remote { path, size, id }),
        None => Ok(listing::file(client, repo, commit, &path, stop)?.1),
    };
    files.into_iter().filter(|(path, _)| chosen.contains(path)).map(one).collect()
}

fn fetch_all(
    client: &Client,
    store: &Store,
    repo: &Repository,
    (commit, files): (&str, &[Remote]),
    progress: &dyn Progress,
) -> Result<()> {
    let sizes: Vec<(String, u64)> = files.iter().map(|file| (file.path.clone(), file.size)).collect();
    progress.begin(&sizes);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let errors = Mutex::new(Vec::new());
    let stop = || progress.stop() || failed.load(Ordering::Relaxed);
    let job = Job { client, store, repo, commit, stop: &stop };
    let work = || {
        while !stop() {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(i) else { return };
            let fetched = job.fetch(file, &|bytes| progress.advance(i, bytes));
            match fetched.and_then(|()| store.link(commit, &file.path, &file.id)) {
                Ok(_) => progress.done(i),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..client.settings().workers.clamp(1, files.len().max(1)) {
            scope.spawn(work);
        }
    });
    let mut errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    if progress.stop() {
        return Err(Error::Stopped);
    }
    // Others were stopped by the first failure.
    errors.retain(|error| !matches!(error, Error::Stopped));
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Several(errors)),
    }
}

/// What is in the cache of a revision.
fn cached(store: &Store, repo: &Repository, wanted: &Wanted) -> Result<Pulled> {
    let missing = || Error::Offline(repo.to_string());
    let commit = store.commit().ok_or_else(missing)?;
    let folder = store.snapshot(&commit);
    let mut all = Vec::new();
    below(&folder, "", &mut all);
    let chosen = wanted.of(all.iter().map(|(path, _)| path.as_str()));
    all.retain(|(path, _)| chosen.contains(path));
    all.sort();
    if all.is_empty() {
        return Err(missing());
    }
    let bytes = all.iter().map(|(_, size)| size).sum();
    Ok(Pulled { folder, commit, files: all.into_iter().map(|(path, _)| path).collect(), bytes })
}

/// Whole files below a folder of the cache, by path and size.
fn below(folder: &std::path::Path, prefix: &str, all: &mut Vec<(String, u64)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match std::fs::metadata(&path) {
            Ok(m) if m.is_dir() => below(&path, &format!("{prefix}{name}/"), all),
            Ok(m) if m.is_file() => all.push((format!("{prefix}{name}"), m.len())),
            _ => {}
        }
    }
}

fn nothing(repo: &Repository, wanted: &Wanted, listing: &Listing) -> Error {
    let some: Vec<&str> = listing.files.iter().take(20).map(|(path, _)| path.as_str()).collect();
    let more = if listing.files.len() > some.len() { ", ..." } else { "" };
    let message = match wanted {
        Wanted::Matching(patterns) => {
            format!("no file is as {} says; there are {}{more}", patterns.join(" or "), some.join(", "))
        }
        _ => "holds no files".to_string(),
    };
    Error::Refused { subject: repo.to_string(), message, remedy: None }
}
