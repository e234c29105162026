//! What the C library's allocator does with freed memory.

/// Keeps freed memory in the process instead of giving it back to the system.
///
/// A training step frees and allocates the same tens of megabytes again and again; by default glibc returns each large
/// block at once, and the page faults of getting it back take half of a step. To be called once, at the start of `main`.
/// Does nothing with other C libraries.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const ONE_GIB: libc::c_int = 1 << 30;
        // SAFETY: `mallopt` only sets parameters of the allocator and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, ONE_GIB);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}
