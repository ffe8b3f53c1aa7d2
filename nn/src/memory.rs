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
