// LiftingNet (lib/invdenoise/lifting.py) in float32 on the vector units of any processor.
//
// A net is a chain of 3x3 convolutions of at most 16 channels, each but the last followed by a soft-threshold. PyTorch runs them
// one by one, each a pass over memory. Here a pixel is 16 numbers in a row, a chain stays in the cache, and sums stay in registers.
// Convolutions of 16 channels to 16 are Winograd's F(4x4, 3x3): a tile of 4 x 4 pixels takes 36 products a pair of channels instead of 144.
// The first and the last, of few channels, are direct; a pixel of input or output is as long as it has channels.
//
//   forward    rows of the picture flow through all layers together, four at a time; each layer keeps the rows that the next one needs
//   backward   a picture (a training patch) at a time: the chain again, its activations kept, then gradients from last layer to first
//
// Winograd's transforms interpolate at 0, +-sqrt(1/2), +-sqrt(2) and infinity, with half the rounding error of the usual 0, +-1, +-2 and
// infinity (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, Section 4).
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, BLOCK = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, BLOCK = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, BLOCK = 6;
#else
constexpr int LANES = 4, BLOCK = 3;
#endif
// BLOCK: pixels, or tiles, whose 16 sums stay in registers; with what they are made of, these fill 16 registers, or 32.

using Vector [[gnu::vector_size(LANES * sizeof(float)), gnu::may_alias]] = float;
using Bits [[gnu::vector_size(LANES * sizeof(float))]] = int;

constexpr int C = 16;                        // channels of a pixel between first and last convolution; fewer are padded with zeros
constexpr int V = C / LANES;                 // its vectors
constexpr int TILE = 4;                      // side of a tile of output, and rows that flow through the layers at a time
constexpr int SIDE = TILE + 2;               // side of the input under it, and of its transform
constexpr int KERNEL = SIDE * SIDE * C * C;  // numbers of a kernel's transform
constexpr int RING = 8;                      // rows of its input that a layer keeps: at least SIDE
constexpr int SIGN = -0x7fffffff - 1;        // the bit that is the sign of a number
constexpr int GROUP = 24;                    // tiles whose part in a kernel's gradient is summed in one go, in the level-2 cache

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

struct Buffer {  // zeroed, aligned numbers
    std::unique_ptr<float, decltype(&std::free)> memory{nullptr, &std::free};
    explicit Buffer(size_t numbers) {
        const size_t bytes = (numbers * sizeof(float) + 63) / 64 * 64;
        memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
        if (!memory) throw std::bad_alloc();
        std::memset(memory.get(), 0, bytes);
    }
    operator float*() const { return memory.get(); }
};

constexpr int divide_up(int number, int by) { return (number + by - 1) / by; }

template <int N>
using Constant = std::integral_constant<int, N>;

// Call work(size as a constant), 1 <= size <= N.
template <int N, class Work>
inline void with_constant(int size, Work&& work) {
    if constexpr (N > 1)
        if (size < N) return with_constant<N - 1>(size, work);
    work(Constant<N>{});
}

// Call work(first, size) over `count` things in as few parts of at most `most` as there can be, of nearly one size.
template <class Work>
inline void in_parts(int count, int most, Work&& work) {
    const int parts = divide_up(count, most);
    for (int part = 0, first = 0; part < parts; ++part) {
        const int end = count * (part + 1) / parts;
        work(first, end - first);
        first = end;
    }
}

// sums[n][0..16) += in[n * stride + i] * weights[i][0..16) for i < count: what all convolutions and gradients come down to.
template <int N>
inline __attribute__((always_inline)) void accumulate(Vector (&sums)[N][V], const float* in, int stride, const float* weights, int count) {
    for (int i = 0; i < count; ++i, ++in, weights += C) {
        Vector weight[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) weight[v] = load(weights + v * LANES);
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[n][v] += weight[v] * in[n * stride];
    }
}

// sums[n][0..16) += few[p * stride + n] * wide[p][0..16), summed over p < count; the sums lie in memory before and after.
template <int N>
__attribute__((noinline)) void add_products(const float* few, int stride, const float* wide, int count, float* sums) {
    Vector sum[N][V];
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[n][v] = load(sums + n * C + v * LANES);
    for (int p = 0; p < count; ++p, few += stride, wide += C) {
        Vector x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = load(wide + v * LANES);
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[n][v] += x[v] * few[n];
    }
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(sums + n * C + v * LANES, sum[n][v]);
}

