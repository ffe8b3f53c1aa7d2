//! One file from the hub into the cache: resumed, verified, and moved to its place when it is whole.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use ureq::{
    Body,
    http::{Response, StatusCode, header},
};

use crate::{
    Client, Error, Repository, Result,
    cache::Store,
    client::{Failure, passing},
    identity::Hasher,
    listing::Remote,
    lock::Lock,
};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;
/// What the text begins with that git keeps in a large file's place.
const POINTER: &[u8] = b"version https://git-lfs";

/// What a download needs to know.
pub(crate) struct Job<'a> {
    pub(crate) client: &'a Client,
    pub(crate) store: &'a Store,
    pub(crate) repo: &'a Repository,
    pub(crate) commit: &'a str,
    pub(crate) stop: &'a (dyn Fn() -> bool + Sync),
}

impl Job<'_> {
    /// Brings the file into the cache, unless it is there; `report` is told how many bytes of it are here.
    pub(crate) fn fetch(&self, file: &Remote, report: &dyn Fn(u64)) -> Result<()> {
        let blob = self.store.blob(&file.id);
        if is_whole(&blob, file.size) {
            report(file.size);
            return Ok(());
        }
        let _lock = Lock::take(&self.store.lock(&file.id), self.stop)?;
        // Another process may have brought it meanwhile.
        if is_whole(&blob, file.size) {
            report(file.size);
            return Ok(());
        }
        let beside = self.store.incomplete(&file.id);
        let failed = |e: std::io::Error| Error::file(&beside, e);
        if let Some(folder) = beside.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut out = File::options().create(true).truncate(false).read(true).write(true).open(&beside).map_err(failed)?;
        let subject = format!("{}/{}", self.repo, file.path);
        let url = self.client.file_at(self.repo, self.commit, &file.path);
        let mut again = true;
        self.client.persist(&subject, self.stop, |gained| {
            let here = self.grow(&mut out, file, &url, report, gained).map_err(|failure| at(&beside, failure))?;
            let Err(why) = self.verify(&mut out, file, here) else { return Ok(()) };
            out.set_len(0).map_err(|e| Error::file(&beside, e))?;
            report(0);
            // What was left from another day may be to blame: once from the beginning, then no more.
            if std::mem::take(&mut again) { Err(passing(why)) } else { Err(damaged(&subject, why)) }
        })?;
        out.sync_all().map_err(failed)?;
        std::fs::rename(&beside, &blob).map_err(|e| Error::file(&blob, e))
    }

    /// One attempt at what is missing. Answers the size afterwards.
    fn grow(
        &self,
        out: &mut File,
        file: &Remote,
        url: &str,
        report: &dyn Fn(u64),
        gained: &mut u64,
    ) -> std::result::Result<u64, Failure> {
        let io = |e: std::io::Error| Failure::Final(Error::file(Path::new(""), e));
        let mut here = out.metadata().map_err(io)?.len();
        if here > file.size {
            here = 0;
        }
        if here < file.size || file.size == 0 {
            let response = self.client.get(self.repo, url, here)?;
            here = begins_at(&response, here)?;
            out.set_len(here).map_err(io)?;
            out.seek(SeekFrom::Start(here)).map_err(io)?;
            report(here);
            let chunks = chunks(response, file.size - here);
            let silence = self.client.settings().silence;
            let broken = |why: String, here: u64| passing(format!("{why} after {here} of {} bytes", file.size));
            while let Some(chunk) = next(&chunks, silence).map_err(|why| broken(why, here))? {
                if (self.stop)() {
                    return Err(Error::Stopped.into());
                }
                out.write_all(&chunk).map_err(io)?;
                here += chunk.len() as u64;
                *gained += chunk.len() as u64;
                report(here);
            }
        }
        if here < file.size {
            if begins_as_pointer(out).map_err(io)? {
                out.set_len(0).map_err(io)?;
                let why = "the hub gave the pointer that git keeps in a large file's place, not the file";
                return Err(damaged(&format!("{}/{}", self.repo, file.path), why.into()));
            }
            return Err(passing(format!("the connection ended after {here} of {} bytes", file.size)));
        }
        Ok(here)
    }

    /// Compares size and hash with the published ones.
    fn verify(&self, out: &mut File, file: &Remote, here: u64) -> std::result::Result<(), String> {
        let failed = |e: std::io::Error| e.to_string();
        out.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut hasher = Hasher::new(&file.id, file.size);
        hasher.read(&mut *out).map_err(failed)?;
        let got = hasher.finish();
        if here == file.size && got.as_ref().is_none_or(|got| *got == file.id) {
            return Ok(());
        }
        Err(format!(
            "what arrived has {here} bytes and the hash {}, published are {} and {}",
            got.unwrap_or_default(),
            file.size,
            file.id
        ))
    }
}

/// Whether what is here is the short text of a pointer.
fn begins_as_pointer(out: &mut File) -> std::io::Result<bool> {
    let mut head = vec![];
    out.seek(SeekFrom::Start(0))?;
    out.take(POINTER.len() as u64).read_to_end(&mut head)?;
    Ok(head == POINTER && out.metadata()?.len() < 1024)
}

fn damaged(subject: &str, why: String) -> Failure {
    Failure::Final(Error::Damaged { subject: subject.to_string(), message: why })
}

/// Names the file that could not be written.
fn at(path: &Path, failure: Failure) -> Failure {
    match failure {
        Failure::Final(Error::File { path: none, message }) if none.as_os_str().is_empty() => {
            Failure::Final(Error::File { path: path.to_path_buf(), message })
        }
        other => other,
    }
}

fn is_whole(blob: &Path, size: u64) -> bool {
    std::fs::metadata(blob).is_ok_and(|m| m.is_file() && m.len() == size)
}

/// The byte that a response begins with, after `asked` for.
fn begins_at(response: &Response<Body>, asked: u64) -> std::result::Result<u64, Failure> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let start =
                range.and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
            match start {
                Some(start) if start == asked => Ok(start),
                _ => Err(passing(format!("asked for the bytes from {asked} on, got those of {range:?}"))),
            }
        }
        // The server has other bytes than those before: all anew.
        StatusCode::RANGE_NOT_SATISFIABLE => Err(passing("the server has not as many bytes as were published")),
        _ => Ok(0),
    }
}

type Chunk = std::io::Result<Vec<u8>>;

/// The body of a response, read by a thread of its own, so that silence can be noticed; at most one byte more than `expected`.
fn chunks(response: Response<Body>, expected: u64) -> Receiver<Chunk> {
    let (sender, receiver) = sync_channel::<Chunk>(4);
    std::thread::spawn(move || {
        let mut reader = response.into_body().into_reader().take(expected.saturating_add(1));
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = reader.read(&mut chunk).map(|n| {
                chunk.truncate(n);
                chunk
            });
            let last = !read.as_ref().is_ok_and(|chunk| !chunk.is_empty());
            if sender.send(read).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// The next part; none at the end.
fn next(chunks: &Receiver<Chunk>, silence: Duration) -> std::result::Result<Option<Vec<u8>>, String> {
    match chunks.recv_timeout(silence) {
        Ok(Ok(chunk)) if chunk.is_empty() => Ok(None),
        Ok(Ok(chunk)) => Ok(Some(chunk)),
        Ok(Err(e)) => Err(format!("the connection broke ({e})")),
        Err(RecvTimeoutError::Timeout) => Err(format!("nothing arrived for {} s", silence.as_secs_f64())),
        Err(RecvTimeoutError::Disconnected) => Err("the connection broke".to_string()),
    }
}
