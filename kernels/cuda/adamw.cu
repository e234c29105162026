// AdamW over all parameters at once, with a bound on the global norm; nothing is updated where the norm is not finite.
#include "element.cuh"

struct Tensor {
    float *param, *m, *v;
    const float* grad;
    long n;
    float keep;  // 1 - lr * weight decay
    float unused;
};

// A block's share: `n` numbers of a tensor from `start` on.
struct Share {
    int tensor, n;
    long start;
};

struct Rates {
    float beta1, beta2, fresh1, fresh2, step_size, correction, eps, max_norm;  // max_norm 0: no bound
};

__device__ __forceinline__ double block_sum_f64(double x, double* shared) {
    shared[threadIdx.x] = x;
    for (int width = blockDim.x / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) shared[threadIdx.x] += shared[threadIdx.x + width];
    }
    __syncthreads();
    return shared[0];
}

extern "C" {
__global__ void __launch_bounds__(256) sum_squares(double* parts, const Tensor* tensors, const Share* shares) {
    __shared__ double shared[256];
    const Share share = shares[blockIdx.x];
    const float* grad = tensors[share.tensor].grad + share.start;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < share.n; i += 256) sum = fmaf(grad[i], grad[i], sum);
    const double total = block_sum_f64(sum, shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

// norm[0] = square root of the sum of the parts.
__global__ void __launch_bounds__(256) finish_norm(double* norm, const double* parts, int n) {
    __shared__ double shared[256];
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += parts[i];
    sum = block_sum_f64(sum, shared);
    if (threadIdx.x == 0) norm[0] = sqrt(sum);
}

__global__ void __launch_bounds__(256) update(const double* norm, const Tensor* tensors, const Share* shares, Rates rates) {
    const double found = norm[0];
    if (!isfinite(found)) return;
    const float clip = rates.max_norm > 0.0f && found > (double)rates.max_norm ? (float)(rates.max_norm / found) : 1.0f;
    const Share share = shares[blockIdx.x];
    const Tensor tensor = tensors[share.tensor];
    for (long i = share.start + threadIdx.x; i < share.start + share.n; i += 256) {
        const float g = tensor.grad[i] * clip;
        const float m = tensor.m[i] * rates.beta1 + g * rates.fresh1;
        const float v = tensor.v[i] * rates.beta2 + g * g * rates.fresh2;
        tensor.m[i] = m;
        tensor.v[i] = v;
        tensor.param[i] = tensor.param[i] * tensor.keep - rates.step_size * m / (sqrtf(v) * rates.correction + rates.eps);
    }
}
}