// -- Convolutions from few channels, and to few ----------------------------------------------------------------------------------------

// Convolve `count` pixels of a row to 16 channels; emit(pixel, v, vector v of its sums). rows[0..2] point at the pixel left above the
// first, `channels` numbers a pixel. Weights [row][column][in][16].
template <class Emit>
inline void expand(const float* const rows[3], int count, int channels, const float* weights, Emit&& emit) {
    in_parts(count, BLOCK, [&](int first, int size) {
        with_constant<BLOCK>(size, [&](auto pixels) {
            constexpr int N = decltype(pixels)::value;
            Vector sums[N][V] = {};
            for (int row = 0; row < 3; ++row)
                accumulate<N>(sums, rows[row] + first * channels, channels, weights + row * 3 * channels * C, 3 * channels);
#pragma GCC unroll 12
            for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) emit(first + n, v, sums[n][v]);
        });
    });
}

// Two vectors of groups of SIZE lanes as one, each group folded onto its first half.
template <int SIZE, int... LANE>
inline Vector fold(Vector a, Vector b, std::integer_sequence<int, LANE...>) {
    constexpr int HALF = SIZE / 2, OTHER = LANES / 2;
#define FIRST (LANE / OTHER * LANES + LANE % OTHER / HALF * SIZE + LANE % HALF)
#if defined(__clang__)
    return __builtin_shufflevector(a, b, FIRST...) + __builtin_shufflevector(a, b, (FIRST + HALF)...);
#else
    return __builtin_shuffle(a, b, Bits{FIRST...}) + __builtin_shuffle(a, b, Bits{(FIRST + HALF)...});
#endif
#undef FIRST
}

// The sums over the lanes of each of COUNT neighbouring vectors, in groups of LANES / COUNT lanes.
template <int COUNT>
inline __attribute__((always_inline)) Vector sum_lanes(const Vector* vectors) {
    if constexpr (COUNT == 1)
        return *vectors;
    else
        return fold<2 * LANES / COUNT>(sum_lanes<COUNT / 2>(vectors), sum_lanes<COUNT / 2>(vectors + COUNT / 2),
                                       std::make_integer_sequence<int, LANES>{});
}

// Convolve `count` pixels of 16 channels to few, into planes. Weights [out][row][column][16]. Reads LANES pixels further than there are.
inline void contract(const float* const rows[3], int count, int channels, const float* weights, float* out, size_t plane) {
    for (int first = 0; first < count; first += LANES)
        for (int channel = 0; channel < channels; ++channel) {
            Vector sums[LANES] = {};
            for (int row = 0; row < 3; ++row)
                for (int v = 0; v < V; ++v) {
                    const float* const in = rows[row] + first * C + v * LANES;
                    const float* const w = weights + (channel * 3 + row) * 3 * C + v * LANES;
                    const Vector weight[3] = {load(w), load(w + C), load(w + 2 * C)};
#pragma GCC unroll 18
                    for (int j = 0; j < LANES + 2; ++j) {
                        const Vector x = load(in + j * C);
#pragma GCC unroll 3
                        for (int column = 0; column < 3; ++column)
                            if (j >= column && j - column < LANES) sums[j - column] += weight[column] * x;
                    }
                }
            const Vector found = sum_lanes<LANES>(sums);
            std::memcpy(out + channel * plane + first, &found, std::min(LANES, count - first) * sizeof(float));
        }
}

// Add to `sums` [row][column][channel][16] the products of a row of pixels of 16 channels and of the pixels of few channels around each.
inline void correlate_few(const float* const rows[3], int channels, const float* wide, int count, float* sums) {
    for (int row = 0; row < 3; ++row, sums += 3 * channels * C)
        in_parts(3 * channels, BLOCK, [&](int first, int size) {
            with_constant<BLOCK>(size, [&](auto numbers) {
                add_products<decltype(numbers)::value>(rows[row] + first, channels, wide, count, sums + first * C);
            });
        });
}

// -- Convolutions of 16 channels to 16 -------------------------------------------------------------------------------------------------

