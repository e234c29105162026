// Causal grouped-query attention within documents for any even width of a head up to 256, summed in f32; and attention over a
// cache. A warp a query (or a key): its lanes look at 32 keys at a time, then share the components of the sum.
//
// Queries and keys are rotated already. A query t sees the keys first[t] <= s <= t; for padding `first` is t + 1. `norms` holds
// the logarithm of the sum of the exponentials of a row's scores, infinity for padding.
#include "element.cuh"

constexpr int MOST = 8;  // components of a head that a lane holds

template <typename T> __device__ __forceinline__ float dot(const T* a, const T* b, int d) {
    float sum = 0.0f;
    for (int i = 0; i < d; i++) sum = fmaf(wide(a[i]), wide(b[i]), sum);
    return sum;
}

struct Place {
    int row, t, head;  // of the batch, token, head
    bool exists;
};

// The place of this warp among batch x heads x tokens.
__device__ __forceinline__ Place place_of_warp(int batch, int len, int n_heads) {
    const long i = (long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    return {(int)(i / ((long)n_heads * len)), (int)(i % len), (int)(i / len % n_heads), i < (long)batch * n_heads * len};
}

template <typename T>
__device__ void attend(T* y, float* norms, const T* qkv, const int* first, int batch, int len, int n_heads,
                       int n_kv_heads, int d, float scale) {
    const Place at = place_of_warp(batch, len, n_heads);
    if (!at.exists) return;
    const int lane = threadIdx.x % 32;
    const size_t width = (size_t)(n_heads + 2 * n_kv_heads) * d, token = (size_t)at.row * len + at.t;
    const int kv_head = at.head / (n_heads / n_kv_heads);
    const T* row = qkv + (size_t)at.row * len * width;
    const T *q = row + at.t * width + at.head * d, *k = row + (n_heads + kv_head) * d, *v = k + n_kv_heads * d;
    float top = -INFINITY, total = 0.0f, sum[MOST] = {};
    for (int s0 = first[token]; s0 <= at.t; s0 += 32) {
        const int s = s0 + lane;
        const float score = s <= at.t ? dot(q, k + s * width, d) * scale : -INFINITY;
        const float now = fmaxf(top, warp_max(score)), keep = expf(top - now), p = expf(score - now);
        total = total * keep + warp_sum(p);
        top = now;
#pragma unroll
        for (int i = 0; i < MOST; i++) sum[i] *= keep;
        for (int j = 0; j < min(32, at.t + 1 - s0); j++) {
            const float weight = __shfl_sync(0xffffffffu, p, j);
            const T* value = v + (s0 + j) * width;
#pragma unroll
            for (int i = 0; i < MOST; i++)
                if (lane + 32 * i < d) sum[i] = fmaf(weight, wide(value[lane + 32 * i]), sum[i]);
        }
    }
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
    T* to = y + token * n_heads * d + at.head * d;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + 32 * i < d) to[lane + 32 * i] = narrow<T>(sum[i] * inverse);
    if (lane == 0) norms[((size_t)at.row * n_heads + at.head) * len + at.t] = total > 0.0f ? top + logf(total) : INFINITY;
}

// dots = sum of dy * y over each head; eight lanes a head, V neighbours a lane.
template <typename T, int V>
__device__ void dot_heads(float* dots, const T* dy, const T* y, int batch, int len, int n_heads, int d) {
    const long head = ((long)blockIdx.x * blockDim.x + threadIdx.x) / 8;  // of a token of a row
    const bool exists = head < (long)batch * len * n_heads;
    float sum = 0.0f;
    if (exists) {
        for (int i = threadIdx.x % 8 * V; i < d; i += 8 * V) {
            const Pack<T, V> a = *(const Pack<T, V>*)(dy + head * d + i), b = *(const Pack<T, V>*)(y + head * d + i);
#pragma unroll
            for (int k = 0; k < V; k++) sum = fmaf(wide(a.at[k]), wide(b.at[k]), sum);
        }
    }
#pragma unroll
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const long token = head / n_heads, row = token / len;
    if (exists && threadIdx.x % 8 == 0) dots[(row * n_heads + head % n_heads) * len + token % len] = sum;
}

template <typename T>
__device__ void backward_queries(T* grad, const T* qkv, const T* dy, const float* norms, const float* dots,
                                 const int* first, int batch, int len, int n_heads, int n_kv_heads, int d, float scale) {
    const Place at = place_of_warp(batch, len, n_heads);
    if (!at.exists) return;
    const int lane = threadIdx.x % 32;
    const size_t width = (size_t)(n_heads + 2 * n_kv_heads) * d, token = (size_t)at.row * len + at.t;
    const int kv_head = at.head / (n_heads / n_kv_heads);
    const T* row = qkv + (size_t)at.row * len * width;
    const T *q = row + at.t * width + at.head * d, *k = row + (n_heads + kv_head) * d, *v = k + n_kv_heads * d;
    dy += token * n_heads * d + at.head * d;
    const size_t stat = ((size_t)at.row * n_heads + at.head) * len + at.t;
    const float norm = norms[stat], along = dots[stat];
    float sum[MOST] = {};
    for (int s0 = first[token]; s0 <= at.t; s0 += 32) {
        const int s = s0 + lane;
        float ds = 0.0f;
        if (s <= at.t) ds = expf(dot(q, k + s * width, d) * scale - norm) * (dot(dy, v + s * width, d) - along) * scale;
        for (int j = 0; j < min(32, at.t + 1 - s0); j++) {
            const float weight = __shfl_sync(0xffffffffu, ds, j);
            const T* key = k + (s0 + j) * width;
#pragma unroll
            for (int i = 0; i < MOST; i++)
                if (lane + 32 * i < d) sum[i] = fmaf(weight, wide(key[lane + 32 * i]), sum[i]);
        }
    }
    T* to = grad + token * width + at.head * d;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + 32 * i < d) to[lane + 32 * i] = narrow<T>(sum[i]);
}

