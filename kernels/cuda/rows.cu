// What is done row by row or element by element: norm, gated activation, rotation, picking of rows.
#include "element.cuh"

// y = x / sqrt(mean x^2 + eps) * weight; a warp a row, V neighbours a lane.
template <typename T, typename W, int V>
__device__ void normalize(T* y, const T* x, const W* weight, int n, int d, float eps) {
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    x += (size_t)row * d;
    y += (size_t)row * d;
    float squares = 0.0f;
    for (int i = lane * V; i < d; i += 32 * V) {
        const Pack<T, V> values = *(const Pack<T, V>*)(x + i);
#pragma unroll
        for (int k = 0; k < V; k++) squares = fmaf(wide(values.at[k]), wide(values.at[k]), squares);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / d + eps);
    for (int i = lane * V; i < d; i += 32 * V) {
        const Pack<T, V> values = *(const Pack<T, V>*)(x + i);
        const Pack<W, V> weights = *(const Pack<W, V>*)(weight + i);
        Pack<T, V> out;
#pragma unroll
        for (int k = 0; k < V; k++) out.at[k] = narrow<T>(wide(values.at[k]) * scale * wide(weights.at[k]));
        *(Pack<T, V>*)(y + i) = out;
    }
}

// dx = gradient of `normalize` (+ residual); where `parts` is given, parts[block, :] = the block's share of the weight's gradient. A block
// takes `rows_per_block` rows, a warp one after the other, and has d floats of shared memory for each of its warps.
template <typename T, typename W, int V>
__device__ void normalize_backward(T* dx, float* parts, const T* dy, const T* x, const W* weight, const T* residual, int n,
                                   int d, float eps, int rows_per_block) {
    extern __shared__ __align__(32) float sums[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int first = blockIdx.x * rows_per_block, last = min(n, first + rows_per_block);
    float* own = sums + warp * d;
    if (parts)
        for (int i = lane * V; i < d; i += 32 * V) *(Pack<float, V>*)(own + i) = {};
    for (int row = first + warp; row < last; row += n_warps) {
        const size_t start = (size_t)row * d;
        float squares = 0.0f, along = 0.0f;
        for (int i = lane * V; i < d; i += 32 * V) {
            const Pack<T, V> values = *(const Pack<T, V>*)(x + start + i), above = *(const Pack<T, V>*)(dy + start + i);
            const Pack<W, V> weights = *(const Pack<W, V>*)(weight + i);
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float value = wide(values.at[k]);
                squares = fmaf(value, value, squares);
                along = fmaf(value, wide(above.at[k]) * wide(weights.at[k]), along);
            }
        }
        const float scale = 1.0f / sqrtf(warp_sum(squares) / d + eps);
        const float pull = warp_sum(along) * scale * scale * scale / d;
        for (int i = lane * V; i < d; i += 32 * V) {
            const Pack<T, V> values = *(const Pack<T, V>*)(x + start + i), above = *(const Pack<T, V>*)(dy + start + i);
            const Pack<W, V> weights = *(const Pack<W, V>*)(weight + i);
            Pack<T, V> more, out;
            if (residual) more = *(const Pack<T, V>*)(residual + start + i);
#pragma unroll
            for (int k = 0; k < V; k++) {
                float value = wide(above.at[k]) * wide(weights.at[k]) * scale - wide(values.at[k]) * pull;
                if (residual) value += wide(more.at[k]);
                out.at[k] = narrow<T>(value);
            }
            *(Pack<T, V>*)(dx + start + i) = out;
            if (parts) {
                Pack<float, V> sum = *(const Pack<float, V>*)(own + i);
#pragma unroll
                for (int k = 0; k < V; k++) sum.at[k] = fmaf(wide(above.at[k]), wide(values.at[k]) * scale, sum.at[k]);
                *(Pack<float, V>*)(own + i) = sum;
            }
        }
    }
    if (!parts) return;
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0.0f;
        for (int k = 0; k < n_warps; k++) sum += sums[k * d + i];
        parts[(size_t)blockIdx.x * d + i] = sum;
    }
}

// to[:] = sum over parts; blocks of (32 columns, 8).
template <typename W> __device__ void sum_parts(W* to, const float* parts, int n_parts, int d) {
    __shared__ float sums[8][33];
    const int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < d)
        for (int part = threadIdx.y; part < n_parts; part += 8) sum += parts[(size_t)part * d + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= d) return;
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    to[column] = narrow<W>(sum);
}

