// The output layer: log-probabilities of the targets, and the gradient of the logits, a block a row.
#include "tensor_core.cuh"

// e^x; for what is rounded to bf16 the fast one, which is within some units in the last place of f32 for small x.
template <typename T> __device__ __forceinline__ float exponential(float x) { return expf(x); }
template <> __device__ __forceinline__ float exponential<bf16>(float x) { return __expf(x); }

// log_probs[i] = log softmax(logits_i)[targets[i]]; where `grad` is given, grad_i = scales[i] * (onehot - softmax).
template <typename T, int V>
__device__ void log_softmax(float* log_probs, T* grad, const float* logits, const int* targets, const float* scales,
                            int vocab) {
    __shared__ float shared[33];
    const size_t start = (size_t)blockIdx.x * vocab;
    const float* row = logits + start;
    float top = -INFINITY, total = 0.0f;
    for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
        const Pack<float, V> x = *(const Pack<float, V>*)(row + i);
        float most = x.at[0];
#pragma unroll
        for (int k = 1; k < V; k++) most = fmaxf(most, x.at[k]);
        if (most > top) {
            total *= exponential<T>(top - most);
            top = most;
        }
#pragma unroll
        for (int k = 0; k < V; k++) total += exponential<T>(x.at[k] - top);
    }
    const float most = block_max(top, shared);
    total = block_sum(top == -INFINITY ? 0.0f : total * exponential<T>(top - most), shared);
    const int target = targets[blockIdx.x];
    if (threadIdx.x == 0) log_probs[blockIdx.x] = row[target] - most - logf(total);
    if (!grad) return;
    const float scale = scales[blockIdx.x], inverse = -scale / total;
    for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
        const Pack<float, V> x = *(const Pack<float, V>*)(row + i);
        Pack<T, V> out;
#pragma unroll
        for (int k = 0; k < V; k++)
            out.at[k] = narrow<T>(inverse * exponential<T>(x.at[k] - most) + (i + k == target ? scale : 0.0f));
        *(Pack<T, V>*)(grad + start + i) = out;
    }
}

// As `log_softmax`, with gradient, for rows that fit into shared memory, which are read once: a block goes through every
// gridDim.x-th row, and each thread fetches its part of the next where it has done with its part of this.
__device__ void log_softmax_resident(float* log_probs, bf16* grad, const float* logits, const int* targets, const float* scales,
                                     int vocab, int n) {
    extern __shared__ float4 row[];
    __shared__ float shared[33];
    const int n_packs = vocab / 4;
    const float4* packs = (const float4*)logits;
    if (blockIdx.x < n)
        for (int i = threadIdx.x; i < n_packs; i += blockDim.x)
            copy_16_bytes(row + i, packs + (size_t)blockIdx.x * n_packs + i, true);
    commit_copies();
    for (int r = blockIdx.x; r < n; r += gridDim.x) {
        const int target = targets[r];
        const float of_target = logits[(size_t)r * vocab + target], scale = scales[r];
        // What a thread has copied itself it sees without a barrier.
        await_copies<0>();
        float top = -INFINITY, total = 0.0f;
        for (int i = threadIdx.x; i < n_packs; i += blockDim.x) {
            const float4 x = row[i];
            const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
            if (most > top) {
                total *= __expf(top - most);
                top = most;
            }
            total += __expf(x.x - top) + __expf(x.y - top) + (__expf(x.z - top) + __expf(x.w - top));
        }
        const float most = block_max(top, shared);
        total = block_sum(top == -INFINITY ? 0.0f : total * __expf(top - most), shared);
        if (threadIdx.x == 0) log_probs[r] = of_target - most - logf(total);
        const float inverse = -scale / total;
        const int next = r + gridDim.x;
        for (int i = threadIdx.x; i < n_packs; i += blockDim.x) {
            const float4 x = row[i];
            const float weights[4] = {x.x, x.y, x.z, x.w};
            Pack<bf16, 4> out;
#pragma unroll
            for (int k = 0; k < 4; k++)
                out.at[k] = narrow<bf16>(inverse * __expf(weights[k] - most) + (i * 4 + k == target ? scale : 0.0f));
            *(Pack<bf16, 4>*)(grad + (size_t)r * vocab + i * 4) = out;
            // The place is read, as the store above needed what was there.
            asm volatile("" ::: "memory");
            if (next < n) copy_16_bytes(row + i, packs + (size_t)next * n_packs + i, true);
        }
        commit_copies();
    }
}

