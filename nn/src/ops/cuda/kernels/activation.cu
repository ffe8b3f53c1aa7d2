// Pointwise activations and their gradients.

// sqrt(2/pi) and the cubic coefficient of the tanh approximation (Hendrycks & Gimpel 2016).
#define TANH0 0.7978846f
#define TANH1 0.044715f

// Slope of the leaky rectifier below 0.
#define LEAK 0.2f

// The normal distribution: the probability below x, and the density at x.
static __device__ float normal_below(float x) { return 0.5f * erfcf(-0.70710678f * x); }

static __device__ float normal_density(float x) { return 0.3989423f * expf(-0.5f * x * x); }

static __device__ float gelu_value(float x) { return x * normal_below(x); }

static __device__ float gelu_slope(float x) { return normal_below(x) + x * normal_density(x); }

static __device__ float gelu_tanh_value(float x) { return x * sigmoid(2.0f * TANH0 * (x + TANH1 * x * x * x)); }

static __device__ float gelu_tanh_slope(float x) {
    const float s = sigmoid(2.0f * TANH0 * (x + TANH1 * x * x * x));
    return s + x * (s * (1.0f - s)) * (2.0f * TANH0 * (1.0f + 3.0f * TANH1 * x * x));
}

KERNEL(silu, const T* x, T* y, long long n) { EACH(i, n) store(y, i, silu_value(load(x, i))); }

KERNEL(gelu, const T* x, T* y, long long n) { EACH(i, n) store(y, i, gelu_value(load(x, i))); }

KERNEL(gelu_tanh, const T* x, T* y, long long n) { EACH(i, n) store(y, i, gelu_tanh_value(load(x, i))); }

KERNEL(relu, const T* x, T* y, long long n) {
    EACH(i, n) {
        const float v = load(x, i);
        store(y, i, v < 0.0f ? 0.0f : v);
    }
}

KERNEL(leaky_relu, const T* x, T* y, long long n) {
    EACH(i, n) {
        const float v = load(x, i);
        store(y, i, v < 0.0f ? LEAK * v : v);
    }
}

KERNEL(silu_gradient, const T* x, const T* dy, T* dx, long long n) {
    EACH(i, n) store(dx, i, load(dy, i) * silu_slope(load(x, i)));
}

KERNEL(gelu_gradient, const T* x, const T* dy, T* dx, long long n) {
    EACH(i, n) store(dx, i, load(dy, i) * gelu_slope(load(x, i)));
}

KERNEL(gelu_tanh_gradient, const T* x, const T* dy, T* dx, long long n) {
    EACH(i, n) store(dx, i, load(dy, i) * gelu_tanh_slope(load(x, i)));
}

KERNEL(relu_gradient, const T* x, const T* dy, T* dx, long long n) {
    EACH(i, n) store(dx, i, load(x, i) <= 0.0f ? 0.0f : load(dy, i));
}

KERNEL(leaky_relu_gradient, const T* x, const T* dy, T* dx, long long n) {
    EACH(i, n) store(dx, i, load(x, i) <= 0.0f ? LEAK * load(dy, i) : load(dy, i));
}

// x: rows of (a, g), each `width` wide; y = a gelu(g), n elements.
KERNEL(geglu, const T* x, T* y, long long n, int width) {
    EACH(i, n) {
        const long long a = i / width * 2 * width + i % width;
        store(y, i, load(x, a) * gelu_value(load(x, a + width)));
    }
}

KERNEL(geglu_gradient, const T* x, const T* dy, T* dx, long long n, int width) {
    EACH(i, n) {
        const long long a = i / width * 2 * width + i % width;
        const float g = load(x, a + width), d = load(dy, i);
        store(dx, a, d * gelu_value(g));
        store(dx, a + width, d * load(x, a) * gelu_slope(g));
    }
}
