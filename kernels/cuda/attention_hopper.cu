// Causal grouped-query attention within documents, bf16 by warpgroup products, for heads of 64 or 128 on Hopper.
//
// What attention_bf16.cu computes, and the gradients turned back besides. A block is a warpgroup with a tile of 64 rows of its own,
// and goes through tiles of 64 others. Scores by query (or by key in the backward pass by keys) lie in its registers, and from there
// are the left operand of the next product. While one warpgroup takes exponentials, others of the same multiprocessor multiply.
//
// Shah et al. 2024, arXiv:2407.08608 (which products go from where); Dao 2023, arXiv:2307.08691 (what is computed).
#include "attention_bf16.cuh"
#include "warpgroup.cuh"

// Rows of all tiles, and threads of all blocks.
constexpr int ROWS = 64, THREADS = 128;

// c = `a` times the rows of `b`, tiles D wide. Not awaited.
template <int D> __device__ __forceinline__ void score(float (&c)[ROWS / 8][4], const bf16* a, const bf16* b) {
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        const int at = k / PANEL * ROWS * PANEL + k % PANEL;
        if (k == 0)
            multiply_shared<false>(c, describe(a + at, 0), describe(b + at, 0));
        else
            multiply_shared<true>(c, describe(a + at, 0), describe(b + at, 0));
    }
}

// Scores of the tile's rows by others as a left operand.
typedef unsigned Weights[ROWS / 16][4];

// c += weights times the rows of `b`, a tile D wide. Not awaited.
template <int D> __device__ __forceinline__ void weigh(float (&c)[D / 8][4], const Weights& weights, const bf16* b) {
#pragma unroll
    for (int k = 0; k < ROWS; k += 16)
        multiply_registers(c, weights[k / 16], describe(b + k * PANEL, ROWS * PANEL * (int)sizeof(bf16)));
}

__device__ __forceinline__ void as_weights(Weights& weights, const float (&c)[ROWS / 8][4]) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) as_left(weights[k], c[2 * k], c[2 * k + 1]);
}

// Scores of rows by columns: minus infinity where `sees(row, column)` of the thread's two rows does not hold.
template <typename Sees> __device__ __forceinline__ void mask(float (&c)[ROWS / 8][4], Sees sees) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!sees(i / 2, n * 8 + 2 * t + i % 2)) c[n][i] = -INFINITY;
}

// Where queries and keys were turned: cosines and sines of (positions, D / 2), and the position of each token.
struct Turn {
    const float *cos, *sin;
    const int* positions;
};

// Writes a row of the gradient of turned queries or keys, of which a thread has columns 8 n + 2 t and the next, turned back.
template <int D>
__device__ __forceinline__ void write_turned_back(bf16* to, const float (&grad)[D / 8][4], int i, Turn turn, int token,
                                                  float scale) {
    constexpr int HALF = D / 2;
    const size_t angles = (size_t)turn.positions[token] * HALF + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        const float2 c = *(const float2*)(turn.cos + angles + n * 8), s = *(const float2*)(turn.sin + angles + n * 8);
        const float *a = grad[n] + 2 * i, *b = grad[n + D / 16] + 2 * i;
        *(unsigned*)(to + n * 8) = two_bf16((a[0] * c.x + b[0] * s.x) * scale, (a[1] * c.y + b[1] * s.y) * scale);
        *(unsigned*)(to + n * 8 + HALF) = two_bf16((b[0] * c.x - a[0] * s.x) * scale, (b[1] * c.y - a[1] * s.y) * scale);
    }
}

