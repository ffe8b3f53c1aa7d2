// Group norm with a weight and bias shared or per sample, and optionally SiLU. x: [samples, rows, channels].
//
// The kernels that sum run on blocks of COLUMNS channels x LANES rows, over chunks of rows; grid: channel tiles, chunks, samples.

// partial: [samples, chunks, 2, channels], the mean of each channel of a chunk and its squared deviations, in two passes.
KERNEL(chunk_moments, const T* x, float* partial, int rows, int channels, int chunk) {
    const int c = blockIdx.x * COLUMNS + threadIdx.x;
    const int first = blockIdx.y * chunk;
    const int last = first + chunk < rows ? first + chunk : rows;
    const long long sample = (long long)blockIdx.z * rows * channels + c;
    float total = 0.0f;
    if (c < channels) {
        for (int r = first + threadIdx.y; r < last; r += LANES) total += load(x, sample + (long long)r * channels);
    }
    const float mean = column_sum(total) / (float)(last - first);
    float squares = 0.0f;
    if (c < channels) {
        for (int r = first + threadIdx.y; r < last; r += LANES) {
            const float d = load(x, sample + (long long)r * channels) - mean;
            squares += d * d;
        }
    }
    squares = column_sum(squares);
    if (threadIdx.y == 0 && c < channels) {
        float* out = partial + ((long long)blockIdx.z * gridDim.y + blockIdx.y) * 2 * channels + c;
        out[0] = mean;
        out[channels] = squares;
    }
}

// Joins two sets of numbers, each as count, mean and squared deviations (Chan et al. 1979).
static __device__ void join_moments(double* n, double* mean, double* squares, double n1, double mean1, double squares1) {
    const double total = *n + n1, delta = mean1 - *mean;
    if (total == 0.0) return;
    *squares += squares1 + delta * delta * *n * n1 / total;
    *mean += delta * n1 / total;
    *n = total;
}

// moments: [samples, 2, channels], mean and 1/deviation of each channel's group. Grid: groups, samples.
KERNEL(group_moments, const float* partial, float* moments, int rows, int channels, int groups, int chunk, float eps) {
    __shared__ double counts[BLOCK], means[BLOCK], deviations[BLOCK];
    const int t = threadIdx.x, per_group = channels / groups, chunks = (rows + chunk - 1) / chunk;
    const int first_channel = blockIdx.x * per_group;
    double n = 0.0, mean = 0.0, squares = 0.0;
    for (int i = t; i < chunks * per_group; i += BLOCK) {
        const int j = i / per_group, left = rows - j * chunk;
        const float* p = partial + ((long long)blockIdx.y * chunks + j) * 2 * channels + first_channel + i % per_group;
        join_moments(&n, &mean, &squares, left < chunk ? left : chunk, p[0], p[channels]);
    }
    counts[t] = n;
    means[t] = mean;
    deviations[t] = squares;
    __syncthreads();
    for (int width = BLOCK / 2; width > 0; width /= 2) {
        if (t < width) {
            join_moments(&counts[t], &means[t], &deviations[t], counts[t + width], means[t + width], deviations[t + width]);
        }
        __syncthreads();
    }
    const float inverse = (float)(1.0 / sqrt(deviations[0] / counts[0] + (double)eps));
    for (int k = t; k < per_group; k += BLOCK) {
        float* out = moments + (long long)blockIdx.y * 2 * channels + first_channel + k;
        out[0] = (float)means[0];
        out[channels] = inverse;
    }
}

// Grid: elements of one sample, samples.
KERNEL(group_norm, const T* x, const float* moments, const float* weight, const float* bias, T* y, long long per_sample, int channels,
       int own_weights, int silu) {
    const float* mean = moments + (long long)blockIdx.y * 2 * channels;
    const long long own = own_weights ? (long long)blockIdx.y * channels : 0, first = blockIdx.y * per_sample;
    EACH(i, per_sample) {
        const int c = (int)(i % channels);
        const float z = (load(x, first + i) - mean[c]) * mean[channels + c] * weight[own + c] + bias[own + c];
        store(y, first + i, silu ? silu_value(z) : z);
    }
}