constexpr float A = 0.707106781186547524f, B = 1.41421356237309505f;

// Of pixels, of their products with kernels, and of kernels: a row or column to values at the points, and back. Kernels take the divisors.

inline __attribute__((always_inline)) void to_points(const Vector (&d)[SIDE], Vector (&t)[SIDE]) {
    const Vector even_a = d[4] - 2.f * d[2], odd_a = A * (d[3] - 2.f * d[1]), even_b = d[4] - .5f * d[2], odd_b = B * (d[3] - .5f * d[1]);
    t[0] = d[0] + (d[4] - 2.5f * d[2]);
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = d[1] + (d[5] - 2.5f * d[3]);
}

inline __attribute__((always_inline)) void from_points(const Vector (&m)[SIDE], Vector (&y)[TILE]) {
    const Vector even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]), even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
    y[0] = m[0] + (even_a + even_b);
    y[1] = odd_a + odd_b;
    y[2] = .5f * even_a + 2.f * even_b;
    y[3] = m[5] + (.5f * odd_a + 2.f * odd_b);
}

// The transpose of `from_points`.
inline __attribute__((always_inline)) void gradient_to_points(const Vector (&y)[TILE], Vector (&m)[SIDE]) {
    const Vector even_a = y[0] + .5f * y[2], odd_a = A * (y[1] + .5f * y[3]), even_b = y[0] + 2.f * y[2], odd_b = B * (y[1] + 2.f * y[3]);
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}