// 64 queries of one head, by tiles of 64 keys.
template <int D>
__device__ __forceinline__ void forward(bf16* y, float* norms, const bf16* qkv, const int* first, Shape shape) {
    constexpr int TILE_LEN = ROWS * D;
    extern __shared__ __align__(1024) bf16 tiles[];
    bf16 *queries = tiles, *keys = queries + TILE_LEN, *values = keys + 2 * TILE_LEN;
    const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, row = blockIdx.z, len = shape.len;
    const int q0 = tile * ROWS, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const Columns<D> from(qkv, shape, row, head, head / (shape.n_heads / shape.n_kv_heads));
    first += (size_t)row * len;
    const int first_tile = first[q0] / ROWS, last_first = first[min(q0 + ROWS, len) - 1];
    const int last_tile = (min(q0 + ROWS, len) - 1) / ROWS;
    const float scale = shape.scale * LOG2_E;

    int q[2], begin[2];
    float out[D / 8][4] = {}, top[2], total[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q[i] = q0 + warp * 16 + g + 8 * i;
        begin[i] = q[i] < len ? first[q[i]] : len;
        top[i] = -INFINITY;
        total[i] = 0.0f;
    }
    copy_panels<D, ROWS, THREADS>(queries, from.q, from.width, q0, len);
    copy_panels<D, ROWS, THREADS>(keys, from.k, from.width, first_tile * ROWS, len);
    copy_panels<D, ROWS, THREADS>(values, from.v, from.width, first_tile * ROWS, len);
    commit_copies();
    for (int kt = first_tile; kt <= last_tile; kt++) {
        const int stage = (kt - first_tile) & 1, k0 = kt * ROWS;
        // This tile is there, and all have done with the last, which the next one takes the place of.
        await_copies<0>();
        show_copies();
        __syncthreads();
        if (kt < last_tile) {
            copy_panels<D, ROWS, THREADS>(keys + (stage ^ 1) * TILE_LEN, from.k, from.width, k0 + ROWS, len);
            copy_panels<D, ROWS, THREADS>(values + (stage ^ 1) * TILE_LEN, from.v, from.width, k0 + ROWS, len);
            commit_copies();
        }
        float s[ROWS / 8][4];
        begin_products();
        score<D>(s, queries, keys + stage * TILE_LEN);
        commit_products();
        await_products<0>();
        pin(s);
        if (k0 + ROWS - 1 > q0 || k0 < last_first)
            mask(s, [&](int i, int n) { return k0 + n >= begin[i] && k0 + n <= q[i]; });
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float most = -INFINITY;
#pragma unroll
            for (int n = 0; n < ROWS / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            const float now = fmaxf(top[i], most), shift = now == -INFINITY ? 0.0f : now * scale;
            const float keep = two_to(top[i] * scale - shift);
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    s[n][j] = two_to(s[n][j] * scale - shift);
                    sum += s[n][j];
                }
            total[i] = total[i] * keep + sum;
            top[i] = now;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * i] *= keep;
                out[n][2 * i + 1] *= keep;
            }
        }
        Weights weights;
        as_weights(weights, s);
        pin(out);
        begin_products();
        weigh<D>(out, weights, values + stage * TILE_LEN);
        commit_products();
        await_products<0>();
        pin(out);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = total[i];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (q[i] >= len) continue;
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
        bf16* to = y + ((size_t)row * len + q[i]) * shape.n_heads * D + head * D + 2 * t;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(unsigned*)(to + n * 8) = two_bf16(out[n][2 * i] * inverse, out[n][2 * i + 1] * inverse);
        if (t == 0)
            norms[((size_t)row * shape.n_heads + head) * len + q[i]] =
                sum > 0.0f ? top[i] * scale + log2f(sum) : INFINITY;
    }
}

