// WINNet's networks in float32, on the vector units of any processor: PUNet (lib/invdenoise/models/winnet.py), the predictor and update
// network, and CLISTA (lib/invdenoise/layers/shrinkage.py), the sparse coder.
//
// Both are chains of convolutions and soft-thresholds. The convolutions are 3x3 between few channels and 32 or 64, or depthwise 5x5 and
// pointwise. PyTorch runs them one by one, and each is a pass over memory; its depthwise ones are far from the processor's peak. Here a
// pixel is 32 or 64 floats in a row, which is a few vectors. Blocks of pixels in registers share each load, so arithmetic limits the speed.
// A depthwise row stays in the level-1 cache until the pointwise convolution and the threshold have read it.
//
//   forward    Rows of the picture flow through all layers together, a few at a time. Each layer keeps the rows that later layers need.
//   backward   One picture (a training patch) at a time: the forward pass again with its activations kept, then gradients from the last
//              layer to the first.
//
// Results do not depend on the size of the batch or the number of threads: the operations and their order stay the same.
#include "common.h"

#include <utility>
#include <vector>

namespace {

// Sizes of register blocks: pixels of 32 channels, pixels of 16 channels, channels of an outer product. With their operands they take about
// 12 of 16 registers, or 16 to 24 of 32.
#if defined(__AVX512F__)
constexpr int PIXELS = 8, WIDE_PIXELS = 12, OUTER = 8;
#elif defined(__AVX__)
constexpr int PIXELS = 3, WIDE_PIXELS = 6, OUTER = 6;
#else
constexpr int PIXELS = 3, WIDE_PIXELS = 6, OUTER = 4;
#endif

constexpr int C = 32;                       // channels of a pixel inside PUNet, and half of those inside CLISTA
constexpr int V = C / LANES;                // vectors of such a pixel
constexpr int FEW = 16;                     // floats of a pixel of the input or output if it has more than one channel
constexpr int RUN = 8;                      // neighbouring pixels of a register block of a depthwise convolution
constexpr int SEGMENT = 24;                 // pixels summed together into a depthwise kernel gradient; they fit the level-1 cache
constexpr size_t CACHE_BYTES = 320 * 1024;  // part of a level-2 cache that the rows in flight may fill
constexpr int STRIP_WIDTH = 512;            // wider pictures are computed in several strips
// Template arguments: D is the distance between the taps of a kernel, F the number of features, N the pixels of a register block.

inline Vector broadcast(float number) { return Vector{} + number; }

// Keeps a loaded value in its register. Without it, compilers load the value again for every use.
inline Vector keep_in_register(Vector value) {
#if defined(__x86_64__)
    asm("" : "+v"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
    return value;
}

// Compiler barrier: stops later loads being hoisted, which would spill the sums.
inline void stop_hoisting() { asm volatile("" ::: "memory"); }

// Floats of a pixel of the input or the output.
constexpr int pixel_length(int channels) { return channels == 1 ? 1 : FEW; }

// Soft-threshold with bounds `below` = -threshold and `above` = threshold, as x - clip(x).
inline Vector shrink(Vector x, Vector below, Vector above) {
    Vector clipped = x > above ? above : x;
    clipped = clipped < below ? below : clipped;
    return x - clipped;
}

// Turn thresholds (layers, features) into clipping bounds: for each layer the upper ones, then the lower ones.
inline void set_bounds(const float* thresholds, int layers, int features, float* bounds) {
    for (int layer = 0; layer < layers; ++layer)
        for (int c = 0; c < features; ++c) {
            bounds[2 * layer * features + c] = thresholds[layer * features + c];
            bounds[(2 * layer + 1) * features + c] = -thresholds[layer * features + c];
        }
}

// Call block(size as a constant, first pixel) for blocks of N of `count` pixels. The last block may overlap the one before it. Fewer than N
// pixels are taken one by one.
template <int N, class Block>
inline void in_blocks(int count, Block&& block) {
    int at = 0;
    for (; at + N <= count; at += N) block(std::integral_constant<int, N>{}, at);
    if (at < count && count >= N) block(std::integral_constant<int, N>{}, count - N);
    for (; at < count && count < N; ++at) block(std::integral_constant<int, 1>{}, at);
}

// sums[pixel][0..32) += in[pixel][i] * weights[i][0..32) for i < count and the pixels of a register block, `length` floats apart.
template <int N>
inline __attribute__((always_inline)) void accumulate(Vector (&sums)[N][V], const float* in, int length, const float* weights, int count) {
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            const Vector weight = keep_in_register(load(weights + i * C + v * LANES));
#pragma GCC unroll 12
            for (int p = 0; p < N; ++p) sums[p][v] += weight * in[p * length + i];
        }
}

// Pointwise convolution of a row. Calls emit(pixel, its sums).
template <class Emit>
inline void pointwise(const float* in, int count, const float* weights, Emit&& emit) {
    in_blocks<PIXELS>(count, [&](auto pixels, int at) {
        constexpr int N = decltype(pixels)::value;
        Vector sums[N][V] = {};
        accumulate<N>(sums, in + at * C, C, weights, C);
        stop_hoisting();
#pragma GCC unroll 12
        for (int p = 0; p < N; ++p) emit(at + p, sums[p]);
    });
}

// 3x3 convolution of a row from few channels to F, 32 of them at a time. rows[0..2] start one tap to the left of the first pixel.
// Weights [part of 32][tap][in][32]. Calls emit(pixel, first channel of the part, its sums).
template <int D, int F, class Emit>
inline void expand(const float* const rows[3], int count, int channels, const float* weights, Emit&& emit) {
    const int length = pixel_length(channels);
    for (int part = 0; part < F; part += C, weights += 9 * channels * C)
        in_blocks<PIXELS>(count, [&](auto pixels, int at) {
            constexpr int N = decltype(pixels)::value;
            Vector sums[N][V] = {};
            for (int tap = 0; tap < 9; ++tap)
                accumulate<N>(sums, rows[tap / 3] + (at + tap % 3 * D) * length, length, weights + tap * channels * C, channels);
            stop_hoisting();
#pragma GCC unroll 12
            for (int p = 0; p < N; ++p) emit(at + p, part, sums[p]);
        });
}

// 3x3 convolution of a row from F channels to few. Weights [tap][F][16], or [tap][F] for one channel. Calls emit(pixel, pointer to its
// sums).
template <int D, int F, class Emit>
inline void contract(const float* const rows[3], int count, int channels, const float* weights, Emit&& emit) {
    if (channels > 1) {
        constexpr int W = FEW / LANES;
        in_blocks<WIDE_PIXELS>(count, [&](auto pixels, int at) {
            constexpr int N = decltype(pixels)::value;
            Vector sums[N][W] = {};
            for (int tap = 0; tap < 9; ++tap) {
                const float* const in = rows[tap / 3] + (at + tap % 3 * D) * F;
                const float* const w = weights + tap * F * FEW;
                for (int i = 0; i < F; ++i) {
                    Vector weight[W];
#pragma GCC unroll 4
                    for (int v = 0; v < W; ++v) weight[v] = keep_in_register(load(w + i * FEW + v * LANES));
#pragma GCC unroll 12
                    for (int p = 0; p < N; ++p) {
                        const Vector x = keep_in_register(broadcast(in[p * F + i]));
#pragma GCC unroll 4
                        for (int v = 0; v < W; ++v) sums[p][v] += weight[v] * x;
                    }
                }
            }
            stop_hoisting();
            alignas(64) float found[N][FEW];
#pragma GCC unroll 12
            for (int p = 0; p < N; ++p)
#pragma GCC unroll 4
                for (int v = 0; v < W; ++v) store(found[p] + v * LANES, sums[p][v]);
            for (int p = 0; p < N; ++p) emit(at + p, found[p]);
        });
        return;
    }
    for (int at = 0; at < count; at += RUN) {
        Vector sums[RUN] = {};
        for (int row = 0; row < 3; ++row)
            for (int v = 0; v < F / LANES; ++v) {
                const float* const in = rows[row] + at * F + v * LANES;
                Vector w[3];
#pragma GCC unroll 3
                for (int k = 0; k < 3; ++k) w[k] = keep_in_register(load(weights + (row * 3 + k) * F + v * LANES));
#pragma GCC unroll 16
                for (int j = 0; j < RUN + 2 * D; ++j) {
                    const Vector x = keep_in_register(load(in + j * F));
#pragma GCC unroll 3
                    for (int k = 0; k < 3; ++k)
                        if (j - k * D >= 0 && j - k * D < RUN) sums[j - k * D] += w[k] * x;
                }
            }
        for (int p = 0; p < std::min(RUN, count - at); ++p) {
            float sum = 0;
            for (int lane = 0; lane < LANES; ++lane) sum += sums[p][lane];
            emit(at + p, &sum);
        }
    }
}

// Depthwise 5x5 convolution of a row. rows[0..4] start two taps to the left of the first pixel. Weights [tap][32]. Writes whole runs, so up
// to RUN - 1 pixels past the end of the row.
template <int D>
inline void depthwise(const float* const rows[5], int count, const float* weights, float* out) {
    for (int at = 0; at < count; at += RUN)
        for (int v = 0; v < V; ++v) {
            Vector sums[RUN] = {};
            for (int row = 0; row < 5; ++row) {
                const float* const in = rows[row] + at * C + v * LANES;
                Vector w[5];
#pragma GCC unroll 5
                for (int k = 0; k < 5; ++k) w[k] = keep_in_register(load(weights + (row * 5 + k) * C + v * LANES));
#pragma GCC unroll 16
                for (int j = 0; j < RUN + 4 * D; ++j) {
                    const Vector x = keep_in_register(load(in + j * C));
#pragma GCC unroll 5
                    for (int k = 0; k < 5; ++k)
                        if (j - k * D >= 0 && j - k * D < RUN) sums[j - k * D] += w[k] * x;
                }
            }
#pragma GCC unroll 8
            for (int p = 0; p < RUN; ++p) store(out + (at + p) * C + v * LANES, sums[p]);
        }
}

// sums[i][0..32) += scalars[i][pixel] * vectors[pixel][0..32) over the pixels of a row, for N channels i, W vectors of the 32 floats at a
// time.
template <int N, int W>
inline void outer_block(const float* const* scalars, int length, const float* vectors, int vector_length, int count, float* sums) {
    for (int v = 0; v < V; v += W) {
        Vector found[N][W];
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) found[i][w] = load(sums + i * C + (v + w) * LANES);
        for (int p = 0; p < count; ++p) {
            Vector vector[W];
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) vector[w] = keep_in_register(load(vectors + p * vector_length + (v + w) * LANES));
#pragma GCC unroll 8
            for (int i = 0; i < N; ++i) {
                const Vector scalar = keep_in_register(broadcast(scalars[i][p * length]));
#pragma GCC unroll 8
                for (int w = 0; w < W; ++w) found[i][w] += vector[w] * scalar;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i)
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) store(sums + i * C + (v + w) * LANES, found[i][w]);
    }
}

