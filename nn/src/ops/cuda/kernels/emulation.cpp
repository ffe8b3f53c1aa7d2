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
#include <setjmp.h>
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

// A fiber runs one thread of every block. It is begun by a context and switched by jumps, which cost no system call.
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::vector<char> stack;
    bool begun, done;
};

static ucontext_t beginning;
static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::size_t running;
static const Call* kernel_now;
static void** args_now;

static void __syncthreads() {
    if (!_setjmp(fibers[running].place)) _longjmp(scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        (*kernel_now)(args_now);
        fibers[running].done = true;
        __syncthreads();
    }
}

// Lets the fiber `running` go on to its next meeting or its end.
static void resume() {
    Fiber& fiber = fibers[running];
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    fiber.stack.resize(1 << 16);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    swapcontext(&beginning, &fiber.context);
}

// Runs every thread of one block to the next meeting, again and again until all are done.
static void run_block(std::size_t threads, unsigned int width, unsigned int order) {
    for (std::size_t i = 0; i < threads; ++i) fibers[i].done = false;
    for (bool left = true; left; ++order) {
        left = false;
        const std::size_t start = order * 37 % threads;
        for (std::size_t k = 0; k < threads; ++k) {
            const std::size_t turn = (start + k) % threads;
            running = order % 2 ? threads - 1 - turn : turn;
            if (fibers[running].done) continue;
            threadIdx = Index{(unsigned int)(running % width), (unsigned int)(running / width), 0};
            resume();
            left = left || !fibers[running].done;
        }
    }
}

// Runs a kernel; grid: three sizes, block: two. Answers 0, 1 if there is no such kernel, 2 if a block is too large.
extern "C" int emulation_launch(const char* name, const unsigned int* grid, const unsigned int* block, void** args) {
    static unsigned int launches = 0;
    const auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    const std::size_t threads = (std::size_t)block[0] * block[1];
    // All at once: fibers never move, since their stacks and contexts do not.
    if (fibers.empty()) fibers.resize(1024);
    if (threads > fibers.size()) return 2;
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
