// Layer norm over rows. x: [rows, width].

// y, and moments [rows, 2]: mean and 1/deviation, in two passes. One block a row.
KERNEL(layer_norm, const T* x, const float* weight, const float* bias, T* y, float* moments, int width, float eps) {
    const long long row = (long long)blockIdx.x * width;
    float total = 0.0f;
    for (int i = threadIdx.x; i < width; i += BLOCK) total += load(x, row + i);
    const float mean = block_sum(total) / (float)width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += BLOCK) {
        const float d = load(x, row + i) - mean;
        squares += d * d;
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
    for (int i = threadIdx.x; i < width; i += BLOCK) store(y, row + i, (load(x, row + i) - mean) * inverse * weight[i] + bias[i]);
    if (threadIdx.x == 0) {
        moments[2 * (long long)blockIdx.x] = mean;
        moments[2 * (long long)blockIdx.x + 1] = inverse;
    }
}

// dx = inverse (w dy - mean(w dy) - xhat mean(w dy xhat)). One block a row.
KERNEL(layer_norm_gradient, const T* x, const T* dy, const float* weight, const float* moments, T* dx, int width) {
    const long long row = (long long)blockIdx.x * width;
    const float mean = moments[2 * (long long)blockIdx.x], inverse = moments[2 * (long long)blockIdx.x + 1];
    float m0 = 0.0f, m1 = 0.0f;
    for (int i = threadIdx.x; i < width; i += BLOCK) {
        const float wdy = weight[i] * load(dy, row + i);
        m0 += wdy;
        m1 += wdy * (load(x, row + i) - mean) * inverse;
    }
    m0 = block_sum(m0) / (float)width;
    m1 = block_sum(m1) / (float)width;
    for (int i = threadIdx.x; i < width; i += BLOCK) {
        const float xhat = (load(x, row + i) - mean) * inverse;
        store(dx, row + i, inverse * (weight[i] * load(dy, row + i) - m0 - xhat * m1));
    }
}

// partial: [chunks, 2, width], the sums over the rows of a chunk of dy xhat and of dy: the gradients of weight and bias.
// Grid: column tiles, chunks.
KERNEL(parameter_sums, const T* x, const T* dy, const float* moments, float* partial, long long rows, int width, int chunk) {
    const int c = blockIdx.x * COLUMNS + threadIdx.x;
    const long long first = (long long)blockIdx.y * chunk;
    const long long last = first + chunk < rows ? first + chunk : rows;
    float dw = 0.0f, db = 0.0f;
    if (c < width) {
        for (long long r = first + threadIdx.y; r < last; r += LANES) {
            const float d = load(dy, r * width + c);
            dw += d * (load(x, r * width + c) - moments[2 * r]) * moments[2 * r + 1];
            db += d;
        }
    }
    dw = column_sum(dw);
    db = column_sum(db);
    if (threadIdx.y == 0 && c < width) {
        float* out = partial + (long long)blockIdx.y * 2 * width + c;
        out[0] = dw;
        out[width] = db;
    }
}