inline __attribute__((always_inline)) void kernel_to_points(const Vector (&g)[3], Vector (&u)[SIDE]) {
    const Vector even_a = (-2 / 3.f) * g[0] - (1 / 3.f) * g[2], odd_a = (-2 / 3.f * A) * g[1];
    const Vector even_b = (1 / 6.f) * g[0] + (1 / 3.f) * g[2], odd_b = (1 / 6.f * B) * g[1];
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

// The transpose of `kernel_to_points`.
inline __attribute__((always_inline)) void kernel_gradient(const Vector (&u)[SIDE], Vector (&g)[3]) {
    const Vector even_a = u[1] + u[2], odd_a = u[1] - u[2], even_b = u[3] + u[4], odd_b = u[3] - u[4];
    g[0] = u[0] - (2 / 3.f) * even_a + (1 / 6.f) * even_b;
    g[1] = (1 / 6.f * B) * odd_b - (2 / 3.f * A) * odd_a;
    g[2] = u[5] + (1 / 3.f) * (even_b - even_a);
}

// Apply transform(Vector[FROM], Vector[TO]) to FROM vectors `from_stride` numbers apart, and give TO vectors `to_stride` apart.
template <int FROM, int TO, class Transform>
inline __attribute__((always_inline)) void apply(Transform&& transform, const float* from, size_t from_stride, float* to,
                                                 size_t to_stride) {
    Vector in[FROM], out[TO];
#pragma GCC unroll 6
    for (int i = 0; i < FROM; ++i) in[i] = load(from + i * from_stride);
    transform(in, out);
#pragma GCC unroll 6
    for (int i = 0; i < TO; ++i) store(to + i * to_stride, out[i]);
}

// The kernel (out, in, 3, 3) in transform [point][point][in][out]; `transposed` is the convolution that carries gradients back.
void pack(const float* kernel, int num_in, int num_out, bool transposed, float* packed) {
    constexpr int MATRIX = C * C;
    alignas(64) float taps[9 * MATRIX] = {}, lines[SIDE * 3 * MATRIX];
    for (int out = 0; out < num_out; ++out)
        for (int in = 0; in < num_in; ++in)
            for (int tap = 0; tap < 9; ++tap) {
                const float value = kernel[(size_t(out) * num_in + in) * 9 + tap];
                if (transposed)
                    taps[(8 - tap) * MATRIX + out * C + in] = value;
                else
                    taps[tap * MATRIX + in * C + out] = value;
            }
    for (int at = 0; at < 3 * MATRIX; at += LANES) apply<3, SIDE>(kernel_to_points, taps + at, 3 * MATRIX, lines + at, 3 * MATRIX);
    for (int i = 0; i < SIDE; ++i)
        for (int at = 0; at < MATRIX; at += LANES)
            apply<3, SIDE>(kernel_to_points, lines + i * 3 * MATRIX + at, MATRIX, packed + i * SIDE * MATRIX + at, MATRIX);
}

// From sums [point][point][in][out] the gradient [row][column][in][out] of the kernel.
void unpack(const float* sums, float* taps) {
    constexpr int MATRIX = C * C;
    alignas(64) float lines[3 * SIDE * MATRIX];
    for (int at = 0; at < SIDE * MATRIX; at += LANES) apply<SIDE, 3>(kernel_gradient, sums + at, SIDE * MATRIX, lines + at, SIDE * MATRIX);
    for (int i = 0; i < 3; ++i)
        for (int at = 0; at < MATRIX; at += LANES)
            apply<SIDE, 3>(kernel_gradient, lines + i * SIDE * MATRIX + at, MATRIX, taps + i * 3 * MATRIX + at, MATRIX);
}

// Multiply N tiles at SIDE points [point][tile][16] by a matrix [in][out] a point, in place. Not inlined: so its sums stay in registers.
template <int N>
__attribute__((noinline)) void multiply(float* points, const float* packed) {
    for (int j = 0; j < SIDE; ++j, points += N * C, packed += C * C) {
        Vector sums[N][V] = {};
        accumulate<N>(sums, points, C, packed, C);
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(points + n * C + v * LANES, sums[n][v]);
    }
}

// Convolve a row of tiles, `width` pixels of four rows; emit(x, v, vector v of the sums of pixels x of the four rows). rows[0..5] point at
// the pixel left of the first.
template <class Emit>
inline void convolve(const float* const rows[SIDE], int width, const float* packed, Emit&& emit) {
    alignas(64) float lines[SIDE * (BLOCK * TILE + 2) * C], points[SIDE * BLOCK * C];
    in_parts(divide_up(width, TILE), BLOCK, [&](int first, int tiles) {
        const int start = first * TILE, length = (tiles * TILE + 2) * C;
        for (int x = 0; x < length; x += LANES) {
            Vector in[SIDE], out[SIDE];
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; ++i) in[i] = load(rows[i] + start * C + x);
            to_points(in, out);
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; ++i) store(lines + i * length + x, out[i]);
        }
        for (int i = 0; i < SIDE; ++i) {
            float* const line = lines + i * length;
            for (int tile = 0; tile < tiles; ++tile)
                for (int v = 0; v < V; ++v)
                    apply<SIDE, SIDE>(to_points, line + tile * TILE * C + v * LANES, C, points + tile * C + v * LANES, tiles * C);
            with_constant<BLOCK>(tiles, [&](auto size) { multiply<decltype(size)::value>(points, packed + i * SIDE * C * C); });
            for (int tile = 0; tile < tiles; ++tile)
                for (int v = 0; v < V; ++v)
                    apply<SIDE, TILE>(from_points, points + tile * C + v * LANES, tiles * C, line + tile * TILE * C + v * LANES, C);
        }
        for (int x = 0; x < std::min(tiles * TILE, width - start); ++x)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                Vector in[SIDE], out[TILE];
#pragma GCC unroll 6
                for (int i = 0; i < SIDE; ++i) in[i] = load(lines + i * length + x * C + v * LANES);
                from_points(in, out);
                emit(start + x, v, out);
            }
    });
}

inline Vector shrink(Vector x, Vector threshold) {  // soft-threshold, written as x - clip(x)
    Vector clipped = x > threshold ? threshold : x;
    clipped = clipped < -threshold ? -threshold : clipped;
    return x - clipped;
}

// Planes (channels, height, width) of one row, as pixels.
inline void read_row(const float* planes, int channels, size_t plane, int width, float* pixels) {
    for (int c = 0; c < channels; ++c)
        for (int x = 0; x < width; ++x) pixels[x * channels + c] = planes[c * plane + x];
}

struct Net {
    int num_layers, num_in, num_out, num_features;
    Buffer storage, thresholds;
    std::vector<size_t> offsets;                            // of each layer's kernel (out, in, 3, 3) in the flat weights
    std::vector<float*> forward_kernels, backward_kernels;  // as the functions above read them

