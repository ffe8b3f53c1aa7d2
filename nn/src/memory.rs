//! How the process keeps its memory and its threads.

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

/// Runs `f` as one of rayon's threads, of which there are `threads` (by default as many as processors, or what `RAYON_NUM_THREADS`
/// says).
///
/// An operator divides its work between those threads. Called from one of them it begins at once and waits for the others alone;
/// called from outside it would be handed over and back each time, which takes longer than a small operator itself. Programs call
/// it once, around all that they do; a later call changes nothing. With a single thread `f` stays outside, so that other threads
/// that use rayon find it free.
///
/// # Panics
/// If `f` does.
pub fn among_workers<R: Send>(threads: Option<usize>, f: impl FnOnce() -> R + Send) -> R {
    // Candle walks a graph recursively; a stack is memory only as far as it is used.
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).stack_size(256 << 20);
    let _built_before = builder.build_global();
    if rayon::current_num_threads() == 1 { f() } else { rayon::scope(|_| f()) }
}