// The same for `num` channels. Pixels lie `length` floats apart in `scalars` and `vector_length` apart in `vectors`.
inline void outer(const float* const* scalars, int num, int length, const float* vectors, int vector_length, int count, float* sums) {
    int i = 0;
    for (; i + OUTER <= num; i += OUTER)
        outer_block<OUTER, std::max(V / 2, 2)>(scalars + i, length, vectors, vector_length, count, sums + i * C);
    for (; i + 3 <= num; i += 3) outer_block<3, V>(scalars + i, length, vectors, vector_length, count, sums + i * C);
    for (; i + 2 <= num; i += 2) outer_block<2, V>(scalars + i, length, vectors, vector_length, count, sums + i * C);
    for (; i < num; ++i) outer_block<1, V>(scalars + i, length, vectors, vector_length, count, sums + i * C);
}

// sums[row][tap] += input[row][pixel + tap] * gradient[pixel], for ROWS rows of taps and W vectors of a pixel, N pixels at a time.
template <int D, int ROWS, int W, int N>
inline void depth_gradient_block(const float* const* rows, const float* gradient, int count, float* sums) {
    Vector found[ROWS][W][5];
#pragma GCC unroll 2
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 2
        for (int w = 0; w < W; ++w)
#pragma GCC unroll 5
            for (int k = 0; k < 5; ++k) found[row][w][k] = load(sums + (row * 5 + k) * C + w * LANES);
    for (int at = 0; at < count; at += N) {
        stop_hoisting();
        Vector g[W][N];
#pragma GCC unroll 2
        for (int w = 0; w < W; ++w)
#pragma GCC unroll 4
            for (int p = 0; p < N; ++p) g[w][p] = keep_in_register(load(gradient + (at + p) * C + w * LANES));
#pragma GCC unroll 2
        for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 2
            for (int w = 0; w < W; ++w)
#pragma GCC unroll 16
                for (int j = 0; j < N + 4 * D; ++j) {
                    const Vector x = keep_in_register(load(rows[row] + (at + j) * C + w * LANES));
#pragma GCC unroll 5
                    for (int k = 0; k < 5; ++k)
                        if (j - k * D >= 0 && j - k * D < N) found[row][w][k] += g[w][j - k * D] * x;
                }
    }
#pragma GCC unroll 2
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 2
        for (int w = 0; w < W; ++w)
#pragma GCC unroll 5
            for (int k = 0; k < 5; ++k) store(sums + (row * 5 + k) * C + w * LANES, found[row][w][k]);
}

