// LiftingNet (lib/invdenoise/layers/lifting.py) in bfloat16, on the matrix units of x86 processors (AMX). Sums are float32.
//
// A net is a chain of 3x3 convolutions with at most 16 channels. A soft-threshold follows every convolution but the last. PyTorch runs the
// layers one by one. Each is a pass over memory, and a third of the time goes into rearranging 16 channels for units made for 64. Here a
// pixel is 16 bfloat16 values in a row, so two neighbouring pixels are one 64-byte row of an AMX tile. A convolution is six tile products
// without rearrangement: for each kernel row, columns 0 and 1 together, then column 2 alone. A chain stays in the level-2 cache.
//
//   forward    Rows of the picture flow through all layers together. Each layer keeps three rows.
//   backward   One picture (a training patch) at a time: the forward pass again with its activations kept, then gradients from the last
//              layer to the first.
//
// Weights, thresholds, inputs and all results are float32. Activations and their gradients are bfloat16 in between.
#include "common.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

namespace {

using bf16 = uint16_t;
constexpr int C = 16;                       // channels of a pixel; missing ones are zero
constexpr int PART = 256;                   // pixels summed together into a kernel's gradient; they fit the level-1 cache
constexpr int SPARE = PART + 32;            // pixels past the end of a row or picture that whole blocks may read or write
constexpr size_t SMALL_PICTURE = 64 * 64;   // pixels; the activations of all layers then fit the level-2 cache
constexpr int TILE = 16 * 32;               // bfloat16 values of one AMX tile
constexpr int KERNEL = 6 * TILE;            // values of a packed kernel: three rows, two pairs of columns

// The smallest length, at least `length`, for which an address `ahead` values into the next of two adjacent buffers lies a multiple of 4
// KiB after the start of the first. A load stalls on an earlier store whose address has the same last 12 bits. With this length, reads and
// writes that advance together never collide.
size_t in_phase(size_t length, size_t ahead) {
    constexpr size_t PAGE = 4096 / sizeof(bf16);
    return (length + ahead + PAGE - 1) / PAGE * PAGE - ahead;
}

// The layout of the eight tile registers, as the processor reads it: 16 rows of 64 bytes each.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Switches the tile registers of a thread on, and off at the end of its scope.
struct TileRegisters {
    TileRegisters() {
        const TileConfig config;
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
};

bf16 round_to_bf16(float x) { return static_cast<bf16>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0)); }

// Pack a kernel (out, in, 3, 3) as the right-hand tiles of the six products. Entry (k, n) of a product lies at [k/2][2n + k%2], where
// k = 16 * column + input channel. `transposed` packs the kernel that carries gradients back: turned, with in and out swapped.
void pack(const float* kernel, int num_in, int num_out, bool transposed, bf16* packed) {
    std::memset(packed, 0, KERNEL * sizeof(bf16));
    for (int out = 0; out < num_out; ++out)
        for (int in = 0; in < num_in; ++in)
            for (int row = 0; row < 3; ++row)
                for (int column = 0; column < 3; ++column) {
                    const bf16 value = round_to_bf16(kernel[((out * num_in + in) * 3 + row) * 3 + column]);
                    const int r = transposed ? 2 - row : row, c = transposed ? 2 - column : column;
                    const int k = (c % 2) * C + (transposed ? out : in), n = transposed ? in : out;
                    packed[(r * 2 + c / 2) * TILE + (k / 2) * 32 + 2 * n + k % 2] = value;
                }
}

