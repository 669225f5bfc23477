// Register tiles: `Rows` input rows times `Vectors` x 16 outputs, k ascending, one accumulator chain for
// every output. The number of rows never changes the arithmetic of a row, so decode and prefill share
// these templates; there is no separate matrix-vector product.
#pragma once
#include "geometry.hpp"

namespace {

constexpr int kStreamRows = 2;        // up to here a product is bound by memory
constexpr int kPrefetchBytes = 6144;

template <int Value> struct Constant {
    static constexpr int value = Value;
};

// Calls f(first, Constant<n>) over [0, rows) with n as even as possible and at most Most.
template <int Most, int N, class F> DIPTYCH_INLINE void call_with_rows(int first, int n, F &&f) {
    if (n == N) f(first, Constant<N>());
    else if constexpr (N > 1) call_with_rows<Most, N - 1>(first, n, f);
}
template <int Most, class F> DIPTYCH_INLINE void in_tiles(int rows, F &&f) {
    for (int first = 0, left = (rows + Most - 1) / Most; first < rows; --left) {
        int n = (rows - first + left - 1) / left;
        call_with_rows<Most, Most>(first, n, f);
        first += n;
    }
}

// Calls f(Constant<0>()), ..., f(Constant<Count - 1>()). Registers, not loops: with a run-time index GCC
// keeps an array of accumulators in memory, whatever is unrolled later.
#define DIPTYCH_STEP(...) [&](__VA_ARGS__) __attribute__((always_inline))
template <int Count, int First = 0, class F> DIPTYCH_INLINE void each(F &&f) {
    if constexpr (First < Count) {
        f(Constant<First>());
        each<Count, First + 1>(f);
    }
}

template <int Rows, int Vectors> struct Sums {
    Float16 at[Rows][Vectors];
    DIPTYCH_INLINE void clear() {
        each<Rows>(DIPTYCH_STEP(auto r) {
            each<Vectors>(DIPTYCH_STEP(auto j) { at[r.value][j.value] = zero(); });
        });
    }
};

// sums[r][j] += over `steps` pairs of inputs of row r times the pairs at weights[j] + step * weight_step.
template <int Rows, int Vectors>
DIPTYCH_INLINE void dot_tile(Sums<Rows, Vectors> &sums, const uint8_t *const (&weights)[Vectors],
                             size_t weight_step, const uint16_t *inputs, size_t input_stride, int steps) {
    for (int k = 0; k < steps; ++k) {
        Pairs w[Vectors];
        each<Vectors>(DIPTYCH_STEP(auto j) { w[j.value] = load_pairs(weights[j.value] + k * weight_step); });
        each<Rows>(DIPTYCH_STEP(auto r) {
            Pairs x = splat_pair(inputs + r.value * input_stride + 2 * k);
            each<Vectors>(DIPTYCH_STEP(auto j) { dot_pairs(sums.at[r.value][j.value], w[j.value], x); });
        });
    }
}

struct Panel {
    const uint8_t *groups;
    int inputs;
};

template <int Rows>
DIPTYCH_INLINE void panel_bf16(Sums<Rows, 3> &sums, const Panel &panel, const diptych::Activations &x,
                               int row) {
    const uint8_t *weights[3] = {panel.groups, panel.groups + 64, panel.groups + 128};
    dot_tile<Rows, 3>(sums, weights, 192, reinterpret_cast<const uint16_t *>(x.codes + row * x.row_bytes),
                      x.row_bytes / 2, panel.inputs / 2);
}

template <int Rows> struct IntegerSums {
    Int16 at[Rows][3];
};

DIPTYCH_INLINE void load_three(Codes (&w)[3], const uint8_t *codes) {
    each<3>(DIPTYCH_STEP(auto j) { w[j.value] = load_codes(codes + 64 * j.value); });
}
// The hardware's prefetcher stops at every page of memory; these go on.
template <size_t Bytes> DIPTYCH_INLINE void prefetch_group(const uint8_t *group) {
    each<int(Bytes / 64)>(DIPTYCH_STEP(auto i) { prefetch(group + kPrefetchBytes + 64 * i.value); });
}

// Sums of one group become floats: sum += dot * (weight scale * input scale), groups ascending.
template <int Rows>
DIPTYCH_INLINE void add_scaled(Sums<Rows, 3> &sums, const IntegerSums<Rows> &dots, const uint8_t *scales,
                               const diptych::Activations &x, int row, int group) {
    Float16 scale[3] = {load_halves(scales), load_halves(scales + 32), load_halves(scales + 64)};
    each<Rows>(DIPTYCH_STEP(auto r) {
        Float16 input_scale = splat(x.scale[(row + r.value) * x.row_groups + group]);
        each<3>(DIPTYCH_STEP(auto j) {
            Float16 &sum = sums.at[r.value][j.value];
            sum = fused(to_float(dots.at[r.value][j.value]), scale[j.value] * input_scale, sum);
        });
    });
}

template <int Rows>
DIPTYCH_INLINE void panel_int8(Sums<Rows, 3> &sums, const Panel &panel, const diptych::Activations &x,
                               int row) {
    const int8_t *inputs = reinterpret_cast<const int8_t *>(x.codes + row * x.row_bytes);
    const uint8_t *codes = panel.groups;
    for (int group = 0; group < panel.inputs / diptych::kGroup; ++group, codes += diptych::kGroupBytesInt8) {
        if (Rows <= kStreamRows) prefetch_group<diptych::kGroupBytesInt8>(codes);
        IntegerSums<Rows> dots;
        each<Rows>(DIPTYCH_STEP(auto r) {
            Int16 start = start_of_dot(x.sum[(row + r.value) * x.row_groups + group]);
            each<3>(DIPTYCH_STEP(auto j) { dots.at[r.value][j.value] = start; });
        });
        each<8>(DIPTYCH_STEP(auto k) {
            Codes w[3];
            load_three(w, codes + k.value * 192);
            each<Rows>(DIPTYCH_STEP(auto r) {
                Bytes four = splat_bytes(inputs + r.value * x.row_bytes + group * 32 + k.value * 4);
                each<3>(DIPTYCH_STEP(auto j) { dot_codes(dots.at[r.value][j.value], w[j.value], four); });
            });
        });
        add_scaled<Rows>(sums, dots, codes + diptych::kCodeBytesInt8, x, row, group);
    }
}

template <int Rows>
DIPTYCH_INLINE void add_minimum(Sums<Rows, 3> &sums, const uint8_t *minima, const diptych::Activations &x,
                                int row, int group) {
    Float16 minimum[3] = {load_halves(minima), load_halves(minima + 32), load_halves(minima + 64)};
    each<Rows>(DIPTYCH_STEP(auto r) {
        size_t at = (row + r.value) * x.row_groups + group;
        Float16 total = splat(x.scale[at] * float(x.sum[at]));
        each<3>(DIPTYCH_STEP(auto j) {
            Float16 &sum = sums.at[r.value][j.value];
            sum = fused(minimum[j.value], total, sum);
        });
    });
}

template <int Rows>
DIPTYCH_INLINE void panel_int4(Sums<Rows, 3> &sums, const Panel &panel, const diptych::Activations &x,
                               int row) {
    const int8_t *inputs = reinterpret_cast<const int8_t *>(x.codes + row * x.row_bytes);
    const uint8_t *codes = panel.groups;
    for (int group = 0; group < panel.inputs / diptych::kGroup; ++group, codes += diptych::kGroupBytesInt4) {
        if (Rows <= kStreamRows) prefetch_group<diptych::kGroupBytesInt4>(codes);
        IntegerSums<Rows> dots;
        each<Rows>(DIPTYCH_STEP(auto r) {
            each<3>(DIPTYCH_STEP(auto j) { dots.at[r.value][j.value] = splat(int32_t(0)); });
        });
        each<4>(DIPTYCH_STEP(auto k) {
            Codes w[3], low[3], high[3];
            load_three(w, codes + k.value * 192);
            each<3>(DIPTYCH_STEP(auto j) {
                low[j.value] = low_nibbles(w[j.value]), high[j.value] = high_nibbles(w[j.value]);
            });
            each<Rows>(DIPTYCH_STEP(auto r) {
                const int8_t *eight = inputs + r.value * x.row_bytes + group * 32 + k.value * 8;
                Bytes first = splat_bytes(eight), second = splat_bytes(eight + 4);
                each<3>(DIPTYCH_STEP(auto j) { dot_nibbles(dots.at[r.value][j.value], low[j.value], first); });
                each<3>(DIPTYCH_STEP(auto j) { dot_nibbles(dots.at[r.value][j.value], high[j.value], second); });
            });
        });
        const uint8_t *scales = codes + diptych::kCodeBytesInt4;
        add_scaled<Rows>(sums, dots, scales, x, row, group);
        add_minimum<Rows>(sums, scales + 2 * diptych::kPanel, x, row, group);
    }
}

} // namespace