// Add a row's part of the gradient of a depthwise kernel to `sums` [tap][32]. Rows as in `depthwise`. Zeros follow the last pixel of the
// gradient's row.
template <int D>
inline void depth_gradient(const float* const rows[5], const float* gradient, int count, float* sums) {
    for (int at = 0; at < count; at += SEGMENT) {
        const int part = std::min(SEGMENT, count - at);
        for (int v = 0; v < V; v += 2) {  // ten sums at a time: two rows of taps, or the fifth row for two vectors
            const float* from[5];
            for (int k = 0; k < 5; ++k) from[k] = rows[k] + at * C + v * LANES;
            const float* const g = gradient + at * C + v * LANES;
            depth_gradient_block<D, 1, 2, 2>(from + 4, g, part, sums + 20 * C + v * LANES);
            for (int w = 0; w < 2; ++w) {
                const float* pair[4];
                for (int k = 0; k < 4; ++k) pair[k] = from[k] + w * LANES;
                depth_gradient_block<D, 2, 1, 4>(pair, g + w * LANES, part, sums + (v + w) * LANES);
                depth_gradient_block<D, 2, 1, 4>(pair + 2, g + w * LANES, part, sums + 10 * C + (v + w) * LANES);
            }
        }
    }
}

// Carry the gradient of a row of F channels back through its soft-threshold, in place. The gradient stops where the output, `shrunk`, is
// zero. The threshold itself receives minus the sign of the output, times the gradient, which is added to `sums`.
template <int F>
inline void through_threshold(const float* shrunk, int count, float* gradient, float* sums) {
    constexpr int W = std::min(4, V);
    for (int v = 0; v < F; v += W * LANES) {
        Vector found[W];
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) found[w] = load(sums + v + w * LANES);
        for (int p = 0; p < count; ++p)
#pragma GCC unroll 4
            for (int w = 0; w < W; ++w) {
                const int at = p * F + v + w * LANES;
                const Vector value = load(shrunk + at), zero = {}, passed = value != zero ? load(gradient + at) : zero;
                store(gradient + at, passed);
                found[w] += value > zero ? -passed : passed;
            }
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) store(sums + v + w * LANES, found[w]);
    }
}

// Add a row's part of the gradient of a kernel between few channels and F:
// sums[part of 32][tap][channel][32] += few[pixel + tap][channel] * many[pixel][32 of F]. `turned` takes the taps in reverse order.
template <int D, int F>
inline void few_gradient(const float* const rows[3], int channels, bool turned, const float* vectors, int count, float* sums) {
    const float* scalars[9 * FEW];
    const int step = pixel_length(channels);
    for (int tap = 0; tap < 9; ++tap)
        for (int c = 0; c < channels; ++c) {
            const int from = turned ? 8 - tap : tap;
            scalars[tap * channels + c] = rows[from / 3] + from % 3 * D * step + c;
        }
    for (int part = 0; part < F; part += C) outer(scalars, 9 * channels, step, vectors + part, F, count, sums + part * 9 * channels);
}

// Where a weight lies in a kernel between few channels and many: (many, few, 3, 3), or (few, many, 3, 3) if `swapped`.
inline size_t entry(int few, int channels, int many, int features, int tap, bool swapped) {
    return ((swapped ? size_t(few) * features + many : size_t(many) * channels + few)) * 9 + tap;
}

// Pack a kernel for `expand`. `back` packs a swapped kernel, with its taps turned, to carry gradients back.
float* pack_expanding(const float* kernel, int channels, int features, bool back, float* packed) {
    for (int part = 0; part < features; part += C)
        for (int tap = 0; tap < 9; ++tap)
            for (int few = 0; few < channels; ++few)
                for (int c = 0; c < C; ++c) *packed++ = kernel[entry(few, channels, part + c, features, back ? 8 - tap : tap, back)];
    return packed;
}

// Pack a swapped kernel for `contract`. `back` packs a kernel that is not swapped, with its taps turned, to carry gradients back.
float* pack_contracting(const float* kernel, int channels, int features, bool back, float* packed) {
    for (int tap = 0; tap < 9; ++tap)
        for (int many = 0; many < features; ++many, packed += pixel_length(channels))
            for (int few = 0; few < channels; ++few) packed[few] = kernel[entry(few, channels, many, features, back ? 8 - tap : tap, !back)];
    return packed;
}

// Write the sums of `few_gradient` in the layout of the kernel.
float* unpack_gradient(const float* sums, int channels, int features, bool swapped, float* kernel) {
    for (int part = 0; part < features; part += C)
        for (int tap = 0; tap < 9; ++tap)
            for (int few = 0; few < channels; ++few)
                for (int c = 0; c < C; ++c) kernel[entry(few, channels, part + c, features, tap, swapped)] = *sums++;
    return kernel + 9 * size_t(channels) * features;
}

constexpr size_t packed_length(int channels, int features) {
    return 9 * size_t(features) * (round_up(channels, FEW) + pixel_length(channels));  // packed for `expand` and for `contract`
}

// Read a row of planes (channels, height, width), or part of it, as pixels.
inline void read_row(const float* planes, int channels, size_t plane, int count, float* pixels) {
    const int length = pixel_length(channels);
    for (int c = 0; c < channels; ++c)
        for (int x = 0; x < count; ++x) pixels[x * length + c] = planes[c * plane + x];
}

inline void write_pixel(const float* pixel, int channels, size_t plane, float* planes) {
    for (int c = 0; c < channels; ++c) planes[c * plane] = pixel[c];
}

// The rows of a picture that flow through the stages of a net. Each stage keeps as many of its latest rows as later stages read. Rows have
// zeros on either side, and a row of zeros stands for rows outside the picture.
class Flow {
   public:
    struct Stage {
        int radius;      // rows of the stage before that it reads above and below its own
        int length;      // floats of a pixel of its output; 0 for the last stage, which keeps nothing
        int last_reader;  // how many stages later its output is read last; a skip connection reads it after the next stage
    };

    Flow(int height, int width, int pad, const std::vector<Stage>& described)
        : pad(pad), pixels(round_up(width, RUN) + 2 * pad), height(height), stages(described.size()), memory(prepare(described)) {
        float* free = memory + size_t(pixels) * longest;
        for (auto& s : stages) s.ring = std::exchange(free, free + s.rows * s.length);
    }

