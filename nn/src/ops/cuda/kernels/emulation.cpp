// CUDA's execution as plain C++, for tests: the threads of a block are fibers of one thread, which meet at __syncthreads. The order in
// which they run between two meetings changes from launch to launch, so that a missing meeting shows as a changing result.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <ucontext.h>

struct Index {
    unsigned int x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __shared__ static
#define MODULE ""

static float __uint_as_float(unsigned int u) {
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

static unsigned int __float_as_uint(float f) {
    unsigned int u;
    std::memcpy(&u, &f, 4);
    return u;
}

typedef std::function<void(void**)> Call;

static std::map<std::string, Call>& kernels() {
    static std::map<std::string, Call> all;
    return all;
}

template <class... A, std::size_t... I>
static Call unpacked(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](void** args) { kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<A>>*>(args[I])...); };
}

struct Registered {
    template <class... A>
    Registered(const char* module, const char* name, void (*kernel)(A...)) {
        kernels()[std::string(module) + "::" + name] = unpacked(kernel, std::index_sequence_for<A...>());
    }
};

#define KERNEL(name, ...) \
    static void name(__VA_ARGS__); \
    static const Registered registered_##name(MODULE, #name, &name); \
    static void name(__VA_ARGS__)

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done;
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static std::size_t running;
static const Call* kernel_now;
static void** args_now;

static void __syncthreads() { swapcontext(&fibers[running].context, &scheduler); }

static void fiber_main() {
    (*kernel_now)(args_now);
    fibers[running].done = true;
    swapcontext(&fibers[running].context, &scheduler);
}

// Runs every thread of one block to the next meeting, again and again until all are done.
static void run_block(std::size_t threads, unsigned int width, unsigned int order) {
    for (std::size_t i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (bool left = true; left; ++order) {
        left = false;
        const std::size_t start = order * 37 % threads;
        for (std::size_t k = 0; k < threads; ++k) {
            const std::size_t turn = (start + k) % threads;
            running = order % 2 ? threads - 1 - turn : turn;
            if (fibers[running].done) continue;
            threadIdx = Index{(unsigned int)(running % width), (unsigned int)(running / width), 0};
            swapcontext(&scheduler, &fibers[running].context);
            left = left || !fibers[running].done;
        }
    }
}

// Runs a kernel; grid: three sizes, block: two. Answers 0, or 1 if there is no such kernel.
extern "C" int emulation_launch(const char* name, const unsigned int* grid, const unsigned int* block, void** args) {
    static unsigned int launches = 0;
    const auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    const std::size_t threads = (std::size_t)block[0] * block[1];
    if (fibers.size() < threads) fibers.resize(threads);
    for (Fiber& fiber : fibers) fiber.stack.resize(1 << 16);
    kernel_now = &found->second;
    args_now = args;
    gridDim = Index{grid[0], grid[1], grid[2]};
    blockDim = Index{block[0], block[1], 1};
    ++launches;
    for (unsigned int z = 0; z < grid[2]; ++z) {
        for (unsigned int y = 0; y < grid[1]; ++y) {
            for (unsigned int x = 0; x < grid[0]; ++x) {
                blockIdx = Index{x, y, z};
                run_block(threads, block[0], launches);
            }
        }
    }
    return 0;
}
