//! How the process keeps its memory, its threads and what it was told about signals.

use candle_core::Device;

/// Starts the program anew, once, with the C library's allocator told to ask for large pages, on systems that give them to those who ask
/// (Linux whose transparent huge pages are at `madvise`, glibc 2.35 or later). A training step on the CPU then takes about two thirds of
/// the time: its tensors are long, and the processor knows where only so many pages lie.
///
/// It changes nothing where the environment variable `GLIBC_TUNABLES` says something about large pages already, and where the program
/// cannot be started again. Programs call it before anything else.
pub fn ask_for_large_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::{env, fs, os::unix::process::CommandExt, process::Command};
        const VARIABLE: &str = "GLIBC_TUNABLES";
        let given = env::var(VARIABLE).unwrap_or_default();
        let pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if given.contains("hugetlb") || !pages.contains("[madvise]") {
            return;
        }
        let Ok(program) = env::current_exe() else { return };
        let separator = if given.is_empty() { "" } else { ":" };
        let mut command = Command::new(program);
        let mut args = env::args_os();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env(VARIABLE, format!("{given}{separator}glibc.malloc.hugetlb=1"));
        // Comes back only if it failed; then this process goes on as it is.
        let _failed = command.exec();
    }
}

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

/// Bytes in use on the card of `device`, by all programs together; nothing for a processor.
pub fn card_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => {
            let (free, total) = card.cuda_stream().context().mem_get_info().ok()?;
            Some(total.saturating_sub(free) as u64)
        }
        _ => None,
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