// Gradients of 64 keys, turned back, and values of one key head, by tiles of 64 queries. `p` and `ds` have keys by rows.
template <int D>
__device__ __forceinline__ void backward_keys(bf16* grad, const bf16* qkv, const bf16* dy, const float* norms,
                                              const float* dots, const int* first, Turn turn, Shape shape) {
    constexpr int TILE_LEN = ROWS * D;
    extern __shared__ __align__(1024) bf16 tiles[];
    bf16 *keys = tiles, *values = keys + TILE_LEN, *queries = values + TILE_LEN, *dys = queries + 2 * TILE_LEN;
    float* row_norms = (float*)(dys + 2 * TILE_LEN);
    float* row_dots = row_norms + 2 * ROWS;
    int* row_first = (int*)(row_dots + 2 * ROWS);
    const int k0 = blockIdx.x * ROWS, kv_head = blockIdx.y, row = blockIdx.z, len = shape.len;
    const int n_group = shape.n_heads / shape.n_kv_heads, head0 = kv_head * n_group;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const Columns<D> from(qkv, shape, row, head0, kv_head);
    const size_t dy_width = (size_t)shape.n_heads * D;
    dy += (size_t)row * len * dy_width;
    first += (size_t)row * len;
    const float scale = shape.scale * LOG2_E;
    const int first_tile = k0 / ROWS;
    int n_tiles = 0;
    while ((first_tile + n_tiles) * ROWS < len && first[(first_tile + n_tiles) * ROWS] < k0 + ROWS) n_tiles++;

    auto fetch = [&](int it, int stage) {
        const int head = head0 + it / n_tiles, q0 = (first_tile + it % n_tiles) * ROWS;
        copy_panels<D, ROWS, THREADS>(queries + stage * TILE_LEN, from.q + (head - head0) * D, from.width, q0, len);
        copy_panels<D, ROWS, THREADS>(dys + stage * TILE_LEN, dy + head * D, dy_width, q0, len);
        // Behind the end norms are 0 too: queries and gradients are zeros there, and so is what comes of them.
        if (threadIdx.x < ROWS) {
            const int q = q0 + threadIdx.x, to = stage * ROWS + threadIdx.x;
            const size_t at = ((size_t)row * shape.n_heads + head) * len + q;
            copy_4_bytes(row_norms + to, norms + at, q < len);
            copy_4_bytes(row_dots + to, dots + at, q < len);
            copy_4_bytes(row_first + to, first + q, q < len);
        }
        commit_copies();
    };
    float grad_keys[D / 8][4] = {}, grad_values[D / 8][4] = {};
    const int n = n_group * n_tiles, own = k0 + warp * 16 + g;
    copy_panels<D, ROWS, THREADS>(keys, from.k, from.width, k0, len);
    copy_panels<D, ROWS, THREADS>(values, from.v, from.width, k0, len);
    if (n > 0) fetch(0, 0);
    for (int it = 0; it < n; it++) {
        const int stage = it & 1, q0 = (first_tile + it % n_tiles) * ROWS;
        // This tile is there, and all have done with the last, which the next one takes the place of.
        await_copies<0>();
        show_copies();
        __syncthreads();
        if (it + 1 < n) fetch(it + 1, stage ^ 1);
        const bf16 *of_queries = queries + stage * TILE_LEN, *of_dys = dys + stage * TILE_LEN;
        const int* begins = row_first + stage * ROWS;
        float p[ROWS / 8][4], ds[ROWS / 8][4];
        begin_products();
        score<D>(p, keys, of_queries);
        commit_products();
        score<D>(ds, values, of_dys);
        commit_products();
        await_products<1>();
        pin(p);
        if (q0 < k0 + ROWS - 1 || begins[min(ROWS, len - q0) - 1] > k0)
            mask(p, [&](int i, int c) { return own + 8 * i >= begins[c] && own + 8 * i <= q0 + c; });
#pragma unroll
        for (int c = 0; c < ROWS / 8; c++) {
            const float2 norm = *(const float2*)(row_norms + stage * ROWS + c * 8 + 2 * t);
#pragma unroll
            for (int i = 0; i < 4; i++) p[c][i] = two_to(p[c][i] * scale - (i % 2 ? norm.y : norm.x));
        }
        await_products<0>();
        pin(ds);
#pragma unroll
        for (int c = 0; c < ROWS / 8; c++) {
            const float2 dot = *(const float2*)(row_dots + stage * ROWS + c * 8 + 2 * t);
#pragma unroll
            for (int i = 0; i < 4; i++) ds[c][i] = p[c][i] * (ds[c][i] - (i % 2 ? dot.y : dot.x));
        }
        Weights weights, of_scores;
        as_weights(weights, p);
        as_weights(of_scores, ds);
        pin(grad_keys);
        pin(grad_values);
        begin_products();
        weigh<D>(grad_values, weights, of_dys);
        weigh<D>(grad_keys, of_scores, of_queries);
        commit_products();
        await_products<0>();
        pin(grad_keys);
        pin(grad_values);
    }
    if (n == 0) await_copies<0>();
    bf16* to = grad + (size_t)row * len * from.width;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int key = own + 8 * i;
        if (key >= len) continue;
        bf16* of_key = to + key * from.width + (shape.n_heads + kv_head) * D + 2 * t;
        bf16* of_value = of_key + shape.n_kv_heads * D;
        write_turned_back<D>(of_key, grad_keys, i, turn, row * len + key, shape.scale);
#pragma unroll
        for (int c = 0; c < D / 8; c++)
            *(unsigned*)(of_value + c * 8) = two_bf16(grad_values[c][2 * i], grad_values[c][2 * i + 1]);
    }
}