// A warp a key: all queries behind it that see it, of all heads that share it.
template <typename T>
__device__ void backward_keys(T* grad, const T* qkv, const T* dy, const float* norms, const float* dots,
                              const int* first, int batch, int len, int n_heads, int n_kv_heads, int d, float scale) {
    const Place at = place_of_warp(batch, len, n_kv_heads);
    if (!at.exists) return;
    const int lane = threadIdx.x % 32, group = n_heads / n_kv_heads;
    const size_t width = (size_t)(n_heads + 2 * n_kv_heads) * d, dy_width = (size_t)n_heads * d;
    const T* row = qkv + (size_t)at.row * len * width;
    const T *k = row + at.t * width + (n_heads + at.head) * d, *v = k + n_kv_heads * d;
    dy += (size_t)at.row * len * dy_width;
    first += (size_t)at.row * len;
    float of_key[MOST] = {}, of_value[MOST] = {};
    for (int head = at.head * group; head < (at.head + 1) * group; head++) {
        const size_t stat = ((size_t)at.row * n_heads + head) * len;
        // `first` never falls, so that nobody sees this key behind the first who does not.
        for (int q0 = at.t; q0 < len && first[q0] <= at.t; q0 += 32) {
            const int q = q0 + lane;
            float p = 0.0f, ds = 0.0f;
            if (q < len && first[q] <= at.t) {
                p = expf(dot(row + q * width + head * d, k, d) * scale - norms[stat + q]);
                ds = p * (dot(dy + q * dy_width + head * d, v, d) - dots[stat + q]) * scale;
            }
            for (int j = 0; j < min(32, len - q0); j++) {
                const float weight = __shfl_sync(0xffffffffu, p, j), pull = __shfl_sync(0xffffffffu, ds, j);
                const T *query = row + (q0 + j) * width + head * d, *above = dy + (q0 + j) * dy_width + head * d;
#pragma unroll
                for (int i = 0; i < MOST; i++)
                    if (lane + 32 * i < d) {
                        of_key[i] = fmaf(pull, wide(query[lane + 32 * i]), of_key[i]);
                        of_value[i] = fmaf(weight, wide(above[lane + 32 * i]), of_value[i]);
                    }
            }
        }
    }
    T* to = grad + ((size_t)at.row * len + at.t) * width + (n_heads + at.head) * d;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + 32 * i < d) {
            to[lane + 32 * i] = narrow<T>(of_key[i]);
            to[n_kv_heads * d + lane + 32 * i] = narrow<T>(of_value[i]);
        }
}

// Rotates the key of each new token and keeps it with its value. A cache lies as (rows, KV, max_len, D).
template <typename T>
__device__ void append(T* keys, T* values, const T* qkv, const float* cos, const float* sin, const int* rows,
                       const int* positions, int n, int n_heads, int n_kv_heads, int d, int max_len) {
    const int half = d / 2;
    const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long)n * n_kv_heads * half) return;
    const int pair = i % half, kv_head = i / half % n_kv_heads, token = i / half / n_kv_heads;
    const T* key = qkv + (size_t)token * (n_heads + 2 * n_kv_heads) * d + (n_heads + kv_head) * d;
    const T* value = key + n_kv_heads * d;
    const size_t to = (((size_t)rows[token] * n_kv_heads + kv_head) * max_len + positions[token]) * d;
    const float c = cos[(size_t)positions[token] * half + pair], s = sin[(size_t)positions[token] * half + pair];
    const float low = wide(key[pair]), high = wide(key[pair + half]);
    keys[to + pair] = narrow<T>(low * c - high * s);
    keys[to + pair + half] = narrow<T>(high * c + low * s);
    values[to + pair] = value[pair];
    values[to + pair + half] = value[pair + half];
}