// y = silu(gate) * up; rows of gate | up. V neighbours a thread.
template <typename T, int V> __device__ void gate(T* y, const T* gate_up, long n, int f) {
    const long i = ((long)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    const long row = i / f, column = i % f;
    const Pack<T, V> g = *(const Pack<T, V>*)(gate_up + row * 2 * f + column);
    const Pack<T, V> u = *(const Pack<T, V>*)(gate_up + row * 2 * f + f + column);
    Pack<T, V> out;
#pragma unroll
    for (int k = 0; k < V; k++) {
        const float z = wide(g.at[k]);
        out.at[k] = narrow<T>(z / (1.0f + expf(-z)) * wide(u.at[k]));
    }
    *(Pack<T, V>*)(y + i) = out;
}

template <typename T, int V> __device__ void gate_backward(T* grad, const T* gate_up, const T* dy, long n, int f) {
    const long i = ((long)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    const long row = i / f, column = i % f, at = row * 2 * f + column;
    const Pack<T, V> g = *(const Pack<T, V>*)(gate_up + at);
    const Pack<T, V> u = *(const Pack<T, V>*)(gate_up + at + f);
    const Pack<T, V> d = *(const Pack<T, V>*)(dy + i);
    Pack<T, V> of_gate, of_up;
#pragma unroll
    for (int k = 0; k < V; k++) {
        const float z = wide(g.at[k]), s = 1.0f / (1.0f + expf(-z)), silu = z * s;
        of_up.at[k] = narrow<T>(wide(d.at[k]) * silu);
        of_gate.at[k] = narrow<T>(wide(d.at[k]) * wide(u.at[k]) * (s + silu * (1.0f - s)));
    }
    *(Pack<T, V>*)(grad + at) = of_gate;
    *(Pack<T, V>*)(grad + at + f) = of_up;
}

// Turns the first `n_heads` heads of each row of `width` in place, V pairs a thread; `sense` -1 turns back.
template <typename T, int V>
__device__ void turn(T* x, const float* cos, const float* sin, const int* positions, long n_tokens, int n_heads,
                     int half, int width, float sense) {
    const int per_token = n_heads * half / V;
    const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_tokens * per_token) return;
    const long token = i / per_token;
    const int pair = (int)(i % per_token) * V, head = pair / half, k = pair % half;
    T* low = x + token * width + head * 2 * half + k;
    const size_t angle = (size_t)positions[token] * half + k;
    const Pack<float, V> c = *(const Pack<float, V>*)(cos + angle), s = *(const Pack<float, V>*)(sin + angle);
    Pack<T, V> a = *(Pack<T, V>*)low, b = *(Pack<T, V>*)(low + half);
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float u = wide(a.at[j]), v = wide(b.at[j]), turn_by = s.at[j] * sense;
        a.at[j] = narrow<T>(u * c.at[j] - v * turn_by);
        b.at[j] = narrow<T>(v * c.at[j] + u * turn_by);
    }
    *(Pack<T, V>*)low = a;
    *(Pack<T, V>*)(low + half) = b;
}

// y[i, :] = table[ids[i], :].
template <typename T, typename S> __device__ void pick(T* y, const S* table, const int* ids, long n, int d) {
    const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * d) return;
    y[i] = narrow<T>(wide(table[(size_t)ids[i / d] * d + i % d]));
}

// y[rows[i], :] = x[i, :].
template <typename T> __device__ void place(T* y, const T* x, const int* rows, long n, int d) {
    const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * d) return;
    y[(size_t)rows[i / d] * d + i % d] = x[i];
}

// grad[ids[b], :] = sum of dy[order[j], :] for j in starts[b]..starts[b + 1], one after the other; a block a distinct id.
template <typename T, typename S>
__device__ void sum_picked(T* grad, const S* dy, const int* ids, const int* starts, const int* order, int d) {
    const int first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    T* to = grad + (size_t)ids[blockIdx.x] * d;
    for (int column = threadIdx.x; column < d; column += blockDim.x) {
        float sum = 0.0f;
        for (int j = first; j < last; j++) sum += wide(dy[(size_t)order[j] * d + column]);
        to[column] = narrow<T>(sum);
    }
}

// y = x * factor[0].
template <typename T> __device__ void scale_by(T* y, const T* x, const float* factor, long n) {
    const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = narrow<T>(wide(x[i]) * factor[0]);
}

