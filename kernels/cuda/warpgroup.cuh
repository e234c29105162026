// Products of a warpgroup, four neighbouring warps, on Hopper: 64 rows by N columns, 16 deep, summed in f32.
//
// Operands in shared memory lie in panels of 64 columns, 128 bytes a row, a panel at a multiple of 1,024 bytes; chunk c of 16 bytes
// of row r stands at place c ^ r % 8 of its row, so that neither eight rows nor eight columns meet in a bank (PTX ISA, wgmma, swizzling
// of 128 bytes). A thread's accumulators and left operands are those of `mma.m16n8k16` for the warp's 16 rows; tensor_core.cuh.
#pragma once
#include "tensor_core.cuh"

constexpr int PANEL = 64;

// Begins to copy ROWS rows of D numbers from row `first` of a matrix with `n_rows`; zeros behind its end. For all THREADS of a block.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_panels(bf16* to, const bf16* from, size_t row_stride, int first, int n_rows) {
    constexpr int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0, "all of a thread's chunks stand at the same place of their rows");
    const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS, place = (column ^ row) % 8;
    to += (column / 8 * ROWS + row) * PANEL + place * 8;
    from += (first + row) * row_stride + column * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP)
        copy_16_bytes(to + i * PANEL, from + i * row_stride, first + row + i < n_rows);
}

// Makes what this thread has copied visible to the products of all, after the next barrier of the block.
__device__ __forceinline__ void show_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A matrix in shared memory: eight rows follow after 1,024 bytes, the next panel after `panel_bytes`.
__device__ __forceinline__ uint64_t describe(const bf16* from, int panel_bytes) {
    const uint64_t swizzle_128_bytes = (uint64_t)1 << 62, rows = (uint64_t)(1024 >> 4) << 32;
    return swizzle_128_bytes | rows | (uint64_t)(panel_bytes >> 4) << 16 | (shared_address(from) & 0x3ffff) >> 4;
}

// Keeps the compiler from moving uses of accumulators over what stands here.
template <int N> __device__ __forceinline__ void pin(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[n][i])::"memory");
}

// Before the first product that reads registers which were written since the last.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define FOUR(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SIXTEEN(c, n) FOUR(c, n), FOUR(c, n + 1), FOUR(c, n + 2), FOUR(c, n + 3)

// multiply_shared: c = a b, or c += a b; the rows of both, in shared memory, go along what is summed over.
// multiply_registers: c += a b; a in registers, and the rows of b go across what is summed over.

template <bool ADDS> __device__ __forceinline__ void multiply_shared(float (&c)[8][4], uint64_t a, uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0;\n}"
        : SIXTEEN(c, 0), SIXTEEN(c, 4)
        : "l"(a), "l"(b), "n"(ADDS));
}

__device__ __forceinline__ void multiply_registers(float (&c)[8][4], const unsigned (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
        : SIXTEEN(c, 0), SIXTEEN(c, 4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void multiply_registers(float (&c)[16][4], const unsigned (&a)[4], uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
        : SIXTEEN(c, 0), SIXTEEN(c, 4), SIXTEEN(c, 8), SIXTEEN(c, 12)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef SIXTEEN
#undef FOUR
