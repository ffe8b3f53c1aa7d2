// What softmax attention needs beside matrix products: the heads apart and together again, and the rows of scores.
//
// Scores exist for one block of queries at a time: [batch, heads, block, keys]. One thread block works on one row.

// y [batch, heads, positions, width] of x [batch, positions, heads, width]; n elements.
KERNEL(heads_first, const T* x, T* y, long long n, int positions, int heads, int width) {
    EACH(i, n) {
        const long long row = i / width, head = row / positions;
        store(y, i, load(x, ((head / heads * positions + row % positions) * heads + head % heads) * width + i % width));
    }
}

// The way back, from T or from float; n elements of y [batch, positions, heads, width].
template <class S>
static __device__ void together(const S* x, T* y, long long n, int positions, int heads, int width) {
    EACH(i, n) {
        const long long row = i / width, at = row / heads;
        store(y, i, load(x, ((at / positions * heads + row % heads) * positions + at % positions) * width + i % width));
    }
}

KERNEL(heads_last, const T* x, T* y, long long n, int positions, int heads, int width) {
    together(x, y, n, positions, heads, width);
}

KERNEL(heads_last_of_floats, const float* x, T* y, long long n, int positions, int heads, int width) {
    together(x, y, n, positions, heads, width);
}

// A score with what the mask adds to it. mask: 1 where the key takes part, 0 elsewhere; null: all do.
static __device__ float masked(float score, const float* mask, long long sample_keys, int key) {
    return mask ? score + (mask[sample_keys + key] * 1e30f - 1e30f) : score;
}

// p = softmax of each row of scores; moments [batch, heads, queries, 2]: the largest score and 1/sum of exponentials.
// The block holds queries first.. of all; grid: batch * heads * block.
KERNEL(softmax_rows, const float* scores, const float* mask, T* p, float* moments, int keys, int heads, int block, int first, int queries) {
    const long long row = blockIdx.x, head = row / block, s = row * keys, m = head / heads * keys;
    float largest = -3.402823466e38f;
    for (int j = threadIdx.x; j < keys; j += BLOCK) largest = fmaxf(largest, masked(scores[s + j], mask, m, j));
    largest = block_max(largest);
    float total = 0.0f;
    for (int j = threadIdx.x; j < keys; j += BLOCK) total += expf(masked(scores[s + j], mask, m, j) - largest);
    const float inverse = 1.0f / block_sum(total);
    for (int j = threadIdx.x; j < keys; j += BLOCK) store(p, s + j, expf(masked(scores[s + j], mask, m, j) - largest) * inverse);
    if (threadIdx.x == 0) {
        float* out = moments + 2 * (head * queries + first + row % block);
        out[0] = largest;
        out[1] = inverse;
    }
}

// From scores and dp (the gradients of the probabilities) p again, and the gradients of the scores ds = p (dp - y . dy).
// y and dy: [batch, heads, queries, width].
KERNEL(score_gradients, const float* scores, const float* mask, const float* moments, const float* dp, const T* y, const T* dy, T* p,
       T* ds, int keys, int heads, int block, int first, int queries, int width) {
    const long long row = blockIdx.x, head = row / block, s = row * keys, m = head / heads * keys;
    const long long query = head * queries + first + row % block;
    float dot = 0.0f;
    for (int j = threadIdx.x; j < width; j += BLOCK) dot += load(y, query * width + j) * load(dy, query * width + j);
    dot = block_sum(dot);
    const float largest = moments[2 * query], inverse = moments[2 * query + 1];
    for (int j = threadIdx.x; j < keys; j += BLOCK) {
        const float probability = expf(masked(scores[s + j], mask, m, j) - largest) * inverse;
        store(p, s + j, probability);
        store(ds, s + j, probability * (dp[s + j] - dot));
    }
}