// Each new token over the keys of its row up to its own; a block of four warps a token and head.
template <typename T>
__device__ void attend_cached(T* y, const T* qkv, const T* keys, const T* values, const float* cos, const float* sin,
                              const int* rows, const int* positions, int n_heads, int n_kv_heads, int d, int max_len,
                              float scale) {
    __shared__ float query[256], tops[4], totals[4], sums[4][256];
    const int token = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = d / 2;
    const int position = positions[token], kv_head = head / (n_heads / n_kv_heads);
    const T* from = qkv + (size_t)token * (n_heads + 2 * n_kv_heads) * d + head * d;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        const float c = cos[(size_t)position * half + i], s = sin[(size_t)position * half + i];
        // Rounded as the keys are.
        query[i] = wide(narrow<T>(wide(from[i]) * c - wide(from[i + half]) * s)) * scale;
        query[i + half] = wide(narrow<T>(wide(from[i + half]) * c + wide(from[i]) * s)) * scale;
    }
    __syncthreads();
    const size_t start = ((size_t)rows[token] * n_kv_heads + kv_head) * max_len * d;
    keys += start;
    values += start;
    float top = -INFINITY, total = 0.0f, sum[MOST] = {};
    for (int s0 = warp * 32; s0 <= position; s0 += 128) {
        const int s = s0 + lane;
        float score = -INFINITY;
        if (s <= position) {
            score = 0.0f;
            const T* key = keys + (size_t)s * d;
            for (int i = 0; i < d; i += 2) {
                const Pack<T, 2> two = *(const Pack<T, 2>*)(key + i);
                score = fmaf(query[i], wide(two.at[0]), fmaf(query[i + 1], wide(two.at[1]), score));
            }
        }
        const float now = fmaxf(top, warp_max(score)), keep = expf(top - now), p = expf(score - now);
        total = total * keep + warp_sum(p);
        top = now;
#pragma unroll
        for (int i = 0; i < MOST; i++) sum[i] *= keep;
        for (int j = 0; j < min(32, position + 1 - s0); j++) {
            const float weight = __shfl_sync(0xffffffffu, p, j);
            const T* value = values + (size_t)(s0 + j) * d;
#pragma unroll
            for (int i = 0; i < MOST; i++)
                if (lane + 32 * i < d) sum[i] = fmaf(weight, wide(value[lane + 32 * i]), sum[i]);
        }
    }
    if (lane == 0) {
        tops[warp] = top;
        totals[warp] = total;
    }
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + 32 * i < d) sums[warp][lane + 32 * i] = sum[i];
    __syncthreads();
    top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float numerator = 0.0f, denominator = 0.0f;
        for (int w = 0; w < 4; w++) {
            const float share = expf(tops[w] - top);
            numerator += share * sums[w][i];
            denominator += share * totals[w];
        }
        y[((size_t)token * n_heads + head) * d + i] = narrow<T>(numerator / denominator);
    }
}

extern "C" {
#define EACH(SUFFIX, T)                                                                                                \
    __global__ void attend_##SUFFIX(T* y, float* norms, const T* qkv, const int* first, int batch, int len,            \
                                    int n_heads, int n_kv_heads, int d, float scale) {                                 \
        attend<T>(y, norms, qkv, first, batch, len, n_heads, n_kv_heads, d, scale);                                    \
    }                                                                                                                  \
    __global__ void attend_backward_queries_##SUFFIX(T* grad, const T* qkv, const T* dy, const float* norms,           \
                                                     const float* dots, const int* first, int batch, int len,          \
                                                     int n_heads, int n_kv_heads, int d, float scale) {                \
        backward_queries<T>(grad, qkv, dy, norms, dots, first, batch, len, n_heads, n_kv_heads, d, scale);             \
    }                                                                                                                  \
    __global__ void attend_backward_keys_##SUFFIX(T* grad, const T* qkv, const T* dy, const float* norms,              \
                                                  const float* dots, const int* first, int batch, int len,             \
                                                  int n_heads, int n_kv_heads, int d, float scale) {                   \
        backward_keys<T>(grad, qkv, dy, norms, dots, first, batch, len, n_heads, n_kv_heads, d, scale);                \
    }                                                                                                                  \
    __global__ void append_##SUFFIX(T* keys, T* values, const T* qkv, const float* cos, const float* sin,              \
                                    const int* rows, const int* positions, int n, int n_heads, int n_kv_heads, int d,  \
                                    int max_len) {                                                                     \
        append<T>(keys, values, qkv, cos, sin, rows, positions, n, n_heads, n_kv_heads, d, max_len);                   \
    }                                                                                                                  \
    __global__ void attend_cached_##SUFFIX(T* y, const T* qkv, const T* keys, const T* values, const float* cos,       \
                                           const float* sin, const int* rows, const int* positions, int n_heads,       \
                                           int n_kv_heads, int d, int max_len, float scale) {                          \
        attend_cached<T>(y, qkv, keys, values, cos, sin, rows, positions, n_heads, n_kv_heads, d, max_len, scale);     \
    }
EACH(f32, float)
EACH(bf16, bf16)

#define DOT_HEADS(SUFFIX, T, V)                                                                                        \
    __global__ void dot_heads_##SUFFIX(float* dots, const T* dy, const T* y, int batch, int len, int n_heads, int d) { \
        dot_heads<T, V>(dots, dy, y, batch, len, n_heads, d);                                                          \
    }
DOT_HEADS(1_f32, float, 1)
DOT_HEADS(1_bf16, bf16, 1)
DOT_HEADS(wide_f32, float, 4)
DOT_HEADS(wide_bf16, bf16, 8)
}