    const int pad, pixels;  // zeros on either side of a row; length of a row with them

    float* row(int s, int y) const {  // row y of a stage's output, from its padding on
        return y < 0 || y >= height ? memory : stages[s].ring + y % stages[s].rows * stages[s].length;
    }

    // Call compute(stage, row) in an order that completes rows [top, bottom) of the last stage.
    template <class Compute>
    void run(int top, int bottom, Compute&& compute) {
        for (auto s = stages.rbegin(); s != stages.rend(); ++s) {
            const int reach = stages.back().lag - s->lag;
            s->done = std::max(0, top - reach), s->end = std::min(height, bottom + reach);
        }
        for (int input = stages[0].done + step; stages.back().done < stages.back().end; input += step)
            for (size_t s = 0; s < stages.size(); ++s)
                for (const int until = std::min(input - stages[s].lag, stages[s].end); stages[s].done < until; ++stages[s].done)
                    compute(int(s), stages[s].done);
    }

   private:
    struct State {
        int done, end, lag, rows;  // next row to compute, where to stop, rows behind the input, rows kept
        size_t length;             // floats of a kept row
        float* ring;
    };
    const int height;
    int step, longest = 0;  // rows that a stage computes at a time; floats of the largest pixel of all stages
    std::vector<State> stages;
    const Buffer<float> memory;

    // Decide how many rows each stage computes and keeps, and return the floats that they need.
    size_t prepare(const std::vector<Stage>& described) {
        size_t bytes = 0;
        for (const Stage& s : described) bytes += size_t(pixels) * s.length * sizeof(float), longest = std::max(longest, s.length);
        // A small step, so that the rows of all stages fit the level-2 cache.
        step = std::clamp(int(CACHE_BYTES / bytes) - 2 * pad, 4, 16);
        for (size_t s = 0; s < described.size(); ++s) stages[s].lag = s == 0 ? 0 : stages[s - 1].lag + described[s].radius;
        size_t numbers = size_t(pixels) * longest;
        for (size_t s = 0; s < described.size(); ++s) {
            const size_t next = std::min(s + 1, described.size() - 1), last = std::min(s + described[s].last_reader, described.size() - 1);
            stages[s].length = round_up(pixels * described[s].length, FEW);
            stages[s].rows = step + std::max(2 * described[next].radius, stages[last].lag - stages[s].lag);
            numbers += stages[s].rows * stages[s].length;
        }
        return numbers;
    }
};

// The layout of a picture in memory, with a border of zeros as wide as the taps reach.
class Frame {
   public:
    Frame(int height, int width, int pad) : height(height), width(width), pad(pad), pixels(round_up(width, RUN) + 2 * pad) {}

    const int height, width, pad, pixels;

    size_t size(int length) const { return size_t(height + 2 * pad) * pixels * length; }  // floats of a picture, `length` a pixel
    float* row(float* picture, int y, int length = C) const { return picture + size_t(y + pad) * pixels * length; }  // with padding
    float* first(float* picture, int y, int length = C) const { return row(picture, y, length) + pad * length; }     // its first pixel

    // The rows that a 3x3 convolution reads, and those of a 5x5 convolution of pixels of 32 floats. Taps are D apart.
    template <int D>
    void three(float* picture, int y, int length, const float* rows[3]) const {
        for (int k = 0; k < 3; ++k) rows[k] = row(picture, y + (k - 1) * D, length) + (pad - D) * length;
    }
    template <int D>
    void five(float* picture, int y, const float* rows[5]) const {
        for (int k = 0; k < 5; ++k) rows[k] = row(picture, y + (k - 2) * D) + (pad - 2 * D) * C;
    }
    void read(const float* planes, int channels, float* picture) const {
        for (int y = 0; y < height; ++y)
            read_row(planes + size_t(y) * width, channels, plane(), width, first(picture, y, pixel_length(channels)));
    }
    size_t plane() const { return size_t(height) * width; }
};

// ---- PUNet ----------------------------------------------------------------------------------------------------------------------------

// The kernels of a PUNet in the layouts that the loops above read, for the forward and the backward pass.
struct PUNet {
    const int num_blocks, num_in, num_out, height, width;
    Buffer<float> storage;
    const float *first, *first_back, *last, *last_back;
    std::vector<const float*> depth, depth_back, point, point_back;  // of the separable layers, two a block

    PUNet(const float* weights, int num_blocks, int num_in, int num_out, int height, int width)
        : num_blocks(num_blocks), num_in(num_in), num_out(num_out), height(height), width(width),
          storage(packed_length(num_in, C) + packed_length(num_out, C) + num_blocks * 4 * C * (25 + C)) {
        float* free = storage;
        first = std::exchange(free, pack_expanding(weights, num_in, C, false, free));
        first_back = std::exchange(free, pack_contracting(weights, num_in, C, true, free));
        weights += 9 * C * num_in;
        for (int layer = 0; layer < 2 * num_blocks; ++layer) {
            float* const parts[4] = {free, free + 25 * C, free + 50 * C, free + (50 + C) * C};
            free += 2 * (25 + C) * C;
            for (int c = 0; c < C; ++c)
                for (int tap = 0; tap < 25; ++tap) parts[0][tap * C + c] = parts[1][(24 - tap) * C + c] = *weights++;
            for (int out = 0; out < C; ++out)
                for (int in = 0; in < C; ++in) parts[2][in * C + out] = parts[3][out * C + in] = *weights++;
            depth.push_back(parts[0]), depth_back.push_back(parts[1]), point.push_back(parts[2]), point_back.push_back(parts[3]);
        }
        last = std::exchange(free, pack_contracting(weights, num_out, C, false, free));
        last_back = pack_expanding(weights, num_out, C, true, free) - 9 * C * num_out;
    }
    int num_layers() const { return 1 + 2 * num_blocks; }  // layers with thresholds: all but the last
    size_t num_weights() const { return 9 * C * size_t(num_in + num_out) + size_t(num_blocks) * 2 * C * (25 + C); }
};

// The first convolution of a row and its threshold.
template <int D>
inline void first_layer(const float* const rows[3], int count, int channels, const float* weights, const float* bounds, float* out) {
    expand<D, C>(rows, count, channels, weights, [&](int x, int, const Vector(&sums)[V]) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            store(out + x * C + v * LANES, shrink(sums[v], load(bounds + C + v * LANES), load(bounds + v * LANES)));
    });
}

