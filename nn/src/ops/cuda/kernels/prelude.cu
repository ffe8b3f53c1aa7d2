// What every kernel source begins with. The host puts `typedef float T;` or `typedef bf16 T;` between this and the source: T is the
// type of activations, parameters and sums are always float. Neither CUDA's headers nor anything else is included, so that the
// run-time compiler needs no search path; and all of it is also C++, so that a machine without a card can run it (emulation.cpp).

#ifdef __CUDACC__
// Functions that a source does not use.
#pragma nv_diag_suppress 177
#endif

#ifndef KERNEL
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#endif

struct bf16 {
    unsigned short bits;
};

static __device__ inline float load(const float* p, long long i) { return p[i]; }

static __device__ inline float load(const bf16* p, long long i) { return __uint_as_float(((unsigned int)p[i].bits) << 16); }

static __device__ inline void store(float* p, long long i, float v) { p[i] = v; }

// To the nearest, ties to even; what is not a number stays so.
static __device__ inline void store(bf16* p, long long i, float v) {
    unsigned int u = __float_as_uint(v);
    u = v != v ? 0x7fc00000u : u + 0x7fffu + ((u >> 16) & 1u);
    p[i].bits = (unsigned short)(u >> 16);
}

// Threads of a one-dimensional block, and the sides of a two-dimensional one.
#define BLOCK 256
#define COLUMNS 32
#define LANES 8

// Every i below n, over all threads of a one-dimensional grid.
#define EACH(i, n) \
    for (long long i = (long long)blockIdx.x * BLOCK + threadIdx.x; i < (n); i += (long long)gridDim.x * BLOCK)

// Sum of v over the BLOCK threads of a block, for all of them.
static __device__ inline float block_sum(float v) {
    __shared__ float parts[BLOCK];
    const int t = threadIdx.x;
    __syncthreads();
    parts[t] = v;
    __syncthreads();
    for (int width = BLOCK / 2; width > 0; width /= 2) {
        if (t < width) parts[t] += parts[t + width];
        __syncthreads();
    }
    return parts[0];
}

// Largest v of the BLOCK threads of a block, for all of them.
static __device__ inline float block_max(float v) {
    __shared__ float parts[BLOCK];
    const int t = threadIdx.x;
    __syncthreads();
    parts[t] = v;
    __syncthreads();
    for (int width = BLOCK / 2; width > 0; width /= 2) {
        if (t < width) parts[t] = fmaxf(parts[t], parts[t + width]);
        __syncthreads();
    }
    return parts[0];
}

// Sum of v over the LANES threads of one column of a block of COLUMNS x LANES, for all of them.
static __device__ inline float column_sum(float v) {
    __shared__ float parts[LANES][COLUMNS];
    __syncthreads();
    parts[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    float total = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) total += parts[lane][threadIdx.x];
    return total;
}

static __device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static __device__ inline float silu_value(float x) { return x * sigmoid(x); }

static __device__ inline float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