    int channels_in(int layer) const { return layer == 0 ? num_in : num_features; }
    int channels_out(int layer) const { return layer == num_layers - 1 ? num_out : num_features; }
    const float* threshold(int layer) const { return thresholds + layer * C; }

    Net(const float* weights, const float* given_thresholds, int num_layers, int num_in, int num_out, int num_features)
        : num_layers(num_layers), num_in(num_in), num_out(num_out), num_features(num_features),
          storage(size_t(num_layers) * 2 * KERNEL), thresholds(size_t(num_layers) * C) {
        size_t offset = 0;
        for (int layer = 0; layer < num_layers; ++layer) {
            const int in = channels_in(layer), out = channels_out(layer);
            const float* const kernel = weights + offset;
            float* const forward = storage + size_t(layer) * 2 * KERNEL;
            float* const backward = forward + KERNEL;
            const bool first = layer == 0, last = layer == num_layers - 1;
            if (!first && !last) {
                pack(kernel, in, out, false, forward);
                pack(kernel, in, out, true, backward);
            } else
                for (int o = 0; o < out; ++o)
                    for (int i = 0; i < in; ++i)
                        for (int tap = 0; tap < 9; ++tap) {
                            const float value = kernel[(size_t(o) * in + i) * 9 + tap];
                            forward[last ? (o * 9 + tap) * C + i : (tap * in + i) * C + o] = value;
                            backward[first ? (i * 9 + 8 - tap) * C + o : ((8 - tap) * out + o) * C + i] = value;
                        }
            offsets.push_back(offset);
            forward_kernels.push_back(forward);
            backward_kernels.push_back(backward);
            if (!last) std::copy_n(given_thresholds + layer * num_features, num_features, thresholds + layer * C);
            offset += size_t(in) * out * 9;
        }
        offsets.push_back(offset);
    }
};

// Run tasks 0 .. count-1 on `threads` threads: thread t takes every threads-th, so that sums are the same in every run.
// They are PyTorch's own threads (OpenMP): others would fight for the cores with these, which wait for work by spinning.
template <class Work>
void parallel(int count, int threads, Work&& work) {
    threads = std::max(1, std::min(threads, count));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) work(thread, threads);
}

// Rows [top, bottom) of one picture. Layer l of a step works l + 1 rows above those of the input, so each finds its rows ready. Every tile
// has all its rows, of the picture or of zeros, so that a band has the same values as the whole picture, to the bit.
void forward_band(const Net& net, const float* in, float* out, int height, int width, int top, int bottom) {
    const size_t plane = size_t(height) * width, row_length = size_t(divide_up(width, TILE) * TILE + 2 + LANES) * C;
    const int last = net.num_layers - 1;
    Buffer memory((size_t(net.num_layers) * RING + 2) * row_length);
    float* const zeros = memory + size_t(net.num_layers) * RING * row_length;
    float* const unwanted = zeros + row_length;
    auto inside = [&](int row) { return row >= 0 && row < height; };
    auto ring = [&](int layer, int row) { return memory + (size_t(layer) * RING + row % RING) * row_length; };  // what a layer reads
    auto given = [&](int layer, int row) { return inside(row) ? ring(layer, row) : zeros; };
    // In the middle of the picture a layer of tiles is ready a step after the one before it, its first row three rows further down.
    const int begin = std::max(0, top - std::max(2, 3 * (last - 1))) / TILE;
    for (int step = begin; step * TILE <= bottom + last; ++step) {
        for (int y = step * TILE; y < std::min(height, (step + 1) * TILE); ++y)
            read_row(in + size_t(y) * width, net.num_in, plane, width, ring(0, y) + net.num_in);
        for (int layer = 0; layer <= last; ++layer) {
            const int row = step * TILE - 1 - layer;
            const float* rows[SIDE];
            for (int i = 0; i < SIDE; ++i) rows[i] = given(layer, row - 1 + i);
            const float* const kernel = net.forward_kernels[layer];
            if (layer == last) {
                for (int i = 0; i < TILE; ++i)
                    if (row + i >= top && row + i < bottom)
                        contract(rows + i, width, net.num_out, kernel, out + size_t(row + i) * width, plane);
                continue;
            }
            if (row + TILE <= 0 || row >= height || (begin > 0 && step < begin + layer)) continue;
            float* to[TILE];
            for (int i = 0; i < TILE; ++i) to[i] = (inside(row + i) ? ring(layer + 1, row + i) : unwanted) + C;
            Vector threshold[V];
            for (int v = 0; v < V; ++v) threshold[v] = load(net.threshold(layer) + v * LANES);
            if (layer == 0) {
                for (int i = 0; i < TILE; ++i)
                    if (inside(row + i))
                        expand(rows + i, width, net.num_in, kernel, [&](int x, int v, Vector sum) {
                            store(to[i] + x * C + v * LANES, shrink(sum, threshold[v]));
                        });
            } else
                convolve(rows, width, kernel, [&](int x, int v, const Vector(&sums)[TILE]) {
#pragma GCC unroll 4
                    for (int i = 0; i < TILE; ++i) store(to[i] + x * C + v * LANES, shrink(sums[i], threshold[v]));
                });
        }
    }
}

