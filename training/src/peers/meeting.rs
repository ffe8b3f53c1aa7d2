//! Where the processes of a run meet: at an address of rank 0 that all of them know from their launcher.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use strata_nn::random::fnv1a;

use crate::{Error, Ranks, Result};

/// How long the processes wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to reach rank 0.
const PAUSE: Duration = Duration::from_millis(50);
/// What every greeting begins with.
const MAGIC: &[u8; 8] = b"strata-1";
/// torchrun's own.
const DEFAULT_PORT: u16 = 29500;

/// Host and port of rank 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub host: String,
    pub port: u16,
}

impl Place {
    /// From the environment: `MASTER_ADDR` and `MASTER_PORT` as torchrun sets them; without them this machine, or the first one of
    /// Slurm's list, and a port that follows from the launcher's number of the job.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        // torchrun's agent may listen at its own port for as long as the processes run.
        let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let port = match get("MASTER_PORT") {
            Some(text) if taken => port_of(&format!("{text} {}", get("TORCHELASTIC_RUN_ID").unwrap_or_default())),
            Some(text) => {
                text.trim().parse().map_err(|_| Error::Config(format!("MASTER_PORT: expected a port, got `{text}`")))?
            }
            None => port_of_job(&get),
        };
        let nodes = || get("SLURM_STEP_NODELIST").or_else(|| get("SLURM_NODELIST")).map(|list| first_host(&list));
        let host = get("MASTER_ADDR").or_else(nodes).unwrap_or_else(|| "127.0.0.1".to_string());
        Ok(Self { host, port })
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let all = (self.host.as_str(), self.port).to_socket_addrs();
        Ok(all.map_err(|e| Error::Peers(format!("MASTER_ADDR {}: {e}", self.host)))?.collect())
    }
}

/// Two jobs on one machine do not meet.
fn port_of_job(get: &impl Fn(&str) -> Option<String>) -> u16 {
    let names = ["OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE", "PMI_ID", "SLURM_JOB_ID"];
    match names.iter().find_map(|name| get(name)) {
        Some(job) => port_of(&format!("{job} {}", get("SLURM_STEP_ID").unwrap_or_default())),
        None => DEFAULT_PORT,
    }
}

/// A port that follows from the name of a job, below those that systems give to connections.
fn port_of(job: &str) -> u16 {
    20_000 + (fnv1a(job) % 10_000) as u16
}

/// The first of Slurm's list: `node[03-07,9],other` begins with `node03`.
fn first_host(list: &str) -> String {
    match list.find(['[', ',']) {
        Some(at) if list[at..].starts_with('[') => {
            let number = &list[at + 1..];
            format!("{}{}", &list[..at], &number[..number.find([',', '-', ']']).unwrap_or(number.len())])
        }
        Some(at) => list[..at].to_string(),
        None => list.to_string(),
    }
}

fn failed(what: &str, e: &std::io::Error) -> Error {
    Error::Peers(format!("{what}: {e}"))
}

