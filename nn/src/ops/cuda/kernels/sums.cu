// Sums over one axis, in a fixed order.

// y[o, i] = factor * sum over j of x[o, j, i]; x: [outer, n, inner].
KERNEL(sum_axis, const float* x, float* y, long long outer, int n, int inner, float factor) {
    EACH(k, outer * inner) {
        const long long first = k / inner * n * inner + k % inner;
        double total = 0.0;
        for (int j = 0; j < n; ++j) total += x[first + (long long)j * inner];
        y[k] = (float)(total * factor);
    }
}

// partial[j, c] = sum over the rows of chunk j of x[row, c]; x: [rows, width]. Grid: column tiles, chunks.
KERNEL(column_sums, const T* x, float* partial, long long rows, int width, int chunk) {
    const int c = blockIdx.x * COLUMNS + threadIdx.x;
    const long long first = (long long)blockIdx.y * chunk;
    const long long last = first + chunk < rows ? first + chunk : rows;
    float total = 0.0f;
    if (c < width) {
        for (long long r = first + threadIdx.y; r < last; r += LANES) total += load(x, r * width + c);
    }
    total = column_sum(total);
    if (threadIdx.y == 0 && c < width) partial[(long long)blockIdx.y * width + c] = total;
}