// The gradients of a net, summed over the pictures that one thread takes. A picture lies in memory as whole tiles with a border of one
// pixel; what is not the picture's is zero.
struct Backward {
    const Net& net;
    int height, width, tiles_down, tiles_across;
    size_t plane, stride, length;
    Buffer activations, gradients;  // of 16 channels: what the layers after the first read, and two gradients of it
    Buffer input, output;           // the picture, and the gradient of what is made of it
    Buffer kernels;                 // sums, as the functions above give them, layer by layer
    Buffer thresholds;              // sums (layer, channel)
    Buffer lines[2], points[2];     // of a group of tiles, of a picture and of a gradient: columns at the points, and one line at them

    Backward(const Net& net, int height, int width)
        : net(net), height(height), width(width), tiles_down(divide_up(height, TILE)), tiles_across(divide_up(width, TILE)),
          plane(size_t(height) * width), stride(tiles_across * TILE + 2), length((tiles_down * TILE + 2) * stride + LANES),
          activations(net.num_layers * length * C), gradients(2 * length * C), input(length * net.num_in), output(length * net.num_out),
          kernels(size_t(net.num_layers) * KERNEL), thresholds(size_t(net.num_layers) * C),
          lines{Buffer(GROUP * SIDE * SIDE * C), Buffer(GROUP * SIDE * TILE * C)},
          points{Buffer(GROUP * SIDE * C), Buffer(GROUP * SIDE * C)} {}

    float* activation(int layer) const { return activations + layer * length * C; }  // what a layer after the first reads
    size_t at(int y, int x) const { return ((y + 1) * stride + x + 1) * C; }         // of a pixel of 16 channels

    void read(const float* planes, int channels, float* pixels) const {
        for (int y = 0; y < height; ++y)
            read_row(planes + size_t(y) * width, channels, plane, width, pixels + ((y + 1) * stride + 1) * channels);
    }

    // Call work(rows, y) for every row y of the picture, rows[0..2] being those around it.
    template <class Work>
    void by_rows(const float* pixels, int channels, Work&& work) const {
        for (int y = 0; y < height; ++y) {
            const float* const from = pixels + y * stride * channels;
            const float* const rows[3] = {from, from + stride * channels, from + 2 * stride * channels};
            work(rows, y);
        }
    }

    // `convolve` for the whole picture: emit(y of the first row, x, v, sums of four rows).
    template <class Emit>
    void convolve_all(const float* pixels, const float* packed, Emit&& emit) const {
        for (int y = 0; y < tiles_down * TILE; y += TILE) {
            const float* rows[SIDE];
            for (int i = 0; i < SIDE; ++i) rows[i] = pixels + (y + i) * stride * C;
            convolve(rows, width, packed, [&](int x, int v, const Vector(&sums)[TILE]) { emit(y, x, v, sums); });
        }
    }