// Convolve BLOCKS x 16 neighbouring pixels into `sums` [16 * BLOCKS][16]. rows[0..2] start one pixel to the left of the first.
template <int BLOCKS>
inline void convolve_block(const bf16* const rows[3], size_t at, const bf16* packed, float* sums) {
    _tile_zero(0);
    if constexpr (BLOCKS > 1) {
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
#pragma GCC unroll 6
    for (int product = 0; product < 6; ++product) {
        const bf16* pixels = rows[product / 2] + (at + product % 2 * 2) * C;
        _tile_loadd(7, packed + product * TILE, 64);
        _tile_loadd(4, pixels, C * 2);
        _tile_dpbf16ps(0, 4, 7);
        if constexpr (BLOCKS > 1) {
            _tile_loadd(5, pixels + 16 * C, C * 2);
            _tile_dpbf16ps(1, 5, 7);
            _tile_loadd(6, pixels + 32 * C, C * 2);
            _tile_dpbf16ps(2, 6, 7);
            _tile_loadd(4, pixels + 48 * C, C * 2);
            _tile_dpbf16ps(3, 4, 7);
        }
    }
    _tile_stored(0, sums, 64);
    if constexpr (BLOCKS > 1) {
        _tile_stored(1, sums + 256, 64);
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
    }
}

// Convolve `count` neighbouring pixels, block by block, and call emit(sums, first pixel, number of pixels). The number is a multiple of 16,
// so the last block may pass the end.
template <class Emit>
inline void convolve(const bf16* const rows[3], int count, const bf16* packed, Emit&& emit) {
    alignas(64) float sums[64 * C];
    int at = 0;
    for (; at + 64 <= count; at += 64) {
        convolve_block<4>(rows, at, packed, sums);
        emit(sums, at, 64);
    }
    for (; at < count; at += 16) {
        convolve_block<1>(rows, at, packed, sums);
        emit(sums, at, 16);
    }
}

inline __m512i pair_to_bf16(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// Soft-threshold, as x - clip(x).
inline void shrink(const float* sums, int count, __m512 threshold, bf16* out) {
    const __m512 below = _mm512_sub_ps(_mm512_setzero_ps(), threshold);
    for (int i = 0; i < count; i += 2) {
        __m512 a = _mm512_load_ps(sums + i * C), b = _mm512_load_ps(sums + (i + 1) * C);
        a = _mm512_sub_ps(a, _mm512_max_ps(_mm512_min_ps(a, threshold), below));
        b = _mm512_sub_ps(b, _mm512_max_ps(_mm512_min_ps(b, threshold), below));
        _mm512_storeu_si512(out + i * C, pair_to_bf16(a, b));
    }
}

// Read one row of planes (channels, height, width) as pixels.
inline void read_row(const float* planes, int channels, size_t plane, int width, bf16* pixels) {
    for (int x = 0; x < width; ++x)
        for (int c = 0; c < channels; ++c) pixels[x * C + c] = round_to_bf16(planes[c * plane + x]);
}

struct Net {
    int num_layers, num_in, num_out, num_features;
    const float* thresholds;  // (num_layers - 1, num_features)
    std::vector<bf16> storage;
    std::vector<size_t> offsets;  // where each layer's kernel starts in the flat weights
    bf16 *forward_kernels, *backward_kernels;

    int channels_in(int layer) const { return layer == 0 ? num_in : num_features; }
    int channels_out(int layer) const { return layer == num_layers - 1 ? num_out : num_features; }

    Net(const float* weights, const float* thresholds, int num_layers, int num_in, int num_out, int num_features, bool backward)
        : num_layers(num_layers), num_in(num_in), num_out(num_out), num_features(num_features), thresholds(thresholds),
          storage((backward ? 2 : 1) * num_layers * KERNEL + 32) {
        const auto address = reinterpret_cast<uintptr_t>(storage.data());
        forward_kernels = reinterpret_cast<bf16*>((address + 63) / 64 * 64);
        backward_kernels = forward_kernels + num_layers * KERNEL;
        size_t offset = 0;
        for (int layer = 0; layer < num_layers; ++layer) {
            offsets.push_back(offset);
            const int in = channels_in(layer), out = channels_out(layer);
            pack(weights + offset, in, out, false, forward_kernels + layer * KERNEL);
            if (backward) pack(weights + offset, in, out, true, backward_kernels + layer * KERNEL);
            offset += size_t(in) * out * 9;
        }
        offsets.push_back(offset);
    }
    __m512 threshold(int layer) const {
        return _mm512_maskz_loadu_ps((1u << num_features) - 1, thresholds + layer * num_features);
    }
};

// Compute rows [top, bottom) of one picture. In each step layer l works l + 1 rows above the newest input row, so the three rows it reads
// are ready.
void forward_band(const Net& net, const float* in, float* out, int height, int width, int top, int bottom) {
    const size_t plane = size_t(height) * width, row_length = in_phase(size_t(width + 2 + SPARE) * C, 0);
    const int last = net.num_layers;
    Buffer<bf16> memory((size_t(last) * 3 + 1) * row_length);
    bf16* const zeros = memory + size_t(last) * 3 * row_length;
    auto ring = [&](int layer, int row) {  // a row of the layer's input
        return row < 0 || row >= height ? zeros : memory + (size_t(layer) * 3 + row % 3) * row_length;
    };
    for (int input = std::max(0, top - last); input < bottom + last; ++input) {
        if (input < height) read_row(in + size_t(input) * width, net.num_in, plane, width, ring(0, input) + C);
        for (int layer = 0; layer < last; ++layer) {
            const int row = input - 1 - layer, margin = last - 1 - layer;
            if (row < std::max(0, top - margin) || row >= std::min(height, bottom + margin)) continue;
            const bf16* const rows[3] = {ring(layer, row - 1), ring(layer, row), ring(layer, row + 1)};
            const bf16* const packed = net.forward_kernels + layer * KERNEL;
            if (layer < last - 1) {
                bf16* const to = ring(layer + 1, row) + C;
                const __m512 threshold = net.threshold(layer);
                convolve(rows, width, packed, [&](const float* sums, int at, int count) {
                    shrink(sums, count, threshold, to + size_t(at) * C);
                });
                std::memset(to + size_t(width) * C, 0, C * sizeof(bf16));  // the border at the right
            } else {
                float* const to = out + size_t(row) * width;
                convolve(rows, width, packed, [&](const float* sums, int at, int count) {
                    for (int i = 0; i < std::min(count, width - at); ++i)
                        for (int c = 0; c < net.num_out; ++c) to[c * plane + at + i] = sums[i * C + c];
                });
            }
        }
    }
}

// The order that turns two pixels into 16 pairs: a tile product sums over pairs of neighbours in memory.
alignas(64) const uint16_t INTERLEAVE[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

inline __m512i interleave(__m512i pair) { return _mm512_permutexvar_epi16(_mm512_load_si512(INTERLEAVE), pair); }

// Transpose 32 pixels of 16 channels to a tile of 16 rows of 32 pixels: interleave pairs of pixels, then transpose the 16 x 16 pairs.
inline void transpose(const bf16* pixels, bf16* tile) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = interleave(_mm512_loadu_si512(pixels + i * 32));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        _mm512_store_si512(tile + i * 32, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(tile + (i + 8) * 32, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
        _mm512_store_si512(tile + (i + 4) * 32, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
        _mm512_store_si512(tile + (i + 12) * 32, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
    }
}

// One small picture, layer by layer. It is stored with a border of one zero pixel and without gaps between rows, so one run of pixels
// covers it. Pixel q of the run lies at q + centre, and the first tap of its kernel at q.
struct Picture {
    const Net& net;
    int height, width;
    size_t plane, stride, run, centre, length, layer_length;
    Buffer<bf16> activations;

    Picture(const Net& net, int height, int width)
        : net(net), height(height), width(width), plane(size_t(height) * width), stride(width + 2), run(height * stride),
          centre(stride + 1), length((height + 2) * stride + SPARE + 32), layer_length(in_phase(length * C, centre * C)),
          activations(net.num_layers * layer_length) {}

    bf16* activation(int layer) { return activations + layer * layer_length; }  // the input of a layer

    void read(const float* planes, int channels, bf16* pixels) {
        for (int y = 0; y < height; ++y)
            read_row(planes + size_t(y) * width, channels, plane, width, pixels + ((y + 1) * stride + 1) * C);
    }

    // `convolve` over the whole picture, whose first row above starts at `pixels`.
    template <class Emit>
    void convolve_all(const bf16* pixels, const bf16* packed, Emit&& emit) {
        const bf16* const rows[3] = {pixels, pixels + stride * C, pixels + 2 * stride * C};
        convolve(rows, run, packed, emit);
    }

    void convolve_to_planes(const bf16* pixels, const bf16* packed, int channels, float* planes) {
        convolve_all(pixels, packed, [&](const float* sums, int at, int count) {
            int y = at / int(stride), x = at % int(stride);
            for (int i = 0; i < count; ++i) {
                if (y < height && x < width)
                    for (int c = 0; c < channels; ++c) planes[c * plane + size_t(y) * width + x] = sums[i * C + c];
                if (++x == int(stride)) x = 0, ++y;
            }
        });
    }

    void activate(const float* in) {
        read(in, net.num_in, activation(0));
        for (int layer = 0; layer + 1 < net.num_layers; ++layer) {
            bf16* const to = activation(layer + 1);
            const __m512 threshold = net.threshold(layer);
            convolve_all(activation(layer), net.forward_kernels + layer * KERNEL, [&](const float* sums, int at, int count) {
                shrink(sums, count, threshold, to + (centre + at) * C);
            });
            for (int y = 1; y <= height; ++y)  // the run also wrote the borders: right of this row, left of the next
                std::memset(to + ((y + 1) * stride - 1) * C, 0, 2 * C * sizeof(bf16));
            std::memset(to + (height + 1) * stride * C, 0, 32 * C * sizeof(bf16));
        }
    }

    void forward(const float* in, float* out) {
        activate(in);
        const int last = net.num_layers - 1;
        convolve_to_planes(activation(last), net.forward_kernels + last * KERNEL, net.num_out, out);
    }
};

// The gradients of a net, summed over the pictures of one thread.
struct Backward : Picture {
    Buffer<bf16> gradients;              // with respect to each activation and the output
    Buffer<bf16> even, odd, transposed;  // see `kernel_gradient`
    Buffer<float> kernels;               // sums (layer, tap, out, in)
    Buffer<float> thresholds;            // sums (layer, channel)

    Backward(const Net& net, int height, int width)
        : Picture(net, height, width), gradients((net.num_layers + 1) * layer_length), even((PART + 2 * stride + 4) * C),
          odd((PART + 2 * stride + 4) * C), transposed(PART * C), kernels(net.num_layers * 9 * C * C), thresholds(net.num_layers * C) {}

    // Add a layer's kernel gradient to the sums: products of the gradient of its output and its input, tap by tap. The input is copied in
    // pairs of pixels twice, with pairs that start at even and at odd pixels. The tile of every tap is then contiguous. Works on a part of
    // the run at a time, so that all of it stays in the level-1 cache.
    void kernel_gradient(int layer, const bf16* gradient) {
        float* const sums = kernels + layer * 9 * C * C;
        for (size_t start = 0; start < run; start += PART) {
            const size_t end = std::min(start + PART, run);
            const bf16* const from = activation(layer) + start * C;
            for (size_t at = 0; at < PART + 2 * stride + 2; at += 2) {
                _mm512_store_si512(even + at * C, interleave(_mm512_loadu_si512(from + at * C)));
                _mm512_store_si512(odd + at * C, interleave(_mm512_loadu_si512(from + (at + 1) * C)));
            }
            for (size_t at = start; at < end; at += 32)
                transpose(gradient + (centre + at) * C, transposed + (at - start) * C);
            for (int row = 0; row < 3; ++row) {
                const bf16* taps[3];
                for (int column = 0; column < 3; ++column) {
                    const size_t shift = row * stride + column;
                    taps[column] = (shift % 2 ? odd : even) + shift / 2 * 2 * C;
                }
                _tile_loadd(0, sums + (3 * row) * C * C, 64);
                _tile_loadd(1, sums + (3 * row + 1) * C * C, 64);
                _tile_loadd(2, sums + (3 * row + 2) * C * C, 64);
                for (size_t at = 0; at < (end - start) * C; at += 32 * C) {
                    _tile_loadd(7, transposed + at, 64);
                    _tile_loadd(3, taps[0] + at, 64);
                    _tile_dpbf16ps(0, 7, 3);
                    _tile_loadd(4, taps[1] + at, 64);
                    _tile_dpbf16ps(1, 7, 4);
                    _tile_loadd(5, taps[2] + at, 64);
                    _tile_dpbf16ps(2, 7, 5);
                }
                _tile_stored(0, sums + (3 * row) * C * C, 64);
                _tile_stored(1, sums + (3 * row + 1) * C * C, 64);
                _tile_stored(2, sums + (3 * row + 2) * C * C, 64);
            }
        }
    }

    void backward(const float* in, const float* out_gradient, float* in_gradient) {
        activate(in);
        bf16* now = gradients;
        read(out_gradient, net.num_out, now);
        for (int layer = net.num_layers - 1; layer >= 0; --layer) {
            kernel_gradient(layer, now);
            const bf16* const packed = net.backward_kernels + layer * KERNEL;
            if (layer == 0) {
                convolve_to_planes(now, packed, net.num_in, in_gradient);
                break;
            }
            // Through the soft-threshold: the gradient stops where its output is zero, which includes the border. The threshold itself
            // receives minus the sign of the output, times the gradient.
            const bf16* const shrunk = activation(layer);
            bf16* const next = now + layer_length;
            __m512 sum_a = _mm512_setzero_ps(), sum_b = sum_a;
            const __m512i magnitude = _mm512_set1_epi16(0x7fff), sign = _mm512_set1_epi32(int(0x80000000u));
            convolve_all(now, packed, [&](const float* sums, int at, int count) {
                for (int i = 0; i < count; i += 2) {
                    const __m512i value = _mm512_loadu_si512(shrunk + (centre + at + i) * C);
                    const __mmask32 passes = _mm512_test_epi16_mask(value, magnitude);
                    const __m512 a = _mm512_maskz_load_ps(__mmask16(passes), sums + i * C);
                    const __m512 b = _mm512_maskz_load_ps(__mmask16(passes >> 16), sums + (i + 1) * C);
                    const __m512i low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(value)), 16);
                    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(value, 1)), 16);
                    sum_a = _mm512_sub_ps(sum_a, _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_and_si512(low, sign))));
                    sum_b = _mm512_sub_ps(sum_b, _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(b), _mm512_and_si512(high, sign))));
                    _mm512_storeu_si512(next + (centre + at + i) * C, pair_to_bf16(a, b));
                }
            });
            float* const total = thresholds + (layer - 1) * C;
            _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), _mm512_add_ps(sum_a, sum_b)));
            now = next;
        }
    }
};

}  // namespace