// The depthwise half of a separable convolution of a row. With dilation, a frame of one pixel around the picture is zero, see
// `SeparableConv`.
template <int D>
inline void separable_start(const float* const rows[5], int y, int height, int width, const float* weights, float* row) {
    if (D > 1 && (y == 0 || y == height - 1)) {
        std::memset(row, 0, size_t(width) * C * sizeof(float));
        return;
    }
    depthwise<D>(rows, width, weights, row);
    if (D > 1) {
        std::memset(row, 0, C * sizeof(float));
        std::memset(row + (width - 1) * C, 0, C * sizeof(float));
    }
}

// The pointwise half, plus `skipped` at the end of a residual block (else null), and the threshold.
inline void separable_end(const float* row, int count, const float* weights, const float* skipped, const float* bounds, float* out) {
    if (skipped)
        pointwise(row, count, weights, [&](int x, const Vector(&sums)[V]) {
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
                store(out + x * C + v * LANES,
                      shrink(sums[v] + load(skipped + x * C + v * LANES), load(bounds + C + v * LANES), load(bounds + v * LANES)));
        });
    else
        pointwise(row, count, weights, [&](int x, const Vector(&sums)[V]) {
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
                store(out + x * C + v * LANES, shrink(sums[v], load(bounds + C + v * LANES), load(bounds + v * LANES)));
        });
}

template <int D>
class PUNetForward {
    const PUNet& net;
    const int width;
    Flow flow;
    Buffer<float> between, bounds;  // a row between depthwise and pointwise; clipping bounds

    static std::vector<Flow::Stage> stages(const PUNet& net) {  // read the input, first convolution, separable ones, last convolution
        std::vector<Flow::Stage> stages{{0, pixel_length(net.num_in), 1}, {D, C, 2}};
        stages.insert(stages.end(), 2 * net.num_blocks, {2 * D, C, 2});
        stages.push_back({D, 0, 0});
        return stages;
    }

   public:
    PUNetForward(const PUNet& net, int width)
        : net(net), width(width), flow(net.height, width, 2 * D, stages(net)), between(size_t(flow.pixels) * C),
          bounds(net.num_layers() * 2 * C) {}

    // Compute rows [top, bottom) and columns [from, to) of one picture, in planes whose rows are `plane_width` long.
    void run(const float* thresholds, const float* in, float* out, int plane_width, int from, int to, int top, int bottom) {
        set_bounds(thresholds, net.num_layers(), C, bounds);
        const size_t plane = size_t(net.height) * plane_width;
        const int in_length = pixel_length(net.num_in), last = net.num_layers() + 1, pad = flow.pad;
        flow.run(top, bottom, [&](int s, int y) {
            const float* rows[5];
            if (s == 0) {
                read_row(in + size_t(y) * plane_width, net.num_in, plane, width, flow.row(0, y) + pad * in_length);
            } else if (s == 1) {
                for (int k = 0; k < 3; ++k) rows[k] = flow.row(0, y + (k - 1) * D) + (pad - D) * in_length;
                first_layer<D>(rows, width, net.num_in, net.first, bounds, flow.row(1, y) + pad * C);
            } else if (s < last) {
                for (int k = 0; k < 5; ++k) rows[k] = flow.row(s - 1, y + (k - 2) * D);
                separable_start<D>(rows, y, net.height, width, net.depth[s - 2], between);
                separable_end(between, width, net.point[s - 2], s % 2 ? flow.row(s - 2, y) + pad * C : nullptr, bounds + (s - 1) * 2 * C,
                              flow.row(s, y) + pad * C);
            } else {
                for (int k = 0; k < 3; ++k) rows[k] = flow.row(s - 1, y + (k - 1) * D) + (pad - D + from) * C;
                float* const planes = out + size_t(y) * plane_width + from;
                contract<D, C>(rows, to - from, net.num_out, net.last,
                               [&](int x, const float* sums) { write_pixel(sums, net.num_out, plane, planes + x); });
            }
        });
    }
};

// The gradients of a net from one picture.
template <int D>
class PUNetBackward {
    const PUNet& net;
    const Frame frame;
    const int width, height, layers, in_length, out_length;
    Buffer<float> memory, in, out_gradient, between, sums, bounds;
    std::vector<float*> activations, depthwise_outputs;  // outputs of the thresholds; outputs of the depthwise convolutions
    float *gradient, *depthwise_gradients[2];            // with respect to an activation; to the depthwise outputs of a block

    // Sums of gradients: first kernel, depthwise and pointwise kernels of each separable layer, last kernel, thresholds.
    float* first_sums() const { return sums; }
    float* depth_sums(int layer) const { return sums + (9 * net.num_in + layer * (25 + C)) * C; }
    float* point_sums(int layer) const { return depth_sums(layer) + 25 * C; }
    float* last_sums() const { return depth_sums(layers); }
    float* threshold_sums(int layer) const { return last_sums() + (9 * net.num_out + layer) * C; }

   public:
    explicit PUNetBackward(const PUNet& net)
        : net(net), frame(net.height, net.width, 2 * D), width(net.width), height(net.height), layers(2 * net.num_blocks),
          in_length(pixel_length(net.num_in)), out_length(pixel_length(net.num_out)), memory((2 * layers + 4) * frame.size(C)),
          in(frame.size(in_length)), out_gradient(frame.size(out_length)), between(size_t(frame.pixels) * C),
          sums(net.num_weights() + net.num_layers() * C), bounds(net.num_layers() * 2 * C) {
        float* free = memory;
        auto take = [&] { return std::exchange(free, free + frame.size(C)); };
        for (int layer = 0; layer <= layers; ++layer) activations.push_back(take());
        for (int layer = 0; layer < layers; ++layer) depthwise_outputs.push_back(take());
        gradient = take(), depthwise_gradients[0] = take(), depthwise_gradients[1] = take();
    }

    void run(const float* thresholds, const float* planes, const float* gradient_planes, float* in_gradient, float* weights_gradient,
             float* thresholds_gradient) {
        set_bounds(thresholds, net.num_layers(), C, bounds);
        std::fill_n(static_cast<float*>(sums), net.num_weights() + net.num_layers() * C, 0.f);
        frame.read(planes, net.num_in, in);
        frame.read(gradient_planes, net.num_out, out_gradient);
        activate();
        back_through_last();
        for (int layer = layers - 2; layer >= 0; layer -= 2) back_through_block(layer);
        back_through_first(in_gradient);
        unpack(weights_gradient, thresholds_gradient);
    }

   private:
    void activate() {
        const float* rows[5];
        for (int y = 0; y < height; ++y) {
            frame.template three<D>(in, y, in_length, rows);
            first_layer<D>(rows, width, net.num_in, net.first, bounds, frame.first(activations[0], y));
        }
        for (int layer = 0; layer < layers; ++layer)
            for (int y = 0; y < height; ++y) {
                frame.template five<D>(activations[layer], y, rows);
                float* const row = frame.first(depthwise_outputs[layer], y);
                separable_start<D>(rows, y, height, width, net.depth[layer], row);
                separable_end(row, width, net.point[layer], layer % 2 ? frame.first(activations[layer - 1], y) : nullptr,
                              bounds + (layer + 1) * 2 * C, frame.first(activations[layer + 1], y));
            }
    }

