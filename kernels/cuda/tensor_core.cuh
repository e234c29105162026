// Tensor-core products of 16 x 16 by 16 x 8 blocks of bf16, summed in f32, and their way from shared memory.
//
// Fragments as in the PTX ISA, mma.m16n8k16: with g = lane / 4 and t = lane % 4, a thread's accumulator holds (g, 2t),
// (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). Two neighbouring accumulators, rounded, are the left operand of a next product.
#pragma once
#include "element.cuh"

// Rows of D numbers lie D + 8 apart in shared memory, so that the eight rows of an 8 x 8 block fall on different banks.
template <int D> constexpr int STRIDE = D + 8;

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy_16_bytes(void* to, const void* from, bool exists) {
    const int n = exists ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(n));
}
__device__ __forceinline__ void copy_4_bytes(void* to, const void* from, bool exists) {
    const int n = exists ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(n));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING> __device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Begins to copy ROWS rows of D numbers from row `first` of a matrix with `n_rows`; zeros behind its end.
template <int D, int ROWS>
__device__ __forceinline__ void copy_rows(bf16* to, const bf16* from, size_t row_stride, int first, int n_rows) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += blockDim.x) {
        const int row = i / CHUNKS, column = i % CHUNKS * 8;
        const bool exists = first + row < n_rows;
        copy_16_bytes(to + row * STRIDE<D> + column, from + (size_t)(exists ? first + row : 0) * row_stride + column, exists);
    }
}

__device__ __forceinline__ void load_blocks(unsigned (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}
__device__ __forceinline__ void load_blocks_transposed(unsigned (&r)[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}

// Left operand: rows `row`.. and columns `k`.. of a row-major tile.
template <int D> __device__ __forceinline__ void load_left(unsigned (&r)[4], const bf16* tile, int row, int k) {
    const int lane = threadIdx.x % 32;
    load_blocks(r, tile + (row + lane % 16) * STRIDE<D> + k + lane / 16 * 8);
}

// Right operands of two products: the rows of the tile are the columns of the product, n.. and n + 8..; r[0..2] and r[2..4].
template <int D> __device__ __forceinline__ void load_right(unsigned (&r)[4], const bf16* tile, int n, int k) {
    const int lane = threadIdx.x % 32;
    load_blocks(r, tile + (n + lane % 8 + lane / 16 * 8) * STRIDE<D> + k + lane / 8 % 2 * 8);
}

// Right operands of two products: the rows of the tile are summed over, k..; columns n.. and n + 8...
template <int D> __device__ __forceinline__ void load_right_by_row(unsigned (&r)[4], const bf16* tile, int k, int n) {
    const int lane = threadIdx.x % 32;
    load_blocks_transposed(r, tile + (k + lane % 16) * STRIDE<D> + n + lane / 16 * 8);
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned two_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const unsigned*)&pair;
}

// Two neighbouring accumulators as a left operand.
__device__ __forceinline__ void as_left(unsigned (&a)[4], const float (&first)[4], const float (&second)[4]) {
    a[0] = two_bf16(first[0], first[1]);
    a[1] = two_bf16(first[2], first[3]);
    a[2] = two_bf16(second[0], second[1]);
    a[3] = two_bf16(second[2], second[3]);
}
