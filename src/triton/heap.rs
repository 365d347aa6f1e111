//! What glibc's allocator keeps of the memory that loads and unloads free. Each load has threads of
//! its own, so its buffers come from ever other arenas; and glibc raises its thresholds to the
//! largest block that was ever freed, up to 32 and 64 MB: from then on each arena keeps as much,
//! and a server whose models come and go seems to grow (by 25 MB a load with a tiny model). Called
//! by `mod` and `model`.

/// Larger blocks are mappings of their own, and are gone when they are freed. Far above what a
/// request or a response takes.
const MAP_FROM_BYTES: i32 = 4 << 20;
/// What an arena may keep free at its end.
const KEEP_BYTES: i32 = 1 << 20;
/// An operator who set one of these knows better.
const VARIABLES: [&str; 3] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"];

/// Fix the thresholds. Once per process, at its start.
pub(super) fn fix_thresholds() {
    if VARIABLES.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // SAFETY: it sets two numbers of the allocator, under its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
    }
}

/// Give whole free pages back to the system. Milliseconds for some hundred megabytes; not for a
/// path that a request takes.
pub(super) fn give_back() {
    // SAFETY: it reads and writes the allocator's own books only, under its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
