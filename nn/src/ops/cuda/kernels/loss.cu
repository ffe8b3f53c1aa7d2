// Losses per sample: the mean over a sample of a function of a - b. a, b: [samples, n].

#define SQUARED 0
#define ABSOLUTE 1

static __device__ float clamped(float d, float delta) { return fminf(fmaxf(d, -delta), delta); }

static __device__ float distance_value(float d, int distance, float delta) {
    if (distance == SQUARED) return d * d;
    if (distance == ABSOLUTE) return fabsf(d);
    const float inner = clamped(d, delta);
    return inner * (d - 0.5f * inner);
}

static __device__ float distance_slope(float d, int distance, float delta) {
    if (distance == SQUARED) return 2.0f * d;
    if (distance == ABSOLUTE) return (float)(d > 0.0f) - (float)(d < 0.0f);
    return clamped(d, delta);
}

// partial: [samples, chunks], sums. Grid: chunks, samples.
KERNEL(loss_sums, const T* a, const T* b, float* partial, long long n, long long chunk, int distance, float delta) {
    const long long first = blockIdx.x * chunk, sample = blockIdx.y * n;
    const long long last = first + chunk < n ? first + chunk : n;
    float total = 0.0f;
    for (long long i = first + threadIdx.x; i < last; i += BLOCK) {
        total += distance_value(load(a, sample + i) - load(b, sample + i), distance, delta);
    }
    total = block_sum(total);
    if (threadIdx.x == 0) partial[(long long)blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// out = factor dy slope(a - b); dy: [samples]. Grid: elements of one sample, samples.
KERNEL(loss_gradient, const T* a, const T* b, const float* dy, T* out, long long n, float factor, int distance, float delta) {
    const long long sample = blockIdx.y * n;
    const float scale = factor * dy[blockIdx.y];
    EACH(i, n) store(out, sample + i, scale * distance_slope(load(a, sample + i) - load(b, sample + i), distance, delta));
}
