// Everything a row goes through by itself: embedding, RMS norm, quantisation, rotary embedding, SwiGLU.
#pragma once
#include "half.hpp"
#include "lanes.hpp"
#include "step.hpp"

#include <cmath>

namespace {

using diptych::Activations;
using diptych::Format;
using diptych::Geometry;
using diptych::kGroup;
using diptych::kPageTokens;
using diptych::kPanel;
using diptych::Step;

// One row of an embedding that is stored as panels.
inline void embed_row(const uint8_t *weights, const diptych::Matrix &matrix, int token, float *out) {
    const uint8_t *panel = weights + matrix.offset + size_t(token / kPanel) * matrix.panel_bytes();
    int lane = token % kPanel;
    if (matrix.format == Format::bf16) {
        const uint16_t *values = reinterpret_cast<const uint16_t *>(panel) + lane * 2;
        for (int k = 0; k < matrix.inputs; ++k) out[k] = bf16_float(values[k / 2 * 96 + k % 2]);
        return;
    }
    for (int group = 0; group < matrix.inputs / kGroup; ++group, panel += diptych::kGroupBytesInt8) {
        float scale = half_float(reinterpret_cast<const uint16_t *>(panel + diptych::kCodeBytesInt8)[lane]);
        const uint8_t *codes = panel + lane * 4;
        for (int k = 0; k < kGroup; ++k)
            out[group * kGroup + k] = float(int(codes[k / 4 * 192 + k % 4]) - 128) * scale;
    }
}

// y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich, arXiv 1910.07467).
inline void rms_norm(const float *x, const float *weight, float epsilon, int count, float *y) {
    Float16 squares = zero();
    for (int i = 0; i < count; i += 16) {
        Float16 value = load(x + i);
        squares = squares + value * value;
    }
    Float16 inverse = splat(1.0f / std::sqrt(sum(squares) / float(count) + epsilon));
    for (int i = 0; i < count; i += 16) store(y + i, load(x + i) * inverse * load(weight + i));
}

// Groups of 32 to int8 with scale = max |x| / 127. Rounds to nearest even.
inline void quantise_groups(const float *x, int count, int8_t *codes, float *scale, int32_t *code_sum) {
    for (int group = 0; group < count / kGroup; ++group, x += kGroup, codes += kGroup) {
        Float16 low = load(x), high = load(x + 16);
        float most = greatest(greater_of(magnitude(low), magnitude(high)));
        Float16 inverse = splat(most > 0 ? 127.0f / most : 0.0f);
        Int16 first = nearest(low * inverse), second = nearest(high * inverse);
        store_low_bytes(codes, first);
        store_low_bytes(codes + 16, second);
        scale[group] = most / 127.0f;
        code_sum[group] = sum(first + second);
    }
}

// Columns [first, first + count) of one row of inputs, as the format of the weights wants them.
inline void write_activations(const Activations &out, Format format, int row, int first, int count,
                              const float *x) {
    uint8_t *codes = out.codes + row * out.row_bytes;
    if (format == Format::bf16) {
        uint16_t *target = reinterpret_cast<uint16_t *>(codes) + first;
        for (int i = 0; i < count; i += 16) store_bf16(target + i, load(x + i));
        return;
    }
    size_t group = row * out.row_groups + first / kGroup;
    quantise_groups(x, count, reinterpret_cast<int8_t *>(codes) + first, out.scale + group, out.sum + group);
}

// x rotated by the angles of one position, half-split pairs (j, j + width / 2), in place.
inline void rotate(float *x, const float *cosine, const float *sine, int width) {
    for (int i = 0; i < width / 2; i += 16) {
        Float16 a = load(x + i), b = load(x + width / 2 + i), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + width / 2 + i, b * c + a * s);
    }
}

inline void add_in_place(float *x, const float *y, int count) {
    for (int i = 0; i < count; i += 16) store(x + i, load(x + i) + load(y + i));
}

inline uint16_t *page_block(const Step &s, int row, int position, int layer, int value, int head) {
    const Geometry &g = s.layout->geometry;
    size_t block = (size_t(layer) * 2 + value) * g.kv_heads + head;
    return reinterpret_cast<uint16_t *>(s.pool + s.pages[row][position / kPageTokens] * g.page_bytes()) +
           block * kPageTokens * g.head_dim;
}

// K block: [dim / 2][token][2].
inline void write_key(uint16_t *block, int slot, const uint16_t *key, int head_dim) {
    for (int d = 0; d < head_dim; d += 2) std::memcpy(block + d * kPageTokens + 2 * slot, key + d, 4);
}
// V block: [token / 2][dim][2].
inline void write_value(uint16_t *block, int slot, const uint16_t *value, int head_dim) {
    uint16_t *target = block + (slot / 2) * 2 * head_dim + slot % 2;
    for (int d = 0; d < head_dim; ++d) target[2 * d] = value[d];
}

struct HeadWeights { // null where the architecture has none
    const float *bias, *query_norm, *key_norm;
};

// Bias, head norm and rotation of a row's query, key and value; K and V go to the row's page as bf16.
inline void finish_qkv_row(const Step &s, int layer, int row, const HeadWeights &w, float *scratch) {
    const Geometry &g = s.layout->geometry;
    float *qkv = s.qkv + row * size_t(diptych::padded(g.qkv_width()));
    if (w.bias) add_in_place(qkv, w.bias, g.qkv_width());
    int position = s.positions[row], slot = position % kPageTokens, dim = g.head_dim;
    const float *cosine = s.cosine + size_t(position) * (dim / 2), *sine = s.sine + size_t(position) * (dim / 2);
    uint16_t *half = reinterpret_cast<uint16_t *>(scratch);
    for (int head = 0; head < g.heads + g.kv_heads; ++head) {
        float *x = qkv + head * dim;
        const float *norm = head < g.heads ? w.query_norm : w.key_norm;
        if (norm) rms_norm(x, norm, g.norm_epsilon, dim, x);
        rotate(x, cosine, sine, dim);
        uint16_t *target = head < g.heads ? s.query + (size_t(row) * g.heads + head) * dim : half;
        for (int i = 0; i < dim; i += 16) store_bf16(target + i, load(x + i));
        if (head < g.heads) continue;
        write_key(page_block(s, row, position, layer, 0, head - g.heads), slot, half, dim);
    }
    const float *value = qkv + (g.heads + g.kv_heads) * dim;
    for (int head = 0; head < g.kv_heads; ++head, value += dim) {
        for (int i = 0; i < dim; i += 16) store_bf16(half + i, load(value + i));
        write_value(page_block(s, row, position, layer, 1, head), slot, half, dim);
    }
}

// gate / (1 + e^-gate) * up (Shazeer, arXiv 2002.05202); `width` columns of both.
inline void swiglu(const float *gate, const float *up, int width, float *out) {
    for (int i = 0; i < width; i += 16) {
        Float16 x = load(gate + i);
        Float16 decay = exp2(x * splat(-kLog2E));
        store(out + i, x / (splat(1.0f) + decay) * load(up + i));
    }
}

} // namespace