    // Add the products of what a layer read and of the gradient of what it gave to `sums` [point][point][in][out].
    void correlate(const float* pixels, const float* gradient, float* sums) const {
        in_parts(tiles_across, GROUP, [&](int left, int across) {
            in_parts(tiles_down, std::max(1, GROUP / across), [&](int top, int down) {
                const size_t line = (across * TILE + 2) * C, gradient_line = across * TILE * C;
                const int tiles = across * down;
                for (int row = 0; row < down; ++row) {
                    const float* const from = pixels + ((top + row) * stride + left) * TILE * C;
                    const float* const gradient_from = gradient + ((top + row) * stride + left) * TILE * C + (stride + 1) * C;
                    float* const to = lines[0] + row * SIDE * line;
                    float* const gradient_to = lines[1] + row * SIDE * gradient_line;
                    for (size_t x = 0; x < line; x += LANES) apply<SIDE, SIDE>(to_points, from + x, stride * C, to + x, line);
                    for (size_t x = 0; x < gradient_line; x += LANES)
                        apply<TILE, SIDE>(gradient_to_points, gradient_from + x, stride * C, gradient_to + x, gradient_line);
                }
                for (int i = 0; i < SIDE; ++i) {
                    for (int tile = 0; tile < tiles; ++tile)
                        for (int at = tile * C; at < (tile + 1) * C; at += LANES) {
                            const int row = tile / across * SIDE + i, x = tile % across * TILE * C + at % C;
                            apply<SIDE, SIDE>(to_points, lines[0] + row * line + x, C, points[0] + at, tiles * C);
                            apply<TILE, SIDE>(gradient_to_points, lines[1] + row * gradient_line + x, C, points[1] + at, tiles * C);
                        }
                    for (int j = 0; j < SIDE; ++j) {
                        const float* const few = points[0] + j * tiles * C;
                        const float* const wide = points[1] + j * tiles * C;
                        float* const matrix = sums + (i * SIDE + j) * C * C;
                        in_parts(C, BLOCK, [&](int first, int size) {
                            with_constant<BLOCK>(size, [&](auto channels) {
                                add_products<decltype(channels)::value>(few + first, C, wide, tiles, matrix + first * C);
                            });
                        });
                    }
                }
            });
        });
    }

    void activate(const float* in) {
        read(in, net.num_in, input);
        for (int layer = 0; layer < net.num_layers - 1; ++layer) {
            float* const to = activation(layer + 1);
            Vector threshold[V];
            for (int v = 0; v < V; ++v) threshold[v] = load(net.threshold(layer) + v * LANES);
            if (layer == 0)
                by_rows(input, net.num_in, [&](const float* const rows[3], int y) {
                    float* const row = to + at(y, 0);
                    expand(rows, width, net.num_in, net.forward_kernels[0],
                           [&](int x, int v, Vector sum) { store(row + x * C + v * LANES, shrink(sum, threshold[v])); });
                });
            else
                convolve_all(activation(layer), net.forward_kernels[layer], [&](int y, int x, int v, const Vector(&sums)[TILE]) {
                    float* const first = to + at(y, x) + v * LANES;
#pragma GCC unroll 4
                    for (int i = 0; i < TILE; ++i)
                        if (y + i < height) store(first + i * stride * C, shrink(sums[i], threshold[v]));
                });
        }
    }

    void backward(const float* in, const float* out_gradient, float* in_gradient) {
        const int last = net.num_layers - 1;
        activate(in);
        read(out_gradient, net.num_out, output);
        for (int layer = last; layer > 0; --layer) {
            // Through the soft-threshold: where its output is zero the gradient stops (what is not the picture's too); the threshold's own
            // gradient is minus the sign of the output.
            const float* const shrunk = activation(layer);
            const float* const now = gradients + layer % 2 * length * C;
            float* const next = gradients + (layer + 1) % 2 * length * C;
            float* const kernel = kernels + size_t(layer) * KERNEL;
            Vector threshold[V] = {};
            auto pass = [&](size_t to, int v, Vector sum) {
                const Vector value = load(shrunk + to);
                const Bits passed = (value != 0.f) & Bits(sum);
                store(next + to, Vector(passed));
                threshold[v] -= Vector(passed ^ (Bits(value) & SIGN));
            };
            if (layer == last) {
                by_rows(output, net.num_out, [&](const float* const rows[3], int y) {
                    correlate_few(rows, net.num_out, shrunk + at(y, 0), width, kernel);
                    const size_t row = at(y, 0);
                    expand(rows, width, net.num_out, net.backward_kernels[layer],
                           [&](int x, int v, Vector sum) { pass(row + x * C + v * LANES, v, sum); });
                });
            } else {
                correlate(shrunk, now, kernel);
                convolve_all(now, net.backward_kernels[layer], [&](int y, int x, int v, const Vector(&sums)[TILE]) {
                    const size_t first = at(y, x) + v * LANES;
#pragma GCC unroll 4
                    for (int i = 0; i < TILE; ++i) pass(first + i * stride * C, v, sums[i]);
                });
            }
            for (int v = 0; v < V; ++v) {
                float* const total = thresholds + (layer - 1) * C + v * LANES;
                store(total, load(total) + threshold[v]);
            }
        }
        const float* const now = gradients;
        by_rows(input, net.num_in, [&](const float* const rows[3], int y) {
            correlate_few(rows, net.num_in, now + at(y, 0), width, kernels);
        });
        by_rows(now, C, [&](const float* const rows[3], int y) {
            contract(rows, width, net.num_in, net.backward_kernels[0], in_gradient + size_t(y) * width, plane);
        });
    }