    void back_through_last() {
        const float* rows[3];
        for (int y = 0; y < height; ++y) {
            frame.template three<D>(out_gradient, y, out_length, rows);
            float* const to = frame.first(gradient, y);
            expand<D, C>(rows, width, net.num_out, net.last_back, [&](int x, int, const Vector(&found)[V]) {
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) store(to + x * C + v * LANES, found[v]);
            });
            few_gradient<D, C>(rows, net.num_out, true, frame.first(activations[layers], y), width, last_sums());
        }
    }

    // Carry a row of the gradient back through the pointwise half of a separable layer.
    void back_through_point(int layer, int y, const float* gradient) {
        const float* scalars[C];
        for (int c = 0; c < C; ++c) scalars[c] = frame.first(depthwise_outputs[layer], y) + c;
        outer(scalars, C, C, gradient, C, width, point_sums(layer));
        float* const to = frame.first(depthwise_gradients[layer % 2], y);
        if (D > 1 && (y == 0 || y == height - 1)) {  // the frame of zeros, see separable_start
            std::memset(to, 0, size_t(width) * C * sizeof(float));
            return;
        }
        pointwise(gradient, width, net.point_back[layer], [&](int x, const Vector(&found)[V]) {
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) store(to + x * C + v * LANES, found[v]);
        });
        if (D > 1) {
            std::memset(to, 0, C * sizeof(float));
            std::memset(to + (width - 1) * C, 0, C * sizeof(float));
        }
    }

    // Carry a row of the gradient back through the depthwise half, into `between`.
    void back_through_depth(int layer, int y) {
        const float* rows[5];
        frame.template five<D>(activations[layer], y, rows);
        depth_gradient<D>(rows, frame.first(depthwise_gradients[layer % 2], y), width, depth_sums(layer));
        frame.template five<D>(depthwise_gradients[layer % 2], y, rows);
        depthwise<D>(rows, width, net.depth_back[layer], between);
    }

    void back_through_block(int layer) {  // the separable layers `layer` and `layer + 1`
        for (int y = 0; y < height; ++y) {
            through_threshold<C>(frame.first(activations[layer + 2], y), width, frame.first(gradient, y), threshold_sums(layer + 2));
            back_through_point(layer + 1, y, frame.first(gradient, y));
        }
        for (int y = 0; y < height; ++y) {
            back_through_depth(layer + 1, y);
            through_threshold<C>(frame.first(activations[layer + 1], y), width, between, threshold_sums(layer + 1));
            back_through_point(layer, y, between);
        }
        for (int y = 0; y < height; ++y) {
            back_through_depth(layer, y);
            float *const skipped = frame.first(gradient, y), *const inner = between;
            for (int i = 0; i < width * C; i += LANES) store(skipped + i, load(skipped + i) + load(inner + i));
        }
    }

    void back_through_first(float* planes) {
        const float* rows[3];
        for (int y = 0; y < height; ++y) {
            through_threshold<C>(frame.first(activations[0], y), width, frame.first(gradient, y), threshold_sums(0));
            frame.template three<D>(in, y, in_length, rows);
            few_gradient<D, C>(rows, net.num_in, false, frame.first(gradient, y), width, first_sums());
        }
        for (int y = 0; y < height; ++y) {
            frame.template three<D>(gradient, y, C, rows);
            float* const to = planes + size_t(y) * width;
            contract<D, C>(rows, width, net.num_in, net.first_back,
                           [&](int x, const float* found) { write_pixel(found, net.num_in, frame.plane(), to + x); });
        }
    }

    void unpack(float* weights, float* thresholds) {
        weights = unpack_gradient(first_sums(), net.num_in, C, false, weights);
        for (int layer = 0; layer < layers; ++layer) {
            for (int c = 0; c < C; ++c)
                for (int tap = 0; tap < 25; ++tap) *weights++ = depth_sums(layer)[tap * C + c];
            for (int to = 0; to < C; ++to)
                for (int from = 0; from < C; ++from) *weights++ = point_sums(layer)[from * C + to];
        }
        unpack_gradient(last_sums(), net.num_out, C, true, weights);
        std::copy_n(threshold_sums(0), net.num_layers() * C, thresholds);
    }
};

// ---- CLISTA ---------------------------------------------------------------------------------------------------------------------------

constexpr int ATOMS = 64;  // features of CLISTA

struct Clista {
    const int num_layers, channels, height, width;
    Buffer<float> storage;
    const float *analyse, *analyse_back, *synthesise, *synthesise_back;

    Clista(const float* weights, int num_layers, int channels, int height, int width)
        : num_layers(num_layers), channels(channels), height(height), width(width), storage(2 * packed_length(channels, ATOMS)) {
        float* free = storage;
        analyse = std::exchange(free, pack_expanding(weights, channels, ATOMS, false, free));
        analyse_back = std::exchange(free, pack_contracting(weights, channels, ATOMS, true, free));
        weights += 9 * ATOMS * channels;
        synthesise = std::exchange(free, pack_contracting(weights, channels, ATOMS, false, free));
        synthesise_back = pack_expanding(weights, channels, ATOMS, true, free) - 9 * ATOMS * channels;
    }
    size_t num_weights() const { return 2 * 9 * ATOMS * size_t(channels); }
};

// A row of g_0 = A z, or of g_t = S_t(g_{t-1} + A r_t), where `before` is the row of g_{t-1}. The names are those of `CLISTA`.
inline void analyse_row(const Clista& net, const float* const rows[3], const float* before, const float* bounds, float* out, int count) {
    if (before)
        expand<1, ATOMS>(rows, count, net.channels, net.analyse, [&](int x, int part, const Vector(&sums)[V]) {
            const int at = x * ATOMS + part;
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
                store(out + at + v * LANES, shrink(sums[v] + load(before + at + v * LANES), load(bounds + ATOMS + part + v * LANES),
                                                   load(bounds + part + v * LANES)));
        });
    else
        expand<1, ATOMS>(rows, count, net.channels, net.analyse, [&](int x, int part, const Vector(&sums)[V]) {
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) store(out + x * ATOMS + part + v * LANES, sums[v]);
        });
}

