//! Gives memory that a load or an unload freed back to the system. Weights are read by many threads
//! into buffers of their own, and glibc keeps what was freed in one arena per thread: a server whose
//! models come and go would seem to grow. Called by `mod` and `model`.

/// Milliseconds for some hundred megabytes; not for a path that a request takes.
pub(super) fn give_back() {
    // SAFETY: it reads and writes the allocator's own books only, under its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
