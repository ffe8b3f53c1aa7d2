//! A connection between two processes that notices when the other one is gone.
//!
//! Messages are a kind (one byte), a length (eight bytes, little-endian) and as many bytes. A thread reads them all the time, so that
//! a closed connection is noticed at once, whatever the process computes meanwhile; another one sends a sign of life every few
//! seconds, so that silence means something.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// Periods of silence, each of [`SILENCE`], after which a process counts as gone. Several: this one may have been stopped for longer.
const SILENT_PERIODS: usize = 4;
const SILENCE: Duration = Duration::from_secs(5);

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A sign of life.
    Beat = 0,
    /// Numbers or bytes that the other side waits for.
    Data = 1,
    /// The run has to end; the reason.
    Abort = 2,
    /// The process has done its work and leaves.
    Leave = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Beat, Self::Data, Self::Abort, Self::Leave].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Who is told of an end: the message.
pub(super) type OnEnd = Arc<dyn Fn(&str) + Send + Sync>;

/// One side of a connection to a rank.
#[derive(Debug)]
pub(super) struct Link {
    writer: Arc<Mutex<TcpStream>>,
    received: Receiver<Result<Vec<u8>, String>>,
    left: Arc<AtomicBool>,
}

impl Link {
    /// Takes over a connection to `name`; `on_end` hears once if it breaks or is aborted.
    pub fn new(stream: TcpStream, name: String, on_end: OnEnd) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let reader = stream.try_clone()?;
        let writer = Arc::new(Mutex::new(stream));
        let (sender, received) = channel();
        let left = Arc::new(AtomicBool::new(false));
        let (alive, leaving) = (Arc::downgrade(&writer), Arc::clone(&left));
        thread::spawn(move || {
            let end = listen(reader, &name, &sender);
            if !leaving.load(Ordering::SeqCst)
                && let Some(message) = end
            {
                on_end(&message);
                let _ = sender.send(Err(message));
            }
        });
        thread::spawn(move || {
            while let Some(writer) = alive.upgrade() {
                if send(&writer, Kind::Beat, &[]).is_err() {
                    break;
                }
                drop(writer);
                thread::sleep(BEAT);
            }
        });
        Ok(Self { writer, received, left })
    }

    /// Sends data. A broken connection shows when an answer is waited for.
    pub fn send(&self, data: &[u8]) {
        let _ = send(&self.writer, Kind::Data, data);
    }

    /// Sends the reason why everybody has to end.
    pub fn abort(&self, reason: &str) {
        let _ = send(&self.writer, Kind::Abort, reason.as_bytes());
    }

    /// Takes leave: the end of this connection is no accident.
    pub fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
        let _ = send(&self.writer, Kind::Leave, &[]);
    }

    /// Whether leave was taken.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// The next data, or why there will be none.
    pub fn receive(&self) -> Result<Vec<u8>, String> {
        self.received.recv().unwrap_or_else(|_| Err("the connection was closed before the work was done".into()))
    }

    /// What writes to the other side.
    pub fn writer(&self) -> Arc<Mutex<TcpStream>> {
        Arc::clone(&self.writer)
    }
}

/// A message over a connection that others may write to as well.
pub(super) fn send(writer: &Mutex<TcpStream>, kind: Kind, data: &[u8]) -> std::io::Result<()> {
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    let mut head = [0; 9];
    head[0] = kind as u8;
    head[1..].copy_from_slice(&(data.len() as u64).to_le_bytes());
    writer.write_all(&head)?;
    writer.write_all(data)
}

/// Hands on data until the end; answers why, or nothing where the other side took leave.
fn listen(mut stream: TcpStream, name: &str, sender: &Sender<Result<Vec<u8>, String>>) -> Option<String> {
    loop {
        match message(&mut stream) {
            Ok((Kind::Beat, _)) => {}
            Ok((Kind::Data, data)) => {
                let _ = sender.send(Ok(data));
            }
            Ok((Kind::Leave, _)) => return None,
            Ok((Kind::Abort, reason)) => return Some(String::from_utf8_lossy(&reason).into_owned()),
            Err(e) => {
                let how = match e.kind() {
                    std::io::ErrorKind::TimedOut => {
                        format!("has not been heard of for {} s", SILENCE.as_secs() * SILENT_PERIODS as u64)
                    }
                    _ => "ended".to_string(),
                };
                return Some(format!("{name} {how}"));
            }
        }
    }
}

fn message(stream: &mut TcpStream) -> std::io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 9];
    fill(stream, &mut head)?;
    let kind = Kind::of(head[0]).ok_or(std::io::ErrorKind::InvalidData)?;
    let length = u64::from_le_bytes([head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8]]);
    let mut data = vec![0; usize::try_from(length).map_err(|_| std::io::ErrorKind::InvalidData)?];
    fill(stream, &mut data)?;
    Ok((kind, data))
}

/// Reads as many bytes as fit, over periods of silence.
fn fill(stream: &mut TcpStream, mut data: &mut [u8]) -> std::io::Result<()> {
    let mut silent = 0;
    while !data.is_empty() {
        match stream.read(data) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                data = &mut data[n..];
                silent = 0;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                silent += 1;
                if silent == SILENT_PERIODS {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