template <int V> __device__ void convert(bf16* y, const float* x, long n) {
    const long i = ((long)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    const Pack<float, V> from = *(const Pack<float, V>*)(x + i);
    Pack<bf16, V> to;
#pragma unroll
    for (int k = 0; k < V; k++) to.at[k] = narrow<bf16>(from.at[k]);
    *(Pack<bf16, V>*)(y + i) = to;
}

extern "C" {
#define NORM(SUFFIX, T, W, V)                                                                                          \
    __global__ void normalize_##SUFFIX(T* y, const T* x, const W* weight, int n, int d, float eps) {                   \
        normalize<T, W, V>(y, x, weight, n, d, eps);                                                                   \
    }                                                                                                                  \
    __global__ void __launch_bounds__(256)                                                                             \
        normalize_backward_##SUFFIX(T* dx, float* parts, const T* dy, const T* x, const W* weight, const T* residual,  \
                                    int n, int d, float eps, int rows_per_block) {                                     \
        normalize_backward<T, W, V>(dx, parts, dy, x, weight, residual, n, d, eps, rows_per_block);                    \
    }
NORM(1_f32_f32, float, float, 1)
NORM(1_bf16_f32, bf16, float, 1)
NORM(1_bf16_bf16, bf16, bf16, 1)
NORM(wide_f32_f32, float, float, 4)
NORM(wide_bf16_f32, bf16, float, 8)
NORM(wide_bf16_bf16, bf16, bf16, 8)

// Rows of f32 weights for what is computed in bf16.
__global__ void pick_rounded(bf16* y, const float* table, const int* ids, long n, int d) {
    pick<bf16, float>(y, table, ids, n, d);
}
__global__ void sum_picked_rounded(float* grad, const bf16* dy, const int* ids, const int* starts, const int* order, int d) {
    sum_picked<float, bf16>(grad, dy, ids, starts, order, d);
}

__global__ void convert_1(bf16* y, const float* x, long n) { convert<1>(y, x, n); }
__global__ void convert_wide(bf16* y, const float* x, long n) { convert<8>(y, x, n); }

#define EACH(SUFFIX, T, WIDE, TURNS)                                                                                   \
    __global__ void sum_parts_##SUFFIX(T* to, const float* parts, int n_parts, int d) {                                \
        sum_parts<T>(to, parts, n_parts, d);                                                                           \
    }                                                                                                                  \
    __global__ void gate_1_##SUFFIX(T* y, const T* x, long n, int f) { gate<T, 1>(y, x, n, f); }                       \
    __global__ void gate_wide_##SUFFIX(T* y, const T* x, long n, int f) { gate<T, WIDE>(y, x, n, f); }                    \
    __global__ void gate_backward_1_##SUFFIX(T* grad, const T* x, const T* dy, long n, int f) {                        \
        gate_backward<T, 1>(grad, x, dy, n, f);                                                                        \
    }                                                                                                                  \
    __global__ void gate_backward_wide_##SUFFIX(T* grad, const T* x, const T* dy, long n, int f) {                        \
        gate_backward<T, WIDE>(grad, x, dy, n, f);                                                                     \
    }                                                                                                                  \
    __global__ void turn_1_##SUFFIX(T* x, const float* cos, const float* sin, const int* positions, long n_tokens,     \
                                    int n_heads, int half, int width, float sense) {                                   \
        turn<T, 1>(x, cos, sin, positions, n_tokens, n_heads, half, width, sense);                                     \
    }                                                                                                                  \
    __global__ void turn_wide_##SUFFIX(T* x, const float* cos, const float* sin, const int* positions, long n_tokens,     \
                                    int n_heads, int half, int width, float sense) {                                   \
        turn<T, TURNS>(x, cos, sin, positions, n_tokens, n_heads, half, width, sense);                                 \
    }                                                                                                                  \
    __global__ void pick_##SUFFIX(T* y, const T* table, const int* ids, long n, int d) { pick<T, T>(y, table, ids, n, d); } \
    __global__ void place_##SUFFIX(T* y, const T* x, const int* rows, long n, int d) { place<T>(y, x, rows, n, d); }   \
    __global__ void sum_picked_##SUFFIX(T* grad, const T* dy, const int* ids, const int* starts, const int* order,     \
                                        int d) {                                                                       \
        sum_picked<T, T>(grad, dy, ids, starts, order, d);                                                                \
    }                                                                                                                  \
    __global__ void scale_by_##SUFFIX(T* y, const T* x, const float* factor, long n) { scale_by<T>(y, x, factor, n); }
EACH(f32, float, 4, 4)
EACH(bf16, bf16, 8, 4)
}
