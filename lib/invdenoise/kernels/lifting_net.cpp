// LiftingNet (lib/invdenoise/layers/lifting.py) in float32, on the vector units of any processor.
//
// A net is a chain of 3x3 convolutions with at most 16 channels. A soft-threshold follows every convolution but the last. PyTorch runs the
// layers one by one, and each is a pass over memory. Here a pixel is 16 floats in a row, a chain stays in the cache, and sums stay in
// registers. Convolutions from 16 channels to 16 use Winograd's F(4x4, 3x3): a tile of 4x4 pixels takes 36 products for each pair of
// channels instead of 144. The first and the last convolution have few channels on one side and are computed directly. A pixel of the
// input or the output has as many floats as channels.
//
//   forward    Rows of the picture flow through all layers together, four at a time. Each layer keeps the rows that the next one needs.
//   backward   One picture (a training patch) at a time: the forward pass again with its activations kept, then gradients from the last
//              layer to the first.
//
// Winograd's transforms interpolate at 0, +-sqrt(1/2), +-sqrt(2) and infinity. This halves the rounding error of the usual points 0, +-1,
// +-2 and infinity (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, Section 4).
#include "common.h"

#include <type_traits>
#include <utility>
#include <vector>

namespace {

// Pixels, or tiles, whose sums stay in registers together. With their operands they fill the 32 or 16 registers of the processor.
#if defined(__AVX512F__)
constexpr int BLOCK = 12;
#elif defined(__AVX__) || defined(__aarch64__)
constexpr int BLOCK = 6;
#else
constexpr int BLOCK = 3;
#endif

using Bits [[gnu::vector_size(LANES * sizeof(float))]] = int;

constexpr int C = 16;                        // channels of a pixel inside the net; missing ones are zero
constexpr int V = C / LANES;                 // vectors of a pixel
constexpr int TILE = 4;                      // side of an output tile; also the number of rows that flow through the layers together
constexpr int SIDE = TILE + 2;               // side of the input of a tile, and of its transform
constexpr int KERNEL = SIDE * SIDE * C * C;  // floats of a transformed kernel
constexpr int RING = 8;                      // input rows that a layer keeps, at least SIDE
constexpr int SIGN_BIT = -0x7fffffff - 1;    // of a float
constexpr int GROUP = 24;                    // tiles summed together into a kernel's gradient; they fit the level-2 cache

template <int N>
using Constant = std::integral_constant<int, N>;

// Call work(size as a constant), 1 <= size <= N.
template <int N, class Work>
inline void with_constant(int size, Work&& work) {
    if constexpr (N > 1)
        if (size < N) return with_constant<N - 1>(size, work);
    work(Constant<N>{});
}

// Split `count` items into the fewest parts of at most `most`, of nearly equal size, and call work(first, size) for each part.
template <class Work>
inline void in_parts(int count, int most, Work&& work) {
    const int parts = divide_up(count, most);
    for (int part = 0, first = 0; part < parts; ++part) {
        const int end = count * (part + 1) / parts;
        work(first, end - first);
        first = end;
    }
}

// sums[n][0..16) += in[n * stride + i] * weights[i][0..16) for i < count. Every convolution comes down to this.
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

// sums[n][0..16) += few[p * stride + n] * wide[p][0..16) for p < count. Every kernel gradient comes down to this.
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

// Convolve `count` pixels of a row from few channels to 16, and call emit(pixel, v, vector v of its sums). rows[0..2] start one pixel to
// the left of the first; a pixel has `channels` floats. Weights [row][column][in][16].
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

// Add the second half of each group of SIZE lanes to its first half, and pack the results of both vectors into one.
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

// Sum the lanes of each of COUNT neighbouring vectors. Each vector's partial sums end up in a group of LANES / COUNT lanes.
template <int COUNT>
inline __attribute__((always_inline)) Vector sum_lanes(const Vector* vectors) {
    if constexpr (COUNT == 1)
        return *vectors;
    else
        return fold<2 * LANES / COUNT>(sum_lanes<COUNT / 2>(vectors), sum_lanes<COUNT / 2>(vectors + COUNT / 2),
                                       std::make_integer_sequence<int, LANES>{});
}

// Convolve `count` pixels of a row from 16 channels to few, into planes. Weights [out][row][column][16]. Reads up to LANES pixels past the
// end of the row.
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

// Add a row's part of a kernel gradient to `sums` [row][column][channel][16]: products of each pixel of 16 channels, `wide`, with the 3x3
// pixels of few channels around it.
inline void correlate_few(const float* const rows[3], int channels, const float* wide, int count, float* sums) {
    for (int row = 0; row < 3; ++row, sums += 3 * channels * C)
        in_parts(3 * channels, BLOCK, [&](int first, int size) {
            with_constant<BLOCK>(size, [&](auto numbers) {
                add_products<decltype(numbers)::value>(rows[row] + first, channels, wide, count, sums + first * C);
            });
        });
}

// -- Convolutions of 16 channels to 16 -------------------------------------------------------------------------------------------------

constexpr float A = 0.707106781186547524f, B = 1.41421356237309505f;  // the interpolation points sqrt(1/2) and sqrt(2)

// Winograd's 1-D transforms, applied to rows and then to columns. The constant divisors are in the transform of the kernels, which runs
// once a call.

// Pixels of a line -> values at the points.
inline __attribute__((always_inline)) void to_points(const Vector (&d)[SIDE], Vector (&t)[SIDE]) {
    const Vector even_a = d[4] - 2.f * d[2], odd_a = A * (d[3] - 2.f * d[1]), even_b = d[4] - .5f * d[2], odd_b = B * (d[3] - .5f * d[1]);
    t[0] = d[0] + (d[4] - 2.5f * d[2]);
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = d[1] + (d[5] - 2.5f * d[3]);
}

// Products at the points -> pixels of a line.
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

// Taps of a kernel -> values at the points.
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

// Apply transform(Vector[FROM], Vector[TO]): reads FROM vectors that lie `from_stride` floats apart, writes TO vectors `to_stride` apart.
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

// Transform a kernel (out, in, 3, 3) to [point][point][in][out]. `transposed` gives the kernel that carries gradients back.
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

// Transform sums [point][point][in][out] back to the gradient [row][column][in][out] of the kernel.
void unpack(const float* sums, float* taps) {
    constexpr int MATRIX = C * C;
    alignas(64) float lines[3 * SIDE * MATRIX];
    for (int at = 0; at < SIDE * MATRIX; at += LANES) apply<SIDE, 3>(kernel_gradient, sums + at, SIDE * MATRIX, lines + at, SIDE * MATRIX);
    for (int i = 0; i < 3; ++i)
        for (int at = 0; at < MATRIX; at += LANES)
            apply<SIDE, 3>(kernel_gradient, lines + i * SIDE * MATRIX + at, MATRIX, taps + i * 3 * MATRIX + at, MATRIX);
}

// Multiply N tiles at SIDE points, [point][tile][16], by the matrix [in][out] of each point, in place. Not inlined: inlining spills the
// sums from registers.
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

// Convolve a row of tiles, that is four rows of `width` pixels. Calls emit(x, v, vector v of the sums of the four pixels in column x).
// rows[0..5] start one pixel to the left of the first.
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

// Soft-threshold, as x - clip(x).
inline Vector shrink(Vector x, Vector threshold) {
    Vector clipped = x > threshold ? threshold : x;
    clipped = clipped < -threshold ? -threshold : clipped;
    return x - clipped;
}

// Read one row of planes (channels, height, width) as pixels.
inline void read_row(const float* planes, int channels, size_t plane, int width, float* pixels) {
    for (int c = 0; c < channels; ++c)
        for (int x = 0; x < width; ++x) pixels[x * channels + c] = planes[c * plane + x];
}

struct Net {
    int num_layers, num_in, num_out, num_features;
    Buffer<float> storage, thresholds;
    std::vector<size_t> offsets;                            // where each layer's kernel (out, in, 3, 3) starts in the flat weights
    std::vector<float*> forward_kernels, backward_kernels;  // in the layouts that the functions above read

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

// Compute rows [top, bottom) of one picture. In each step layer l works l + 1 rows above the newest input rows, so the rows it reads are
// ready. Every tile reads all its rows, from the picture or zeros, so a band equals the same rows of the whole picture bit for bit.
void forward_band(const Net& net, const float* in, float* out, int height, int width, int top, int bottom) {
    const size_t plane = size_t(height) * width, row_length = size_t(divide_up(width, TILE) * TILE + 2 + LANES) * C;
    const int last = net.num_layers - 1;
    Buffer<float> memory((size_t(net.num_layers) * RING + 2) * row_length);
    float* const zeros = memory + size_t(net.num_layers) * RING * row_length;
    float* const discarded = zeros + row_length;  // takes rows of a tile outside the picture
    auto inside = [&](int row) { return row >= 0 && row < height; };
    auto ring = [&](int layer, int row) { return memory + (size_t(layer) * RING + row % RING) * row_length; };  // a layer's input
    auto input_row = [&](int layer, int row) { return inside(row) ? ring(layer, row) : zeros; };
    // A band that starts inside the picture needs a margin: each layer's first complete row of tiles lies three rows below that of the
    // layer before, one step later.
    const int begin = std::max(0, top - std::max(2, 3 * (last - 1))) / TILE;
    for (int step = begin; step * TILE <= bottom + last; ++step) {
        for (int y = step * TILE; y < std::min(height, (step + 1) * TILE); ++y)
            read_row(in + size_t(y) * width, net.num_in, plane, width, ring(0, y) + net.num_in);
        for (int layer = 0; layer <= last; ++layer) {
            const int row = step * TILE - 1 - layer;
            const float* rows[SIDE];
            for (int i = 0; i < SIDE; ++i) rows[i] = input_row(layer, row - 1 + i);
            const float* const kernel = net.forward_kernels[layer];
            if (layer == last) {
                for (int i = 0; i < TILE; ++i)
                    if (row + i >= top && row + i < bottom)
                        contract(rows + i, width, net.num_out, kernel, out + size_t(row + i) * width, plane);
                continue;
            }
            if (row + TILE <= 0 || row >= height || (begin > 0 && step < begin + layer)) continue;
            float* to[TILE];
            for (int i = 0; i < TILE; ++i) to[i] = (inside(row + i) ? ring(layer + 1, row + i) : discarded) + C;
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

// The gradients of a net, summed over the pictures of one thread. A picture is stored as whole tiles with a border of one pixel. Everything
// outside the picture is zero.
struct Backward {
    const Net& net;
    int height, width, tiles_down, tiles_across;
    size_t plane, stride, length;
    Buffer<float> activations;           // inputs of the layers after the first, 16 channels
    Buffer<float> gradients;             // two of them, with respect to an activation; layers alternate
    Buffer<float> input, output;         // the picture; the gradient with respect to the net's output
    Buffer<float> kernels;               // sums of kernel gradients, layer by layer
    Buffer<float> thresholds;            // sums of threshold gradients (layer, channel)
    Buffer<float> lines[2], points[2];   // for a group of tiles of the picture and of the gradient: after one and after both transforms

    Backward(const Net& net, int height, int width)
        : net(net), height(height), width(width), tiles_down(divide_up(height, TILE)), tiles_across(divide_up(width, TILE)),
          plane(size_t(height) * width), stride(tiles_across * TILE + 2), length((tiles_down * TILE + 2) * stride + LANES),
          activations(net.num_layers * length * C), gradients(2 * length * C), input(length * net.num_in), output(length * net.num_out),
          kernels(size_t(net.num_layers) * KERNEL), thresholds(size_t(net.num_layers) * C),
          lines{Buffer<float>(GROUP * SIDE * SIDE * C), Buffer<float>(GROUP * SIDE * TILE * C)},
          points{Buffer<float>(GROUP * SIDE * C), Buffer<float>(GROUP * SIDE * C)} {}

    float* activation(int layer) const { return activations + layer * length * C; }  // input of a layer after the first
    size_t at(int y, int x) const { return ((y + 1) * stride + x + 1) * C; }         // offset of a pixel of 16 channels

    void read(const float* planes, int channels, float* pixels) const {
        for (int y = 0; y < height; ++y)
            read_row(planes + size_t(y) * width, channels, plane, width, pixels + ((y + 1) * stride + 1) * channels);
    }

    // Call work(rows, y) for every row y of the picture. rows[0..2] are the rows above, at and below it.
    template <class Work>
    void by_rows(const float* pixels, int channels, Work&& work) const {
        for (int y = 0; y < height; ++y) {
            const float* const from = pixels + y * stride * channels;
            const float* const rows[3] = {from, from + stride * channels, from + 2 * stride * channels};
            work(rows, y);
        }
    }

    // `convolve` over the whole picture; calls emit(y of the first of four rows, x, v, sums of the four pixels).
    template <class Emit>
    void convolve_all(const float* pixels, const float* packed, Emit&& emit) const {
        for (int y = 0; y < tiles_down * TILE; y += TILE) {
            const float* rows[SIDE];
            for (int i = 0; i < SIDE; ++i) rows[i] = pixels + (y + i) * stride * C;
            convolve(rows, width, packed, [&](int x, int v, const Vector(&sums)[TILE]) { emit(y, x, v, sums); });
        }
    }

    // Add a layer's kernel gradient to `sums` [point][point][in][out]: products of its input and the gradient of its output.
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
            // Through the soft-threshold: the gradient stops where its output is zero, which includes everything outside the picture.
            // The threshold itself receives minus the sign of the output, times the gradient.
            const float* const shrunk = activation(layer);
            const float* const now = gradients + layer % 2 * length * C;
            float* const next = gradients + (layer + 1) % 2 * length * C;
            float* const kernel = kernels + size_t(layer) * KERNEL;
            Vector threshold[V] = {};
            auto pass = [&](size_t to, int v, Vector sum) {
                const Vector value = load(shrunk + to);
                const Bits passed = (value != 0.f) & Bits(sum);
                store(next + to, Vector(passed));
                threshold[v] -= Vector(passed ^ (Bits(value) & SIGN_BIT));
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

    // Add the sums to gradients that have the shapes of the weights and thresholds.
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
            // The last layer's sums are turned: they pair each input pixel with the gradient pixels around it.
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

// in (batch, num_in, height, width) -> out (batch, num_out, height, width). weights: every kernel (out, in, 3, 3), one after another.
// thresholds (num_layers - 1, num_features). num_layers counts convolutions.
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

// From the gradient of a loss with respect to the output, its gradients with respect to input, weights and thresholds, in their shapes.
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