// Gradients of 64 queries of one head, turned back, by tiles of 64 keys.
template <int D>
__device__ __forceinline__ void backward_queries(bf16* grad, const bf16* qkv, const bf16* dy, const float* norms,
                                                 const float* dots, const int* first, Turn turn, Shape shape) {
    constexpr int TILE_LEN = ROWS * D;
    extern __shared__ __align__(1024) bf16 tiles[];
    bf16 *queries = tiles, *dys = queries + TILE_LEN, *keys = dys + TILE_LEN, *values = keys + 2 * TILE_LEN;
    const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, row = blockIdx.z, len = shape.len;
    const int q0 = tile * ROWS, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const Columns<D> from(qkv, shape, row, head, head / (shape.n_heads / shape.n_kv_heads));
    const size_t dy_width = (size_t)shape.n_heads * D;
    first += (size_t)row * len;
    const int first_tile = first[q0] / ROWS, last_first = first[min(q0 + ROWS, len) - 1];
    const int last_tile = (min(q0 + ROWS, len) - 1) / ROWS;
    const float scale = shape.scale * LOG2_E;
    int q[2], begin[2];
    float norm[2], dot[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q[i] = q0 + warp * 16 + g + 8 * i;
        const size_t at = ((size_t)row * shape.n_heads + head) * len + q[i];
        begin[i] = q[i] < len ? first[q[i]] : len;
        norm[i] = q[i] < len ? norms[at] : INFINITY;
        dot[i] = q[i] < len ? dots[at] : 0.0f;
    }
    float out[D / 8][4] = {};
    copy_panels<D, ROWS, THREADS>(queries, from.q, from.width, q0, len);
    copy_panels<D, ROWS, THREADS>(dys, dy + (size_t)row * len * dy_width + head * D, dy_width, q0, len);
    copy_panels<D, ROWS, THREADS>(keys, from.k, from.width, first_tile * ROWS, len);
    copy_panels<D, ROWS, THREADS>(values, from.v, from.width, first_tile * ROWS, len);
    commit_copies();
    for (int kt = first_tile; kt <= last_tile; kt++) {
        const int stage = (kt - first_tile) & 1, k0 = kt * ROWS;
        // This tile is there, and all have done with the last, which the next one takes the place of.
        await_copies<0>();
        show_copies();
        __syncthreads();
        if (kt < last_tile) {
            copy_panels<D, ROWS, THREADS>(keys + (stage ^ 1) * TILE_LEN, from.k, from.width, k0 + ROWS, len);
            copy_panels<D, ROWS, THREADS>(values + (stage ^ 1) * TILE_LEN, from.v, from.width, k0 + ROWS, len);
            commit_copies();
        }
        float p[ROWS / 8][4], ds[ROWS / 8][4];
        begin_products();
        score<D>(p, queries, keys + stage * TILE_LEN);
        commit_products();
        score<D>(ds, dys, values + stage * TILE_LEN);
        commit_products();
        await_products<1>();
        pin(p);
        if (k0 + ROWS - 1 > q0 || k0 < last_first)
            mask(p, [&](int i, int n) { return k0 + n >= begin[i] && k0 + n <= q[i]; });
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) p[n][i] = two_to(p[n][i] * scale - norm[i / 2]);
        await_products<0>();
        pin(ds);
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) ds[n][i] = p[n][i] * (ds[n][i] - dot[i / 2]);
        Weights of_scores;
        as_weights(of_scores, ds);
        pin(out);
        begin_products();
        weigh<D>(out, of_scores, keys + stage * TILE_LEN);
        commit_products();
        await_products<0>();
        pin(out);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (q[i] >= len) continue;
        bf16* to = grad + ((size_t)row * len + q[i]) * from.width + head * D + 2 * t;
        write_turned_back<D>(to, out, i, turn, row * len + q[i], shape.scale);
    }
}

extern "C" {
#define FOR_HEADS_OF(D, FORWARD, BY_KEYS, BY_QUERIES)                                                                  \
    __global__ void __launch_bounds__(THREADS, FORWARD)                                                                \
        hopper_forward_##D(bf16* y, float* norms, const bf16* qkv, const int* first, int len, int n_heads,             \
                           int n_kv_heads, float scale) {                                                              \
        forward<D>(y, norms, qkv, first, {len, n_heads, n_kv_heads, scale});                                           \
    }                                                                                                                  \
    BACKWARD(backward_keys, D, BY_KEYS)                                                                                \
    BACKWARD(backward_queries, D, BY_QUERIES)
#define BACKWARD(WAY, D, RESIDENT)                                                                                     \
    __global__ void __launch_bounds__(THREADS, RESIDENT)                                                               \
        hopper_##WAY##_##D(bf16* grad, const bf16* qkv, const bf16* dy, const float* norms, const float* dots,         \
                           const int* first, int len, int n_heads, int n_kv_heads, float scale, const float* cos,      \
                           const float* sin, const int* positions) {                                                   \
        WAY<D>(grad, qkv, dy, norms, dots, first, {cos, sin, positions}, {len, n_heads, n_kv_heads, scale});           \
    }
// With so many blocks of each kernel on a multiprocessor. Tiles of 128 keys, blocks of 128 queries, and scoring the next keys while
// values are weighed came within a tenth for heads of 64 on an H200, or were slower.
FOR_HEADS_OF(64, 4, 3, 4)
FOR_HEADS_OF(128, 2, 2, 2)
}