/// Waits for all other ranks; answers their connections, rank 1 first.
pub(super) fn host(place: &Place, ranks: Ranks, identity: &str) -> Result<Vec<TcpStream>> {
    let loopback = place.addresses()?.iter().all(|a| a.ip().is_loopback());
    let ip = if loopback { "127.0.0.1" } else { "0.0.0.0" };
    let listener = TcpListener::bind((ip, place.port)).map_err(|e| {
        Error::Peers(format!("rank 0 cannot listen at {ip}:{}: {e}; choose another port with MASTER_PORT", place.port))
    })?;
    listener.set_nonblocking(true).map_err(|e| failed("listening", &e))?;
    let mut found: Vec<Option<TcpStream>> = (1..ranks.count).map(|_| None).collect();
    let started = Instant::now();
    while found.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => match greeted(stream, ranks, identity) {
                Ok((rank, stream)) => found[rank - 1] = Some(stream),
                Err(e @ Error::Peers(_)) => return Err(e),
                Err(e) => tracing::warn!("{e}"),
            },
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && started.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let missing: Vec<String> =
                    found.iter().enumerate().filter(|(_, s)| s.is_none()).map(|(i, _)| (i + 1).to_string()).collect();
                let waited = PATIENCE.as_secs();
                return Err(Error::Peers(format!(
                    "of {} ranks these have not come in {waited} s: {}",
                    ranks.count,
                    missing.join(", ")
                )));
            }
            Err(e) => return Err(failed("waiting for the other ranks", &e)),
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Reads a greeting and answers it. A stranger is an error of another kind than a rank that does not fit.
fn greeted(mut stream: TcpStream, ranks: Ranks, identity: &str) -> Result<(usize, TcpStream)> {
    let stranger = |_| Error::Config("a connection to rank 0 was none of ours".into());
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(10)))).map_err(stranger)?;
    let mut greeting = [0; 24];
    stream.read_exact(&mut greeting).map_err(stranger)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| greeting[at + i]));
    if greeting[..8] != *MAGIC {
        return Err(Error::Config("a connection to rank 0 was none of ours".into()));
    }
    let (rank, theirs) = ((number(8) >> 32) as usize, (number(8) & 0xffff_ffff) as usize);
    let problem = if theirs != ranks.count || rank == 0 || rank >= ranks.count {
        Some(format!("rank {rank} of {theirs} came to a run of {} ranks", ranks.count))
    } else if number(16) != fnv1a(identity) {
        Some(format!("rank {rank} was started with other settings or data than rank 0"))
    } else {
        None
    };
    let answer = problem.as_deref().unwrap_or("").as_bytes();
    let send = |stream: &mut TcpStream| {
        stream.write_all(&(answer.len() as u64).to_le_bytes())?;
        stream.write_all(answer)
    };
    send(&mut stream).map_err(|e| failed("answering a greeting", &e))?;
    match problem {
        Some(message) => Err(Error::Peers(message)),
        None => Ok((rank, stream)),
    }
}

/// Goes to rank 0.
pub(super) fn visit(place: &Place, ranks: Ranks, identity: &str) -> Result<TcpStream> {
    let started = Instant::now();
    let mut stream = loop {
        let last = match place.addresses().and_then(|all| TcpStream::connect(&all[..]).map_err(|e| failed("connecting", &e))) {
            Ok(stream) => break stream,
            Err(e) => e,
        };
        if started.elapsed() > PATIENCE {
            return Err(Error::Peers(format!(
                "rank {} cannot reach rank 0 at {}:{}: {last}",
                ranks.rank, place.host, place.port
            )));
        }
        thread::sleep(PAUSE);
    };
    let mut greeting = MAGIC.to_vec();
    greeting.extend(((ranks.rank as u64) << 32 | ranks.count as u64).to_le_bytes());
    greeting.extend(fnv1a(identity).to_le_bytes());
    let mut talk = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&greeting)?;
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u64::from_le_bytes(length).min(10_000) as usize];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match talk() {
        Ok(answer) if answer.is_empty() => Ok(stream),
        Ok(problem) => Err(Error::Peers(problem)),
        Err(e) => Err(Error::Peers(format!("rank 0 at {}:{} does not answer rank {}: {e}", place.host, place.port, ranks.rank))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Place> {
        Place::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn places_of_launchers() -> Result<()> {
        let place = |host: &str, port| Place { host: host.into(), port };
        assert_eq!(of(&[("MASTER_ADDR", "a.b"), ("MASTER_PORT", "7")])?, place("a.b", 7));
        assert_eq!(of(&[])?, place("127.0.0.1", 29500));
        assert!(of(&[("MASTER_PORT", "x")]).is_err());
        let torchrun = [("MASTER_PORT", "29500"), ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "none")];
        assert_ne!(of(&torchrun)?.port, 29500);
        assert_eq!(of(&torchrun[..1])?.port, 29500);
        let job = of(&[("OMPI_MCA_ess_base_jobid", "12")])?;
        assert_ne!(job, of(&[("OMPI_MCA_ess_base_jobid", "13")])?);
        let slurm = of(&[("SLURM_NODELIST", "node[03-07,9],other"), ("SLURM_JOB_ID", "5"), ("SLURM_STEP_ID", "0")])?;
        assert_eq!(slurm.host, "node03");
        assert_eq!(["a,b", "a", "n[1,2]"].map(first_host), ["a", "a", "n1"]);
        Ok(())
    }
}
