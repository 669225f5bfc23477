// Register tiles: `Rows` input rows times `Vectors` x 16 outputs, k ascending, one accumulator chain for
// every output. The number of rows never changes the arithmetic of a row, so decode and prefill share
// these templates; there is no separate matrix-vector product.
#pragma once
#include "geometry.hpp"

namespace {

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

template <int Rows, int Vectors> struct Sums {
    Float16 at[Rows][Vectors];
    DIPTYCH_INLINE void clear() {
        for (int r = 0; r < Rows; ++r)
            for (int j = 0; j < Vectors; ++j) at[r][j] = zero();
    }
};

// sums[r][j] += over `steps` pairs of inputs of row r times the pairs at weights[j] + step * weight_step.
template <int Rows, int Vectors>
DIPTYCH_INLINE void dot_tile(Sums<Rows, Vectors> &sums, const uint8_t *const (&weights)[Vectors],
                             size_t weight_step, const uint16_t *inputs, size_t input_stride, int steps) {
    for (int k = 0; k < steps; ++k) {
        Pairs w[Vectors];
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) w[j] = load_pairs(weights[j] + k * weight_step);
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) {
            Pairs x = splat_pair(inputs + r * input_stride + 2 * k);
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) dot_pairs(sums.at[r][j], w[j], x);
        }
    }
}

struct Panel {
    const uint8_t *codes, *scales;
    int inputs;
};

template <int Rows>
DIPTYCH_INLINE void panel_bf16(Sums<Rows, 3> &sums, const Panel &panel,
                               const diptych::Activations &x, int row) {
    const uint8_t *weights[3] = {panel.codes, panel.codes + 64, panel.codes + 128};
    dot_tile<Rows, 3>(sums, weights, 192, reinterpret_cast<const uint16_t *>(x.codes + row * x.row_bytes),
                      x.row_bytes / 2, panel.inputs / 2);
}

template <int Rows> struct IntegerSums {
    Int16 at[Rows][3];
};

// Sums of one group become floats: sum += dot * (weight scale * input scale), groups ascending.
template <int Rows>
DIPTYCH_INLINE void add_scaled(Sums<Rows, 3> &sums, const IntegerSums<Rows> &dots, const Float16 (&scale)[3],
                               const diptych::Activations &x, int row, int group) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        Float16 input_scale = splat(x.scale[(row + r) * x.row_groups + group]);
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j)
            sums.at[r][j] = fused(to_float(dots.at[r][j]), scale[j] * input_scale, sums.at[r][j]);
    }
}

template <int Rows>
DIPTYCH_INLINE void panel_int8(Sums<Rows, 3> &sums, const Panel &panel,
                               const diptych::Activations &x, int row) {
    const int8_t *inputs = reinterpret_cast<const int8_t *>(x.codes + row * x.row_bytes);
    const uint8_t *codes = panel.codes, *scales = panel.scales;
    for (int group = 0; group < panel.inputs / diptych::kGroup; ++group, codes += 1536, scales += 96) {
        IntegerSums<Rows> dots;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
            for (int j = 0; j < 3; ++j)
                dots.at[r][j] = start_of_dot(x.sum[(row + r) * x.row_groups + group]);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            Codes w[3] = {load_codes(codes + k * 192), load_codes(codes + k * 192 + 64),
                          load_codes(codes + k * 192 + 128)};
            if (Rows <= 2) prefetch(codes + k * 192 + 4096), prefetch(codes + k * 192 + 4160),
                           prefetch(codes + k * 192 + 4224);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                Bytes four = splat_bytes(inputs + r * x.row_bytes + group * 32 + k * 4);
#pragma GCC unroll 3
                for (int j = 0; j < 3; ++j) dot_codes(dots.at[r][j], w[j], four);
            }
        }
        Float16 scale[3] = {load_halves(scales), load_halves(scales + 32), load_halves(scales + 64)};
        add_scaled<Rows>(sums, dots, scale, x, row, group);
    }
}

template <int Rows>
DIPTYCH_INLINE void add_minimum(Sums<Rows, 3> &sums, const uint8_t *minima, const diptych::Activations &x,
                                int row, int group) {
    Float16 minimum[3] = {load_halves(minima), load_halves(minima + 32), load_halves(minima + 64)};
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        size_t at = (row + r) * x.row_groups + group;
        Float16 total = splat(x.scale[at] * float(x.sum[at]));
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) sums.at[r][j] = fused(minimum[j], total, sums.at[r][j]);
    }
}

template <int Rows>
DIPTYCH_INLINE void panel_int4(Sums<Rows, 3> &sums, const Panel &panel,
                               const diptych::Activations &x, int row) {
    const int8_t *inputs = reinterpret_cast<const int8_t *>(x.codes + row * x.row_bytes);
    const uint8_t *codes = panel.codes, *scales = panel.scales;
    for (int group = 0; group < panel.inputs / diptych::kGroup; ++group, codes += 768, scales += 192) {
        IntegerSums<Rows> dots;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
            for (int j = 0; j < 3; ++j) dots.at[r][j] = splat(int32_t(0));
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            Codes w[3] = {load_codes(codes + k * 192), load_codes(codes + k * 192 + 64),
                          load_codes(codes + k * 192 + 128)};
            if (Rows <= 2) prefetch(codes + k * 192 + 4096), prefetch(codes + k * 192 + 4160),
                           prefetch(codes + k * 192 + 4224);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const int8_t *eight = inputs + r * x.row_bytes + group * 32 + k * 8;
                Bytes low = splat_bytes(eight), high = splat_bytes(eight + 4);
#pragma GCC unroll 3
                for (int j = 0; j < 3; ++j) {
                    dot_nibbles(dots.at[r][j], low_nibbles(w[j]), low);
                    dot_nibbles(dots.at[r][j], high_nibbles(w[j]), high);
                }
            }
        }
        Float16 scale[3] = {load_halves(scales), load_halves(scales + 32), load_halves(scales + 64)};
        add_scaled<Rows>(sums, dots, scale, x, row, group);
        add_minimum<Rows>(sums, scales + 96, x, row, group);
    }
}

} // namespace
