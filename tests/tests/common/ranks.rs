//! The binary as one of two processes that a launcher has started.

use std::{
    io::Read,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{binary, cache};

/// One of two processes, as torchrun starts them.
pub fn spawn(folder: &Path, args: &[&str], rank: usize, port: u16) -> Child {
    let mut command = Command::new(binary());
    command
        .args(args)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", cache(folder))
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", "2")
        .env("LOCAL_RANK", "0");
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A port that nothing listens at.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether it succeeded, and what it said.
pub fn end(mut child: Child) -> (bool, String) {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().success(), text)
}
