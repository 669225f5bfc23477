// Products of activation rows with weight panels, shared out over panels, never over k.
#pragma once
#include "step.hpp"
#include "tile.hpp"

namespace {

using diptych::Activations;
using diptych::Format;
using diptych::kPanel;
using diptych::Matrix;

// Where a product goes: row r to base + target[r] * stride (target null: row r), added to what lies
// there or replacing it. Columns at and beyond `columns` are dropped.
struct Output {
    float *base;
    size_t stride;
    bool add;
    int columns;
    const int32_t *target;
};

template <int Rows>
DIPTYCH_INLINE void store_tile(const Sums<Rows, 3> &sums, const Output &out, int first_row, int column) {
    each<Rows>(DIPTYCH_STEP(auto r) {
        int row = out.target ? out.target[first_row + r.value] : first_row + r.value;
        float *to = out.base + row * ptrdiff_t(out.stride) + column;
        each<3>(DIPTYCH_STEP(auto j) {
            if (column + 16 * j.value >= out.columns) return;
            Float16 value = sums.at[r.value][j.value];
            if (out.add) value = load(to + 16 * j.value) + value;
            store(to + 16 * j.value, value);
        });
    });
}

template <Format Kind>
void panel_times_rows(const Panel &panel, const Activations &x, int first_row, int rows, const Output &out,
                      int column) {
    constexpr int most = Kind == Format::bf16 ? kBf16Rows : kIntegerRows;
    in_tiles<most>(rows, [&](int first, auto count) {
        constexpr int n = decltype(count)::value;
        Sums<n, 3> sums;
        sums.clear();
        if constexpr (Kind == Format::bf16) panel_bf16<n>(sums, panel, x, first_row + first);
        if constexpr (Kind == Format::int8) panel_int8<n>(sums, panel, x, first_row + first);
        if constexpr (Kind == Format::int4) panel_int4<n>(sums, panel, x, first_row + first);
        store_tile<n>(sums, out, first_row + first, column);
    });
}

inline Panel panel_of(const uint8_t *weights, const Matrix &matrix, int index) {
    const uint8_t *start = weights + matrix.offset + index * matrix.panel_bytes();
    return {start, matrix.inputs};
}

inline void matmul_panel(const uint8_t *weights, const Matrix &matrix, int index, const Activations &x,
                         int first_row, int rows, const Output &out, int column) {
    Panel panel = panel_of(weights, matrix, index);
    if (matrix.format == Format::bf16)
        panel_times_rows<Format::bf16>(panel, x, first_row, rows, out, column);
    else if (matrix.format == Format::int8)
        panel_times_rows<Format::int8>(panel, x, first_row, rows, out, column);
    else panel_times_rows<Format::int4>(panel, x, first_row, rows, out, column);
}

} // namespace
