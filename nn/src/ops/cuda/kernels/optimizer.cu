// One step of Adam, its average and the sum of squares, over many tensors at once. T is float.
//
// A table describes the tensors, one entry each; a block works on CHUNK elements of one of them.

#define CHUNK 16384

struct Entry {
    float* p;
    float* g;
    float* m;
    float* v;
    float* peak;     // null: no AMSGrad
    float* average;  // null: none
    long long n;
    long long first_block;
    float step_size;         // lr / (1 - beta1^k)
    float root_correction2;  // sqrt(1 - beta2^k)
    float shrink;            // 1 - lr weight_decay, or 1
    float l2;                // weight decay added to the gradient, or 0
};

// The entry whose blocks include this one.
static __device__ inline Entry entry_of(const unsigned int* table, int count) {
    Entry entry;
    unsigned int* words = (unsigned int*)&entry;
    const int size = sizeof(Entry) / 4;
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        const unsigned int* first = table + (long long)middle * size + 14;
        const long long block = (long long)(first[0] | ((unsigned long long)first[1] << 32));
        if (block <= (long long)blockIdx.x) low = middle; else high = middle;
    }
    for (int i = 0; i < size; ++i) words[i] = table[(long long)low * size + i];
    return entry;
}

// g, or what takes the place of a value that is not finite.
static __device__ inline float sane(float g, int replace, float nan, float posinf, float neginf) {
    if (!replace || fabsf(g) <= 3.402823466e38f) return g;
    return g != g ? nan : (g > 0.0f ? posinf : neginf);
}

// p <- shrink p; m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; p <- p - step_size m / (sqrt(v) / root_correction2 + eps);
// average <- decay average + weight p.
KERNEL(adam, const unsigned int* table, int count, float beta1, float one_minus_beta1, float beta2, float one_minus_beta2, float eps,
       float clip, int replace, float nan, float posinf, float neginf, float decay, float weight) {
    const Entry e = entry_of(table, count);
    const long long first = ((long long)blockIdx.x - e.first_block) * CHUNK;
    const long long last = first + CHUNK < e.n ? first + CHUNK : e.n;
    for (long long i = first + threadIdx.x; i < last; i += BLOCK) {
        float p = e.p[i];
        const float g = sane(e.g[i], replace, nan, posinf, neginf) * clip + e.l2 * p;
        const float m = beta1 * e.m[i] + one_minus_beta1 * g;
        float v = beta2 * e.v[i] + one_minus_beta2 * (g * g);
        e.m[i] = m;
        e.v[i] = v;
        if (e.peak) {
            v = fmaxf(e.peak[i], v);
            e.peak[i] = v;
        }
        p = p * e.shrink - e.step_size * (m / (sqrtf(v) / e.root_correction2 + eps));
        e.p[i] = p;
        if (e.average) e.average[i] = decay * e.average[i] + weight * p;
    }
}

// average <- decay average + weight p.
KERNEL(blend, const unsigned int* table, int count, float decay, float weight) {
    const Entry e = entry_of(table, count);
    const long long first = ((long long)blockIdx.x - e.first_block) * CHUNK;
    const long long last = first + CHUNK < e.n ? first + CHUNK : e.n;
    for (long long i = first + threadIdx.x; i < last; i += BLOCK) e.average[i] = decay * e.average[i] + weight * e.p[i];
}

// Each block's sum of g^2 in double, its bits as two words.
KERNEL(squares, const unsigned int* table, int count, unsigned int* sums, int replace, float nan, float posinf, float neginf) {
    __shared__ double parts[BLOCK];
    const Entry e = entry_of(table, count);
    const int t = threadIdx.x;
    const long long first = ((long long)blockIdx.x - e.first_block) * CHUNK;
    const long long last = first + CHUNK < e.n ? first + CHUNK : e.n;
    double total = 0.0;
    for (long long i = first + t; i < last; i += BLOCK) {
        const double g = sane(e.g[i], replace, nan, posinf, neginf);
        total += g * g;
    }
    parts[t] = total;
    __syncthreads();
    for (int width = BLOCK / 2; width > 0; width /= 2) {
        if (t < width) parts[t] += parts[t + width];
        __syncthreads();
    }
    if (t == 0) {
        const unsigned int* words = (const unsigned int*)parts;
        sums[2 * (long long)blockIdx.x] = words[0];
        sums[2 * (long long)blockIdx.x + 1] = words[1];
    }
}