    // Add what was summed to gradients of the shapes of kernels and thresholds.
    void add_to(float* weights_gradient, float* thresholds_gradient) const {
        for (int layer = 0; layer < net.num_layers; ++layer) {
            const int in = net.channels_in(layer), out = net.channels_out(layer);
            const bool first = layer == 0, last = layer == net.num_layers - 1;
            alignas(64) float taps[9 * C * C];
            const float* sums = kernels + size_t(layer) * KERNEL;
            if (!first && !last) {
                unpack(sums, taps);
                sums = taps;
            }
            // The last was correlated the other way round: pixels of the gradient around each of those it read.
            for (int o = 0; o < out; ++o)
                for (int i = 0; i < in; ++i)
                    for (int tap = 0; tap < 9; ++tap)
                        weights_gradient[net.offsets[layer] + (size_t(o) * in + i) * 9 + tap] +=
                            last ? sums[((8 - tap) * out + o) * C + i] : sums[(tap * (first ? in : C) + i) * C + o];
            if (!last)
                for (int c = 0; c < net.num_features; ++c) thresholds_gradient[layer * net.num_features + c] += thresholds[layer * C + c];
        }
    }
};

}  // namespace

extern "C" {

// in (batch, num_in, height, width) -> out (batch, num_out, height, width); thresholds (num_layers - 1, num_features)
void lifting_net_forward(const float* in, float* out, const float* weights, const float* thresholds, int batch, int height, int width,
                         int num_layers, int num_in, int num_out, int num_features, int threads) {
    const Net net(weights, thresholds, num_layers, num_in, num_out, num_features);
    const size_t plane = size_t(height) * width;
    const int bands = batch >= threads ? 1 : std::max(1, std::min(threads, height / 32));
    parallel(batch * bands, threads, [&](int first, int stride) {
        for (int task = first; task < batch * bands; task += stride) {
            const int picture = task / bands, band = task % bands;
            forward_band(net, in + picture * num_in * plane, out + picture * num_out * plane, height, width,
                         int(size_t(height) * band / bands), int(size_t(height) * (band + 1) / bands));
        }
    });
}

// The gradients of a loss by input, kernels and thresholds, from its gradient by the output; each of the shape of what it belongs to.
void lifting_net_backward(const float* in, const float* out_gradient, float* in_gradient, const float* weights,
                          const float* thresholds, float* weights_gradient, float* thresholds_gradient, int batch, int height,
                          int width, int num_layers, int num_in, int num_out, int num_features, int threads) {
    const Net net(weights, thresholds, num_layers, num_in, num_out, num_features);
    const size_t plane = size_t(height) * width;
    std::vector<std::unique_ptr<Backward>> workers(std::max(1, std::min(threads, batch)));
    parallel(batch, threads, [&](int first, int stride) {
        workers[first] = std::make_unique<Backward>(net, height, width);
        for (int picture = first; picture < batch; picture += stride)
            workers[first]->backward(in + picture * num_in * plane, out_gradient + picture * num_out * plane,
                                     in_gradient + picture * num_in * plane);
    });
    std::fill_n(weights_gradient, net.offsets.back(), 0.f);
    std::fill_n(thresholds_gradient, (num_layers - 1) * num_features, 0.f);
    for (const auto& worker : workers) worker->add_to(weights_gradient, thresholds_gradient);
}
}