// A row of the residual r_t = z - S g_{t-1}.
inline void residual_row(const Clista& net, const float* const rows[3], const float* z, float* out, int count) {
    const int length = pixel_length(net.channels);
    contract<1, ATOMS>(rows, count, net.channels, net.synthesise, [&](int x, const float* sums) {
        for (int c = 0; c < net.channels; ++c) out[x * length + c] = z[x * length + c] - sums[c];
    });
}

class ClistaForward {
    static constexpr int PAD = 1;
    const Clista& net;
    const int width;
    Flow flow;
    Buffer<float> bounds;

    static std::vector<Flow::Stage> stages(const Clista& net) {  // read z, g_0, r_1, g_1, r_2, g_2, ..., the output
        const int length = pixel_length(net.channels);
        std::vector<Flow::Stage> stages{{0, length, 2 * net.num_layers}, {1, ATOMS, 2}};
        for (int t = 0; t < net.num_layers; ++t) stages.insert(stages.end(), {{1, length, 1}, {1, ATOMS, 2}});
        stages.push_back({1, 0, 0});
        return stages;
    }

   public:
    ClistaForward(const Clista& net, int width)
        : net(net), width(width), flow(net.height, width, PAD, stages(net)), bounds(net.num_layers * 2 * ATOMS) {}

    void run(const float* thresholds, const float* in, float* out, int plane_width, int from, int to, int top, int bottom) {
        set_bounds(thresholds, net.num_layers, ATOMS, bounds);
        const size_t plane = size_t(net.height) * plane_width;
        const int length = pixel_length(net.channels), last = 2 * net.num_layers + 2;
        flow.run(top, bottom, [&](int s, int y) {
            const float* rows[3];
            if (s == 0) {
                read_row(in + size_t(y) * plane_width, net.channels, plane, width, flow.row(0, y) + PAD * length);
                return;
            }
            for (int k = 0; k < 3; ++k) rows[k] = flow.row(s - 1, y + k - 1);
            if (s == last) {
                for (auto& row : rows) row += from * ATOMS;
                float* const planes = out + size_t(y) * plane_width + from;
                contract<1, ATOMS>(rows, to - from, net.channels, net.synthesise,
                                   [&](int x, const float* sums) { write_pixel(sums, net.channels, plane, planes + x); });
            } else if (s % 2) {
                analyse_row(net, rows, s > 1 ? flow.row(s - 2, y) + PAD * ATOMS : nullptr, bounds + (s / 2 - 1) * 2 * ATOMS,
                            flow.row(s, y) + PAD * ATOMS, width);
            } else {
                residual_row(net, rows, flow.row(0, y) + PAD * length, flow.row(s, y) + PAD * length, width);
            }
        });
    }
};

class ClistaBackward {
    const Clista& net;
    const Frame frame;
    const int width, height, length;
    Buffer<float> memory, sums, bounds;
    std::vector<float*> g, r;            // r[0] is z
    float *gradient, *next;              // gradients with respect to g_t
    float *out_gradient, *back, *total;  // with respect to the output, to S g_{t-1}, and to z

    float* synthesise_sums() const { return sums + 9 * ATOMS * net.channels; }
    float* threshold_sums(int layer) const { return sums + net.num_weights() + layer * ATOMS; }

   public:
    explicit ClistaBackward(const Clista& net)
        : net(net), frame(net.height, net.width, 1), width(net.width), height(net.height), length(pixel_length(net.channels)),
          memory((net.num_layers + 3) * frame.size(ATOMS) + (net.num_layers + 4) * frame.size(FEW)),
          sums(net.num_weights() + net.num_layers * ATOMS), bounds(net.num_layers * 2 * ATOMS) {
        float* free = memory;
        auto take = [&](int numbers) { return std::exchange(free, free + frame.size(numbers)); };
        for (int t = 0; t <= net.num_layers; ++t) g.push_back(take(ATOMS)), r.push_back(take(FEW));
        gradient = take(ATOMS), next = take(ATOMS), out_gradient = take(FEW), back = take(FEW), total = take(FEW);
    }

    void run(const float* thresholds, const float* planes, const float* gradient_planes, float* in_gradient, float* weights_gradient,
             float* thresholds_gradient) {
        set_bounds(thresholds, net.num_layers, ATOMS, bounds);
        std::fill_n(static_cast<float*>(sums), net.num_weights() + net.num_layers * ATOMS, 0.f);
        std::fill_n(total, frame.size(length), 0.f);
        frame.read(planes, net.channels, r[0]);
        frame.read(gradient_planes, net.channels, out_gradient);
        activate();
        back_through_synthesis(out_gradient, net.num_layers, nullptr);
        for (int t = net.num_layers; t > 0; --t) back_through_layer(t);
        back_through_first(in_gradient);
        weights_gradient = unpack_gradient(sums, net.channels, ATOMS, false, weights_gradient);
        unpack_gradient(synthesise_sums(), net.channels, ATOMS, true, weights_gradient);
        std::copy_n(threshold_sums(0), net.num_layers * ATOMS, thresholds_gradient);
    }

   private:
    void activate() {
        const float* rows[3];
        for (int t = 0; t <= net.num_layers; ++t) {
            for (int y = 0; t > 0 && y < height; ++y) {
                frame.three<1>(g[t - 1], y, ATOMS, rows);
                residual_row(net, rows, frame.first(r[0], y, length), frame.first(r[t], y, length), width);
            }
            for (int y = 0; y < height; ++y) {
                frame.three<1>(r[t], y, length, rows);
                analyse_row(net, rows, t > 0 ? frame.first(g[t - 1], y, ATOMS) : nullptr, bounds + (t - 1) * 2 * ATOMS,
                            frame.first(g[t], y, ATOMS), width);
            }
        }
    }