extern "C" {
__global__ void __launch_bounds__(1024)
    log_softmax_resident_bf16(float* log_probs, bf16* grad, const float* logits, const int* targets, const float* scales,
                              int vocab, int n) {
    log_softmax_resident(log_probs, grad, logits, targets, scales, vocab, n);
}

#define LOG_SOFTMAX(SUFFIX, T, V)                                                                                      \
    __global__ void __launch_bounds__(1024) log_softmax_##SUFFIX(float* log_probs, T* grad, const float* logits,       \
                                                                 const int* targets, const float* scales, int vocab) { \
        log_softmax<T, V>(log_probs, grad, logits, targets, scales, vocab);                                            \
    }
LOG_SOFTMAX(1_f32, float, 1)
LOG_SOFTMAX(wide_f32, float, 4)
LOG_SOFTMAX(1_bf16, bf16, 1)
LOG_SOFTMAX(wide_bf16, bf16, 4)

// sum of scales * log_probs, by one block, in f64.
__global__ void __launch_bounds__(256) weighted_sum(float* to, const float* log_probs, const float* scales, int n) {
    __shared__ double sums[256];
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += (double)scales[i] * (double)log_probs[i];
    sums[threadIdx.x] = sum;
    for (int width = 128; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) sums[threadIdx.x] += sums[threadIdx.x + width];
    }
    if (threadIdx.x == 0) to[0] = (float)sums[0];
}

// What comes after row rows[i] of the logits, and its log-probability: the first of the largest where temperatures[i] is 0, else
// the token at which the cumulated softmax of logits / temperature passes us[i]. A thread takes a stretch of the vocabulary.
__global__ void __launch_bounds__(256) choose(int* ids, float* log_probs, const float* logits, const int* rows,
                                              const float* temperatures, const double* us, int vocab) {
    __shared__ float tops[256];
    __shared__ int places[256];
    __shared__ double sums[256], draws[256];
    const float* row = logits + (size_t)rows[blockIdx.x] * vocab;
    const float temperature = temperatures[blockIdx.x], sharpness = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    const int n = (vocab + 255) / 256, first = min(vocab, (int)threadIdx.x * n), last = min(vocab, first + n);
    float top = -INFINITY;
    int place = 0;
    for (int i = first; i < last; i++)
        if (row[i] > top) {
            top = row[i];
            place = i;
        }
    tops[threadIdx.x] = top;
    places[threadIdx.x] = place;
    for (int width = 128; width > 0; width /= 2) {
        __syncthreads();
        // Of equals the one with the lower place, which is that of the lower thread.
        float other = -INFINITY;
        int there = 0;
        if (threadIdx.x < width) {
            other = tops[threadIdx.x + width];
            there = places[threadIdx.x + width];
            const bool wins = other > tops[threadIdx.x] || (other == tops[threadIdx.x] && there < places[threadIdx.x]);
            if (wins) {
                tops[threadIdx.x] = other;
                places[threadIdx.x] = there;
            }
        }
    }
    __syncthreads();
    top = tops[0];
    double sum = 0.0, draw = 0.0;
    for (int i = first; i < last; i++) {
        sum += expf(row[i] - top);
        draw += expf((row[i] - top) * sharpness);
    }
    sums[threadIdx.x] = sum;
    draws[threadIdx.x] = draw;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double total = 0.0, mass = 0.0;
    for (int i = 0; i < 256; i++) {
        total += sums[i];
        mass += draws[i];
    }
    int id = places[0];
    if (temperature > 0.0f) {
        double rest = us[blockIdx.x] * mass;
        int stretch = 0;
        while (stretch < 255 && rest >= draws[stretch]) rest -= draws[stretch++];
        // Rounding may leave a remainder at the very end; then the largest is taken.
        for (int i = stretch * n; i < min(vocab, (stretch + 1) * n); i++) {
            rest -= expf((row[i] - top) * sharpness);
            if (rest < 0.0) {
                id = i;
                break;
            }
        }
    }
    ids[blockIdx.x] = id;
    log_probs[blockIdx.x] = row[id] - top - (float)log(total);
}
}