extern "C" {

// 1 if the processor has AMX and the system lets this process use it.
int available() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw")) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

// in (batch, num_in, height, width) -> out (batch, num_out, height, width). weights: every kernel (out, in, 3, 3), one after another.
// thresholds (num_layers - 1, num_features). num_layers counts convolutions.
void lifting_net_forward(const float* in, float* out, const float* weights, const float* thresholds, int batch, int height, int width,
                         int num_layers, int num_in, int num_out, int num_features, int threads) {
    const Net net(weights, thresholds, num_layers, num_in, num_out, num_features, false);
    const size_t plane = size_t(height) * width;
    if (plane <= SMALL_PICTURE) {
        parallel(batch, threads, [&](int first, int stride) {
            const TileRegisters tiles;
            Picture picture(net, height, width);
            for (int task = first; task < batch; task += stride)
                picture.forward(in + task * num_in * plane, out + task * num_out * plane);
        });
        return;
    }
    const int bands = batch >= threads ? 1 : std::max(1, std::min(threads, height / 32));
    parallel(batch * bands, threads, [&](int first, int stride) {
        const TileRegisters tiles;
        for (int task = first; task < batch * bands; task += stride) {
            const int picture = task / bands, band = task % bands;
            forward_band(net, in + picture * num_in * plane, out + picture * num_out * plane, height, width,
                         height * band / bands, height * (band + 1) / bands);
        }
    });
}

// From the gradient of a loss with respect to the output, its gradients with respect to input, weights and thresholds, in their shapes.
void lifting_net_backward(const float* in, const float* out_gradient, float* in_gradient, const float* weights,
                          const float* thresholds, float* weights_gradient, float* thresholds_gradient, int batch, int height,
                          int width, int num_layers, int num_in, int num_out, int num_features, int threads) {
    const Net net(weights, thresholds, num_layers, num_in, num_out, num_features, true);
    const size_t plane = size_t(height) * width;
    std::vector<std::unique_ptr<Backward>> workers(std::max(1, std::min(threads, batch)));
    parallel(batch, threads, [&](int first, int stride) {
        const TileRegisters tiles;
        workers[first] = std::make_unique<Backward>(net, height, width);
        for (int picture = first; picture < batch; picture += stride)
            workers[first]->backward(in + picture * num_in * plane, out_gradient + picture * num_out * plane,
                                     in_gradient + picture * num_in * plane);
    });
    std::fill_n(weights_gradient, net.offsets.back(), 0.f);
    std::fill_n(thresholds_gradient, (num_layers - 1) * num_features, 0.f);
    for (const auto& worker : workers)
        for (int layer = 0; layer < num_layers; ++layer) {
            const int num_layer_in = net.channels_in(layer), num_layer_out = net.channels_out(layer);
            const float* const sums = worker->kernels + layer * 9 * C * C;
            for (int out = 0; out < num_layer_out; ++out)
                for (int in_channel = 0; in_channel < num_layer_in; ++in_channel)
                    for (int tap = 0; tap < 9; ++tap)
                        weights_gradient[net.offsets[layer] + (out * num_layer_in + in_channel) * 9 + tap] +=
                            sums[(tap * C + out) * C + in_channel];
            if (layer + 1 < num_layers)
                for (int c = 0; c < num_features; ++c)
                    thresholds_gradient[layer * num_features + c] += worker->thresholds[layer * C + c];
        }
}
}
