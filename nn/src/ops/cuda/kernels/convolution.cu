// What convolutions need beside matrix products or cuDNN: weights in their layout, windows as rows, padding, bias.

// y [c_out, area, c_in] of x [c_out, c_in, area]; n elements. With area 1 no more than a cast.
KERNEL(weight_in, const float* x, T* y, long long n, int c_in, int area) {
    EACH(i, n) {
        const long long row = i / c_in;
        store(y, i, x[(row / area * c_in + i % c_in) * area + row % area]);
    }
}

// The way back; n elements of y [c_out, c_in, area].
KERNEL(weight_out, const T* x, float* y, long long n, int c_in, int area) {
    EACH(i, n) {
        const long long row = i / area;
        y[i] = load(x, (row / c_in * area + i % area) * c_in + row % c_in);
    }
}

// y [.., width] += bias [width]; n elements.
KERNEL(add_bias, T* y, const float* bias, long long n, int width) {
    EACH(i, n) store(y, i, load(y, i) + bias[i % width]);
}

// Windows as rows: y [images, oh, ow, kh, kw, c] of x [images, h, w, c]; n elements of y.
KERNEL(windows, const T* x, T* y, long long n, int h, int w, int c, int oh, int ow, int kh, int kw, int stride, int top, int left) {
    EACH(i, n) {
        const int k = (int)(i % c), kx = (int)(i / c % kw), ky = (int)(i / c / kw % kh);
        const long long pixel = i / c / kw / kh, image = pixel / ow / oh;
        const int iy = (int)(pixel / ow % oh) * stride + ky - top, ix = (int)(pixel % ow) * stride + kx - left;
        const bool inside = iy >= 0 && iy < h && ix >= 0 && ix < w;
        store(y, i, inside ? load(x, ((image * h + iy) * w + ix) * c + k) : 0.0f);
    }
}

// The way back: each element of y [images, h, w, c] sums those of the windows that were taken from it; n elements of y.
KERNEL(windows_back, const float* x, T* y, long long n, int h, int w, int c, int oh, int ow, int kh, int kw, int stride, int top,
       int left) {
    EACH(i, n) {
        const int k = (int)(i % c), ix = (int)(i / c % w), iy = (int)(i / c / w % h);
        const long long image = i / c / w / h;
        float total = 0.0f;
        for (int ky = 0; ky < kh; ++ky) {
            const int dy = iy + top - ky;
            if (dy < 0 || dy % stride || dy / stride >= oh) continue;
            for (int kx = 0; kx < kw; ++kx) {
                const int dx = ix + left - kx;
                if (dx < 0 || dx % stride || dx / stride >= ow) continue;
                total += x[((((image * oh + dy / stride) * ow + dx / stride) * kh + ky) * kw + kx) * c + k];
            }
        }
        store(y, i, total);
    }
}

// y [images, h2, w2, c], in which x [images, h, w, c] lies at (top, left): zeros around it, or cut off where the offset is negative
// or y is smaller; n elements of y.
KERNEL(place, const T* x, T* y, long long n, int h, int w, int c, int h2, int w2, int top, int left) {
    EACH(i, n) {
        const int k = (int)(i % c), ix = (int)(i / c % w2) - left, iy = (int)(i / c / w2 % h2) - top;
        const long long image = i / c / w2 / h2;
        const bool inside = iy >= 0 && iy < h && ix >= 0 && ix < w;
        store(y, i, inside ? load(x, ((image * h + iy) * w + ix) * c + k) : 0.0f);
    }
}
