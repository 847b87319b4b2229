// What the kernels share: vector registers, zeroed buffers, PyTorch's threads.
//
// Each .cpp file is built into a library of its own, so everything here has internal linkage.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace {

// Floats in one vector register of the processor that the file is compiled for.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

using Vector [[gnu::vector_size(LANES * sizeof(float)), gnu::may_alias]] = float;

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// Zeroed memory, aligned to a cache line, which is also the widest vector.
template <class Number>
class Buffer {
    std::unique_ptr<Number, decltype(&std::free)> memory{nullptr, &std::free};

   public:
    explicit Buffer(size_t count) {
        const size_t bytes = (count * sizeof(Number) + 63) / 64 * 64;
        memory.reset(static_cast<Number*>(std::aligned_alloc(64, bytes)));
        if (!memory) throw std::bad_alloc();
        std::memset(memory.get(), 0, bytes);
    }
    operator Number*() const { return memory.get(); }
};

constexpr int divide_up(int number, int by) { return (number + by - 1) / by; }
constexpr int round_up(int number, int to) { return divide_up(number, to) * to; }

// Run tasks 0 .. count-1. Each thread calls work(first, stride) once, and takes tasks first, first + stride, ...
// The split is fixed, so sums over tasks are the same in every run. The threads are PyTorch's own (OpenMP): a second pool would compete
// with them for the cores, because idle OpenMP threads wait by spinning.
template <class Work>
void parallel(int count, int threads, Work&& work) {
    threads = std::max(1, std::min(threads, count));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) work(thread, threads);
}

}  // namespace
