// Doubling, halving, joining and cutting of images, channels last.

// y [.., 2h, 2w, c] = factor * x [.., h, w, c], each pixel to its four places; n elements of y.
KERNEL(spread, const T* x, T* y, long long n, int w, int c, float factor) {
    EACH(i, n) {
        const long long pixel = i / c, row = pixel / (2 * w);
        const int column = (int)(pixel % (2 * w));
        // Rows are counted through the batch: 2h rows a sample, so that halving them stays within the sample.
        store(y, i, factor * load(x, ((row / 2) * w + column / 2) * c + i % c));
    }
}

// y [.., h, w, c] = factor * the sum of four pixels of x [.., 2h, 2w, c]; n elements of y.
KERNEL(collect, const T* x, T* y, long long n, int w, int c, float factor) {
    EACH(i, n) {
        const long long pixel = i / c, row = pixel / w, k = i % c;
        const long long at = (2 * row * 2 * w + 2 * (pixel % w)) * c + k, below = at + 2LL * w * c;
        store(y, i, factor * ((load(x, at) + load(x, at + c)) + (load(x, below) + load(x, below + c))));
    }
}

// y [rows, a + b] from two tensors side by side; n elements of y.
KERNEL(join, const T* x0, const T* x1, T* y, long long n, int a, int b) {
    EACH(i, n) {
        const long long row = i / (a + b);
        const int c = (int)(i % (a + b));
        store(y, i, c < a ? load(x0, row * a + c) : load(x1, row * b + c - a));
    }
}

// y [rows, part] = columns first.. of x [rows, width]; n elements of y.
KERNEL(columns_from, const T* x, T* y, long long n, int part, int width, int first) {
    EACH(i, n) store(y, i, load(x, i / part * width + first + i % part));
}

// y[i, j] = sum over k, l of taps[k] taps[l] u[down i + k - before, down j + l - before], where u is x with up - 1 zeros after each
// sample and zeros outside. x [.., h, w, c], y [.., oh, ow, c]; taps: `count` floats as words; n elements of y.
KERNEL(fir, const T* x, const unsigned int* taps, T* y, long long n, int h, int w, int c, int oh, int ow, int count, int up, int down,
       int before) {
    EACH(i, n) {
        const int k = (int)(i % c), ox = (int)(i / c % ow), oy = (int)(i / c / ow % oh);
        const long long image = i / c / ow / oh;
        float total = 0.0f;
        for (int ky = 0; ky < count; ++ky) {
            const int py = down * oy + ky - before;
            if (py < 0 || py % up || py / up >= h) continue;
            float line = 0.0f;
            for (int kx = 0; kx < count; ++kx) {
                const int px = down * ox + kx - before;
                if (px < 0 || px % up || px / up >= w) continue;
                line += __uint_as_float(taps[kx]) * load(x, ((image * h + py / up) * w + px / up) * c + k);
            }
            total += __uint_as_float(taps[ky]) * line;
        }
        store(y, i, total);
    }
}