    // Carry the gradient `by` of S g_t back to g_t, into `gradient`. `besides` is the gradient that reaches g_t on other paths, or null.
    void back_through_synthesis(float* by, int t, float* besides) {
        const float* rows[3];
        for (int y = 0; y < height; ++y) {
            frame.three<1>(by, y, length, rows);
            float* const to = frame.first(gradient, y, ATOMS);
            const float* const other = besides ? frame.first(besides, y, ATOMS) : nullptr;
            expand<1, ATOMS>(rows, width, net.channels, net.synthesise_back, [&](int x, int part, const Vector(&found)[V]) {
                const int at = x * ATOMS + part;
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) store(to + at + v * LANES, other ? found[v] + load(other + at + v * LANES) : found[v]);
            });
            few_gradient<1, ATOMS>(rows, net.channels, true, frame.first(g[t], y, ATOMS), width, synthesise_sums());
        }
    }

    // Carry the gradient of A r_t back to r_t. Its negative goes into `back`; the gradient itself is added to `total`.
    void back_through_analysis(int t) {
        const float* rows[3];
        for (int y = 0; y < height; ++y) {
            frame.three<1>(r[t], y, length, rows);
            few_gradient<1, ATOMS>(rows, net.channels, false, frame.first(gradient, y, ATOMS), width, sums);
            frame.three<1>(gradient, y, ATOMS, rows);
            float *const to = frame.first(back, y, length), *const all = frame.first(total, y, length);
            contract<1, ATOMS>(rows, width, net.channels, net.analyse_back, [&](int x, const float* found) {
                for (int c = 0; c < net.channels; ++c) to[x * length + c] = -found[c];
            });
            for (int i = 0; i < width * length; ++i) all[i] -= to[i];
        }
    }

    void back_through_layer(int t) {  // g_t = S_t(g_{t-1} + A (z - S g_{t-1}))
        for (int y = 0; y < height; ++y)
            through_threshold<ATOMS>(frame.first(g[t], y, ATOMS), width, frame.first(gradient, y, ATOMS), threshold_sums(t - 1));
        back_through_analysis(t);
        std::swap(gradient, next);
        back_through_synthesis(back, t - 1, next);
    }

    void back_through_first(float* planes) {
        back_through_analysis(0);
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x)
                write_pixel(frame.first(total, y, length) + x * length, net.channels, frame.plane(), planes + size_t(y) * width + x);
    }
};

// ---- Over a batch ---------------------------------------------------------------------------------------------------------------------

// Run the forward pass of every picture. Wide pictures are split into strips of columns, and into bands of rows if there are more threads
// than pictures. make(width of a strip) gives a worker with the `run` of PUNetForward.
template <class Make>
void forward(const float* in, float* out, const float* thresholds, int num_thresholds, int batch, int height, int width, int num_in,
             int num_out, int radius, int threads, Make&& make) {
    const size_t plane = size_t(height) * width;
    const int bands = batch >= threads ? 1 : std::max(1, std::min(threads, height / 32)), strips = divide_up(width, STRIP_WIDTH);
    parallel(batch * bands, threads, [&](int first, int stride) {
        for (int strip = 0; strip < strips; ++strip) {
            const int left = int(size_t(width) * strip / strips), right = int(size_t(width) * (strip + 1) / strips);
            const int begin = std::max(0, left - radius), end = std::min(width, right + radius);
            auto worker = make(end - begin);
            for (int task = first; task < batch * bands; task += stride) {
                const size_t picture = task / bands, band = task % bands;
                worker.run(thresholds + picture * num_thresholds, in + picture * num_in * plane + begin, out + picture * num_out * plane + begin,
                           width, left - begin, right - begin, int(height * band / bands), int(height * (band + 1) / bands));
            }
        }
    });
}

// Run the backward pass of every picture, with workers from make(). The weights' gradients are kept for each picture and added in order, so
// the sum is the same for any number of threads.
template <class Make>
void backward(const float* in, const float* out_gradient, float* in_gradient, const float* thresholds, float* weights_gradient,
              float* thresholds_gradient, size_t num_weights, int num_thresholds, int batch, int height, int width, int num_in, int num_out,
              int threads, Make&& make) {
    const size_t plane = size_t(height) * width;
    std::vector<float> found(batch * num_weights);
    parallel(batch, threads, [&](int first, int stride) {
        auto worker = make();
        for (size_t picture = first; picture < size_t(batch); picture += stride)
            worker.run(thresholds + picture * num_thresholds, in + picture * num_in * plane, out_gradient + picture * num_out * plane,
                       in_gradient + picture * num_in * plane, found.data() + picture * num_weights,
                       thresholds_gradient + picture * num_thresholds);
    });
    std::fill_n(weights_gradient, num_weights, 0.f);
    for (int picture = 0; picture < batch; ++picture)
        for (size_t i = 0; i < num_weights; ++i) weights_gradient[i] += found[picture * num_weights + i];
}

}  // namespace

extern "C" {

// in (batch, num_in, height, width) -> out (batch, num_out, height, width). weights: every kernel in the order of the layers, depthwise
// before pointwise. thresholds (batch, 1 + 2 num_blocks, 32).
void punet_forward(const float* in, float* out, const float* weights, const float* thresholds, int batch, int height, int width,
                   int num_blocks, int num_in, int num_out, int dilation, int threads) {
    const PUNet net(weights, num_blocks, num_in, num_out, height, width);
    const int radius = dilation * (2 + 4 * num_blocks), num_thresholds = net.num_layers() * C;
    auto run = [&](auto make) {
        forward(in, out, thresholds, num_thresholds, batch, height, width, num_in, num_out, radius, threads, make);
    };
    dilation == 1 ? run([&](int part) { return PUNetForward<1>(net, part); }) : run([&](int part) { return PUNetForward<2>(net, part); });
}

// From the gradient of a loss with respect to the output, its gradients with respect to input, weights and thresholds, in their shapes.
void punet_backward(const float* in, const float* out_gradient, float* in_gradient, const float* weights, const float* thresholds,
                    float* weights_gradient, float* thresholds_gradient, int batch, int height, int width, int num_blocks, int num_in,
                    int num_out, int dilation, int threads) {
    const PUNet net(weights, num_blocks, num_in, num_out, height, width);
    auto run = [&](auto make) {
        backward(in, out_gradient, in_gradient, thresholds, weights_gradient, thresholds_gradient, net.num_weights(), net.num_layers() * C,
                 batch, height, width, num_in, num_out, threads, make);
    };
    dilation == 1 ? run([&] { return PUNetBackward<1>(net); }) : run([&] { return PUNetBackward<2>(net); });
}

// in, out (batch, channels, height, width). weights: the kernels of A and S. thresholds (batch, num_layers, 64).
void clista_forward(const float* in, float* out, const float* weights, const float* thresholds, int batch, int height, int width,
                    int num_layers, int channels, int threads) {
    const Clista net(weights, num_layers, channels, height, width);
    forward(in, out, thresholds, num_layers * ATOMS, batch, height, width, channels, channels, 2 * num_layers + 2, threads,
            [&](int part) { return ClistaForward(net, part); });
}

void clista_backward(const float* in, const float* out_gradient, float* in_gradient, const float* weights, const float* thresholds,
                     float* weights_gradient, float* thresholds_gradient, int batch, int height, int width, int num_layers, int channels,
                     int threads) {
    const Clista net(weights, num_layers, channels, height, width);
    backward(in, out_gradient, in_gradient, thresholds, weights_gradient, thresholds_gradient, net.num_weights(), num_layers * ATOMS, batch,
             height, width, channels, channels, threads, [&] { return ClistaBackward(net); });
}
}
