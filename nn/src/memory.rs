//! How the process keeps its memory, its threads and what it was told about signals.

/// Tells the C library's allocator to keep freed memory instead of handing it back to the system with each large tensor.
///
/// A training step allocates and frees the same activations again and again; without this every one is mapped, zeroed page by
/// page and unmapped, which takes about as long as the pointwise operators themselves. Programs call it once, first thing in
/// `main`. It changes nothing on systems other than Linux with glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers, touches no memory of ours, and refuses (returns 0) what it cannot do.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Tells candle's worker threads to sleep when they have nothing to do, instead of waiting in a loop on a processor that our own
/// kernels could use; a value that the environment already has stays. Programs call it once, first thing in `main`, while they
/// are of one thread.
pub fn let_idle_threads_sleep() {
    #[cfg(unix)]
    // SAFETY: both strings end in zero and are copied; no other thread reads or writes the environment yet.
    unsafe {
        libc::setenv(c"CANDLE_BARRIER_POOL_SPIN_LIMIT".as_ptr(), c"0".as_ptr(), 0);
    }
}

/// Runs `listen`, which installs handlers of signals, and leaves the hang-up signal ignored where it was, as `nohup` has it.
pub fn keep_hangup_ignored<T>(listen: impl FnOnce() -> T) -> T {
    #[cfg(unix)]
    // SAFETY: no handler of ours is named, only that the signal is to be ignored.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let result = listen();
    #[cfg(unix)]
    if before == libc::SIG_IGN {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    result
}

/// Makes the calling thread one of those that rayon divides work between, of which there are `threads` (by default what
/// `RAYON_NUM_THREADS` says, or as many as processors).
///
/// An operator that is called from one of them begins at once and waits for the others alone; from outside its work would be
/// handed over and back each time, which takes longer than a small operator itself. Programs call it once, first thing in `main`;
/// a later call changes nothing. Where there is a single thread, it stays outside, so that others that use rayon find it free.
pub fn join_workers(threads: Option<usize>) {
    let asked = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|&n| n > 0);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.or_else(asked).unwrap_or_else(processors);
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let builder = if threads > 1 { builder.use_current_thread() } else { builder };
    let _built_before = builder.build_global();
}