// Gradient of what the activation takes.
static __device__ float inner_gradient(float dy, float xhat, float weight, float bias, int silu) {
    return silu ? dy * silu_slope(xhat * weight + bias) : dy;
}

// partial: [samples, chunks, 2, channels], the sums over the rows of a chunk of dz and of dz xhat.
KERNEL(gradient_sums, const T* x, const T* dy, const float* moments, const float* weight, const float* bias, float* partial, int rows,
       int channels, int chunk, int own_weights, int silu) {
    const int c = blockIdx.x * COLUMNS + threadIdx.x;
    const int first = blockIdx.y * chunk;
    const int last = first + chunk < rows ? first + chunk : rows;
    const long long sample = (long long)blockIdx.z * rows * channels + c;
    float s0 = 0.0f, s1 = 0.0f;
    if (c < channels) {
        const float* m = moments + (long long)blockIdx.z * 2 * channels + c;
        const long long own = (own_weights ? (long long)blockIdx.z * channels : 0) + c;
        const float mean = m[0], inverse = m[channels], w = weight[own], b = bias[own];
        for (int r = first + threadIdx.y; r < last; r += LANES) {
            const long long at = sample + (long long)r * channels;
            const float xhat = (load(x, at) - mean) * inverse;
            const float dz = inner_gradient(load(dy, at), xhat, w, b, silu);
            s0 += dz;
            s1 += dz * xhat;
        }
    }
    s0 = column_sum(s0);
    s1 = column_sum(s1);
    if (threadIdx.y == 0 && c < channels) {
        float* out = partial + ((long long)blockIdx.z * gridDim.y + blockIdx.y) * 2 * channels + c;
        out[0] = s0;
        out[channels] = s1;
    }
}

// means: [samples, 2, channels], the means over each channel's group of w dz and of w dz xhat, from sums of the same shape.
// Grid: groups, samples.
KERNEL(group_means, const float* sums, const float* weight, float* means, int rows, int channels, int groups, int own_weights) {
    const int per_group = channels / groups, first_channel = blockIdx.x * per_group;
    const float* s = sums + (long long)blockIdx.y * 2 * channels + first_channel;
    const float* w = weight + (own_weights ? (long long)blockIdx.y * channels : 0) + first_channel;
    float m0 = 0.0f, m1 = 0.0f;
    for (int k = threadIdx.x; k < per_group; k += BLOCK) {
        m0 += w[k] * s[k];
        m1 += w[k] * s[channels + k];
    }
    const float n = (float)rows * (float)per_group;
    m0 = block_sum(m0) / n;
    m1 = block_sum(m1) / n;
    for (int k = threadIdx.x; k < per_group; k += BLOCK) {
        float* out = means + (long long)blockIdx.y * 2 * channels + first_channel + k;
        out[0] = m0;
        out[channels] = m1;
    }
}

// dx = inverse (w dz - mean(w dz) - xhat mean(w dz xhat)). Grid: elements of one sample, samples.
KERNEL(group_norm_gradient, const T* x, const T* dy, const float* moments, const float* weight, const float* bias, const float* means,
       T* dx, long long per_sample, int channels, int own_weights, int silu) {
    const float* mean = moments + (long long)blockIdx.y * 2 * channels;
    const float* m = means + (long long)blockIdx.y * 2 * channels;
    const long long own = own_weights ? (long long)blockIdx.y * channels : 0, first = blockIdx.y * per_sample;
    EACH(i, per_sample) {
        const int c = (int)(i % channels);
        const float inverse = mean[channels + c], w = weight[own + c];
        const float xhat = (load(x, first + i) - mean[c]) * inverse;
        const float dz = inner_gradient(load(dy, first + i), xhat, w, bias[own + c], silu);
        store(dx, first + i, inverse * (w * dz - m[c] - xhat * m[channels + c]));
    }
}
