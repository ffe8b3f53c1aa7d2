//! A hub on this machine: the protocol of repositories, redirects to a storage of large files, and failures on demand.

#![allow(clippy::needless_pass_by_value)]

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use sha1::Digest as _;

/// The commit of every repository here.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Who may read and write, where that is asked for.
pub const TOKEN: &str = "hf_secret";

/// What happens to the next request for a path.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer of this status with these headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing follows so many bytes of the body, and the connection stays.
    Stall(usize),
    /// All bytes, whatever was asked for.
    Whole,
    /// Other bytes of the same length.
    Corrupt,
    /// Another body.
    Instead(&'static str),
    /// The body waits until the hub is told to go on.
    Wait,
}

/// A file of the repository `owner/name`.
#[derive(Clone, Debug)]
pub struct Stored {
    pub content: Vec<u8>,
    /// Whether it lies in the storage of large files.
    pub large: bool,
}

impl Stored {
    pub fn id(&self) -> String {
        if self.large {
            return hex(&sha2::Sha256::digest(&self.content));
        }
        let mut hasher = sha1::Sha1::new_with_prefix(format!("blob {}\0", self.content.len()));
        hasher.update(&self.content);
        hex(&hasher.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the hub holds, and what it has seen.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Stored>,
    pub faults: HashMap<String, VecDeque<Fault>>,
    /// Whether it wants the token, and what it says without.
    pub refuses: Option<(u16, &'static str)>,
    /// Whether the list leaves out sizes and hashes.
    pub bare_list: bool,
    pub log: Vec<Request>,
    pub uploaded: HashMap<String, Vec<u8>>,
    /// Bytes of the parts in which it wants large files.
    pub chunk: Option<usize>,
    pub open: bool,
}

/// The running hub.
#[derive(Clone)]
pub struct Hub {
    pub port: u16,
    state: Arc<(Mutex<State>, std::sync::Condvar)>,
}

impl Hub {
    /// With these files; large ones lie in the storage.
    pub fn new(files: &[(&str, Vec<u8>, bool)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        hub.state().files = files
            .iter()
            .map(|(path, content, large)| (path.to_string(), Stored { content: content.clone(), large: *large }))
            .collect();
        let this = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = this.clone();
                // A client that goes away is no error of the hub's.
                std::thread::spawn(move || drop(hub.serve(stream)));
            }
        });
        hub
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What happens to the next requests for a path, one after the other.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        self.state().faults.insert(path.to_string(), faults.iter().cloned().collect());
    }

    /// Requests for paths that begin like that.
    pub fn seen(&self, path: &str) -> Vec<Request> {
        self.state().log.iter().filter(|request| request.path.starts_with(path)).cloned().collect()
    }

    /// Lets what waits go on.
    pub fn open(&self) {
        self.state().open = true;
        self.state.1.notify_all();
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let request = read(&mut reader)?;
        self.state().log.push(request.clone());
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let fault = self.state().faults.get_mut(path).and_then(VecDeque::pop_front);
        let mut out = Out { stream, reader };
        if let Some(Fault::Status(status, headers)) = &fault {
            return out.answer(*status, headers.iter().map(|(k, v)| (*k, v.to_string())).collect(), b"{}", false);
        }
        if let Some((status, code)) = self.state().refuses {
            let who = request.header("authorization");
            if !path.starts_with("/cdn/") && who != Some(&format!("Bearer {TOKEN}")) {
                return out.answer(status, vec![("X-Error-Code", code.to_string())], b"{}", false);
            }
        }
        match (request.method.as_str(), path) {
            ("GET", _) if path.starts_with("/api/") => self.list(&mut out, path),
            ("HEAD" | "GET", _) if path.contains("/resolve/") => self.resolve(&mut out, &request, path, fault),
            ("GET", _) if path.starts_with("/cdn/") => self.storage(&mut out, &request, path, fault),
            ("POST" | "PUT", _) => self.write(&mut out, &request, path),
            _ => out.answer(404, vec![], b"", false),
        }
    }

    fn list(&self, out: &mut Out, path: &str) -> std::io::Result<()> {
        let state = self.state();
        let known = ["/api/models/owner/name/revision/main", "/api/datasets/owner/name/revision/main"].contains(&path)
            || path == format!("/api/models/owner/name/revision/{COMMIT}");
        if !known {
            let code = if path.contains("/owner/name/") { "RevisionNotFound" } else { "RepoNotFound" };
            return out.answer(404, vec![("X-Error-Code", code.to_string())], b"{}", false);
        }
        let one = |(name, file): (&String, &Stored)| {
            let mut json = json!({ "rfilename": name });
            if !state.bare_list {
                json["size"] = file.content.len().into();
                json["blobId"] = "f".repeat(40).into();
                if file.large {
                    json["lfs"] = json!({ "sha256": file.id(), "size": file.content.len(), "pointerSize": 134 });
                } else {
                    json["blobId"] = file.id().into();
                }
            }
            json
        };
        let files: Vec<Value> = state.files.iter().map(one).collect();
        let body = json!({ "sha": COMMIT, "siblings": files, "private": false }).to_string();
        drop(state);
        out.answer(200, vec![("Content-Type", "application/json".into())], body.as_bytes(), false)
    }

    fn resolve(&self, out: &mut Out, request: &Request, path: &str, fault: Option<Fault>) -> std::io::Result<()> {
        let name = path.splitn(6, '/').nth(5).unwrap_or_default().replace("%20", " ");
        let file = self.state().files.get(&name).cloned();
        let Some(file) = file else {
            return out.answer(404, vec![("X-Error-Code", "EntryNotFound".into())], b"", false);
        };
        let head = request.method == "HEAD";
        let mut headers = vec![("X-Repo-Commit", COMMIT.to_string())];
        if file.large {
            headers.push(("X-Linked-Etag", format!("\"{}\"", file.id())));
            headers.push(("X-Linked-Size", file.content.len().to_string()));
            // Another host, which is not to see the token.
            headers.push(("Location", format!("http://localhost:{}/cdn/{name}", self.port)));
            return out.answer(302, headers, b"", head);
        }
        headers.push(("ETag", format!("\"{}\"", file.id())));
        self.body(out, request, &file.content, headers, fault)
    }

    fn storage(&self, out: &mut Out, request: &Request, path: &str, fault: Option<Fault>) -> std::io::Result<()> {
        let name = path.trim_start_matches("/cdn/");
        let file = self.state().files.get(name).cloned().unwrap();
        self.body(out, request, &file.content, vec![("ETag", "\"of-the-storage\"".into())], fault)
    }

    fn body(
        &self,
        out: &mut Out,
        request: &Request,
        content: &[u8],
        mut headers: Vec<(&'static str, String)>,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let range =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let from = range.filter(|_| !matches!(fault, Some(Fault::Whole))).unwrap_or(0);
        if from > content.len() || (from == content.len() && from > 0) {
            return out.answer(416, headers, b"", false);
        }
        let status = if from > 0 { 206 } else { 200 };
        if from > 0 {
            headers.push(("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())));
        }
        let mut body = content[from..].to_vec();
        match fault {
            Some(Fault::Instead(other)) => body = other.as_bytes().to_vec(),
            Some(Fault::Corrupt) => body.iter_mut().for_each(|b| *b ^= 1),
            _ => {}
        }
        if request.method == "HEAD" {
            return out.answer(status, headers, &body, true);
        }
        out.head(status, headers, body.len())?;
        match fault {
            Some(Fault::Cut(n)) => out.stream.write_all(&body[..n.min(body.len())]),
            Some(Fault::Stall(n)) => {
                out.stream.write_all(&body[..n.min(body.len())])?;
                // Until the client gives up.
                out.reader.read_to_end(&mut Vec::new()).map(drop)
            }
            Some(Fault::Wait) => {
                let half = body.len() / 2;
                out.stream.write_all(&body[..half])?;
                drop(self.state.1.wait_while(self.state(), |state| !state.open).unwrap());
                out.stream.write_all(&body[half..])
            }
            _ => out.stream.write_all(&body),
        }
    }

    fn write(&self, out: &mut Out, request: &Request, path: &str) -> std::io::Result<()> {
        let json: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let body = match path {
            "/api/repos/create" => json!({ "url": "" }),
            "/api/models/owner/name/preupload/main" => {
                let mode = |file: &Value| {
                    let large = file["path"].as_str().unwrap().ends_with(".safetensors");
                    json!({ "path": file["path"], "uploadMode": if large { "lfs" } else { "regular" } })
                };
                json!({ "files": json["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>() })
            }
            "/owner/name.git/info/lfs/objects/batch" => {
                let oid = json["objects"][0]["oid"].as_str().unwrap();
                let there = self.state().uploaded.contains_key(oid);
                let chunk = self.state().chunk;
                let upload = match chunk {
                    None => json!({ "href": format!("{}/put/{oid}", self.endpoint()) }),
                    Some(chunk) => self.in_parts(oid, json["objects"][0]["size"].as_u64().unwrap() as usize, chunk),
                };
                let actions = if there { json!({}) } else { json!({ "upload": upload }) };
                json!({ "objects": [{ "oid": oid, "actions": actions }] })
            }
            "/api/models/owner/name/commit/main" => {
                self.state().uploaded.insert("commit".into(), request.body.clone());
                json!({ "commitUrl": format!("{}/owner/name/commit/{COMMIT}", self.endpoint()) })
            }
            _ if path.starts_with("/complete/") => {
                let (oid, mut state) = (json["oid"].as_str().unwrap(), self.state());
                let parts = json["parts"].as_array().unwrap().iter();
                let part = |part: &Value| state.uploaded[&format!("{oid}{}", part["etag"].as_str().unwrap())].clone();
                let whole = parts.flat_map(part).collect();
                state.uploaded.insert(oid.to_string(), whole);
                json!({})
            }
            _ => {
                let oid = path.trim_start_matches("/put/").to_string();
                self.state().uploaded.insert(oid, request.body.clone());
                json!({})
            }
        };
        // The name of a part is what follows the file's.
        let etag = path.strip_prefix("/put/").and_then(|path| Some(format!("/{}", path.split_once('/')?.1)));
        out.answer(200, etag.into_iter().map(|etag| ("ETag", etag)).collect(), body.to_string().as_bytes(), false)
    }

    /// Where the parts of a file go, and where it is told that all are there.
    fn in_parts(&self, oid: &str, size: usize, chunk: usize) -> Value {
        let to = |i: usize| (i.to_string(), json!(format!("{}/put/{oid}/{i}", self.endpoint())));
        let mut header: serde_json::Map<String, Value> = (1..=size.div_ceil(chunk)).map(to).collect();
        header.insert("chunk_size".into(), json!(chunk.to_string()));
        json!({ "href": format!("{}/complete/{oid}", self.endpoint()), "header": header })
    }
}

struct Out {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Out {
    fn head(&mut self, status: u16, headers: Vec<(&'static str, String)>, length: usize) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
        headers.iter().for_each(|(name, value)| write!(text, "{name}: {value}\r\n").unwrap());
        self.stream.write_all((text + "\r\n").as_bytes())
    }

    fn answer(&mut self, status: u16, headers: Vec<(&'static str, String)>, body: &[u8], head: bool) -> std::io::Result<()> {
        self.head(status, headers, body.len())?;
        if head { Ok(()) } else { self.stream.write_all(body) }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next().unwrap_or_default().to_string(), parts.next().unwrap_or_default().to_string());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.trim().to_string())),
            None => break,
        }
    }
    let length = headers.get("content-length").and_then(|n: &String| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, headers, body })
}
