// What the bf16 kernels of attention share, whichever way they multiply.
#pragma once
#include "tensor_core.cuh"

struct Shape {
    int len, n_heads, n_kv_heads;
    float scale;  // 1 / sqrt(D)
};

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float two_to(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Queries, keys and values of a row of the batch, side by side.
template <int D> struct Columns {
    const bf16 *q, *k, *v;
    size_t width;
    __device__ Columns(const bf16* qkv, Shape shape, int row, int head, int kv_head) {
        width = (size_t)(shape.n_heads + 2 * shape.n_kv_heads) * D;
        qkv += (size_t)row * shape.len * width;
        q = qkv + head * D;
        k = qkv + (shape.n_heads + kv_head) * D;
        v = qkv + (shape.n_heads + shape.n_kv_heads + kv_head) * D;
    }
};
