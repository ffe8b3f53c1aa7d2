// Dropout whose mask is the stream of ChaCha with 8 rounds under a 256-bit key: word i of the stream decides about element i.

static __device__ unsigned int rotated(unsigned int x, int n) { return (x << n) | (x >> (32 - n)); }

static __device__ void quarter(unsigned int* s, int a, int b, int c, int d) {
    s[a] += s[b]; s[d] = rotated(s[d] ^ s[a], 16);
    s[c] += s[d]; s[b] = rotated(s[b] ^ s[c], 12);
    s[a] += s[b]; s[d] = rotated(s[d] ^ s[a], 8);
    s[c] += s[d]; s[b] = rotated(s[b] ^ s[c], 7);
}

// Block `index` of the stream: sixteen words.
static __device__ void chacha8(const unsigned int* key, unsigned long long index, unsigned int* out) {
    unsigned int start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
    for (int i = 0; i < 8; ++i) start[4 + i] = key[i];
    start[12] = (unsigned int)index;
    start[13] = (unsigned int)(index >> 32);
    start[14] = 0u;
    start[15] = 0u;
    for (int i = 0; i < 16; ++i) out[i] = start[i];
    for (int round = 0; round < 8; round += 2) {
        quarter(out, 0, 4, 8, 12); quarter(out, 1, 5, 9, 13); quarter(out, 2, 6, 10, 14); quarter(out, 3, 7, 11, 15);
        quarter(out, 0, 5, 10, 15); quarter(out, 1, 6, 11, 12); quarter(out, 2, 7, 8, 13); quarter(out, 3, 4, 9, 14);
    }
    for (int i = 0; i < 16; ++i) out[i] += start[i];
}

// y = x keep where the upper 24 bits of the word are at least `threshold`, 0 elsewhere. A block covers 16 BLOCK elements.
KERNEL(dropout, const T* x, T* y, long long n, unsigned int k0, unsigned int k1, unsigned int k2, unsigned int k3, unsigned int k4,
       unsigned int k5, unsigned int k6, unsigned int k7, unsigned int threshold, float keep) {
    // One word more a row, so that the threads write to different banks.
    __shared__ unsigned int words[BLOCK][17];
    const unsigned int key[8] = {k0, k1, k2, k3, k4, k5, k6, k7};
    unsigned int own[16];
    chacha8(key, (unsigned long long)blockIdx.x * BLOCK + threadIdx.x, own);
    for (int i = 0; i < 16; ++i) words[threadIdx.x][i] = own[i];
    __syncthreads();
    const long long first = (long long)blockIdx.x * BLOCK * 16;
    for (int j = threadIdx.x; j < BLOCK * 16 && first + j < n; j += BLOCK) {
        const bool kept = (words[j / 16][j % 16] >> 8) >= threshold;
        store(y, first + j, kept ? load(x, first + j) * keep : 0.0f);
    }
}
