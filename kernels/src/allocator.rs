//! What the C library's allocator does with freed memory.

/// Keeps freed memory in the process instead of giving it back to the system, and lets it come in huge pages.
///
/// A training step frees and allocates the same tens of megabytes again and again; by default glibc returns each large
/// block at once, and the page faults of getting it back take half of a step. To be called once, at the start of `main`.
/// Does nothing with other C libraries.
pub fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MIB: usize = 1 << 20;
        /// From this size on glibc maps a block by itself.
        const MMAP_THRESHOLD: usize = 1024 * MIB;
        /// Address space, not memory: what of it is never used costs nothing.
        const HEAP: usize = MMAP_THRESHOLD - 64 * MIB;
        // SAFETY: `mallopt` only sets parameters of the allocator and may be called at any time. The block is asked for,
        // given a hint about its pages (whole ones inside of it) and freed, all without being read or written.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD as libc::c_int);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, (64 * MIB) as libc::c_int);
            let block = libc::malloc(HEAP);
            if !block.is_null() {
                let skipped = block.align_offset(2 * MIB);
                libc::madvise(block.byte_add(skipped), HEAP - 2 * MIB, libc::MADV_HUGEPAGE);
                libc::free(block);
            }
        }
    }
}
