#include "pack.hpp"

#include "half.hpp"
#include "rounding.hpp"

#include <cmath>
#include <stdexcept>

namespace diptych {

namespace {

constexpr int kQ8Bytes = 34, kQ4Bytes = 20; // of one GGUF block of 32

[[noreturn]] void refuse(const std::string &message) { throw std::invalid_argument(message); }

size_t row_bytes(const Source &s) {
    if (s.encoding == "f32") return size_t(s.inputs) * 4;
    if (s.encoding == "f16" || s.encoding == "bf16") return size_t(s.inputs) * 2;
    if (s.encoding == "q8_0" && s.inputs % kGroup == 0) return size_t(s.inputs / kGroup) * kQ8Bytes;
    if (s.encoding == "q4_1" && s.inputs % kGroup == 0) return size_t(s.inputs / kGroup) * kQ4Bytes;
    refuse("encoding '" + s.encoding + "': must be f32, f16, bf16, q8_0 or q4_1");
}

uint16_t read_half(const uint8_t *from) {
    uint16_t value;
    std::memcpy(&value, from, 2);
    return value;
}

void decode_q8(const uint8_t *block, float *out) {
    float scale = half_float(read_half(block));
    for (int i = 0; i < kGroup; ++i) out[i] = float(int8_t(block[2 + i])) * scale;
}

void decode_q4(const uint8_t *block, float *out) {
    float scale = half_float(read_half(block)), minimum = half_float(read_half(block + 2));
    for (int i = 0; i < 16; ++i) {
        out[i] = float(block[4 + i] & 15) * scale + minimum;
        out[i + 16] = float(block[4 + i] >> 4) * scale + minimum;
    }
}

void decode_row(const Source &s, int row, float *out) {
    const uint8_t *from = s.data + size_t(row) * row_bytes(s);
    if (s.encoding == "f32") std::memcpy(out, from, size_t(s.inputs) * 4);
    else if (s.encoding == "f16")
        for (int i = 0; i < s.inputs; ++i) out[i] = half_float(read_half(from + 2 * i));
    else if (s.encoding == "bf16")
        for (int i = 0; i < s.inputs; ++i) out[i] = bf16_float(read_half(from + 2 * i));
    else if (s.encoding == "q8_0")
        for (int g = 0; g < s.inputs / kGroup; ++g) decode_q8(from + g * kQ8Bytes, out + g * kGroup);
    else
        for (int g = 0; g < s.inputs / kGroup; ++g) decode_q4(from + g * kQ4Bytes, out + g * kGroup);
}

struct Place { // of one output row in its panel
    uint8_t *panel;
    int lane;
};

Place place_of(const Matrix &matrix, uint8_t *packed, int output) {
    uint8_t *panel = packed + matrix.offset + size_t(output / kPanel) * matrix.panel_bytes();
    return {panel, output % kPanel};
}

// Scales are stored as fp16; a scale outside its range would turn the whole group into infinities.
uint16_t scale_half(float value) {
    uint16_t half = float_half(value);
    if ((half & 0x7c00) == 0x7c00) refuse("holds a value that is not finite or beyond the range of fp16 scales");
    return half;
}

void put_bf16(const Place &p, const float *row, int inputs) {
    uint16_t *out = reinterpret_cast<uint16_t *>(p.panel) + p.lane * 2;
    for (int k = 0; k < inputs; k += 2) {
        uint16_t pair[2] = {float_bf16(row[k]), float_bf16(row[k + 1])};
        if ((pair[0] & 0x7f80) == 0x7f80 || (pair[1] & 0x7f80) == 0x7f80) refuse("holds a value that is not finite");
        std::memcpy(out + k / 2 * 96, pair, 4);
    }
}

void put_group_int8(const Place &p, int group, uint16_t scale, const int8_t *codes) {
    uint8_t *start = p.panel + group * kGroupBytesInt8, *out = start + p.lane * 4;
    std::memcpy(start + kCodeBytesInt8 + p.lane * 2, &scale, 2);
    for (int k = 0; k < kGroup; k += 4) {
        uint8_t four[4];
        for (int i = 0; i < 4; ++i) four[i] = uint8_t(codes[k + i]) ^ 0x80;
        std::memcpy(out + k / 4 * 192, four, 4);
    }
}

int nearest_within(float value, int low, int high) {
    // Adding 1.5 * 2^23 rounds to nearest even; NaN cannot get here (scales are finite).
    float clamped = std::fmin(std::fmax(value, float(low)), float(high));
    return int(float_bits(clamped + 12582912.0f) - float_bits(12582912.0f));
}

void quantise_int8(const Place &p, int group, const float *x) {
    float most = 0;
    for (int i = 0; i < kGroup; ++i) most = std::isnan(x[i]) ? x[i] : std::fmax(most, std::fabs(x[i]));
    uint16_t scale = scale_half(most / 127.0f);
    float inverse = half_float(scale) > 0 ? 1.0f / half_float(scale) : 0.0f;
    int8_t codes[kGroup];
    for (int i = 0; i < kGroup; ++i) codes[i] = int8_t(nearest_within(x[i] * inverse, -127, 127));
    put_group_int8(p, group, scale, codes);
}

// codes: 32 values of 0..15, one a byte, in input order.
void put_group_int4(const Place &p, int group, uint16_t scale, uint16_t minimum, const uint8_t *codes) {
    uint8_t *start = p.panel + group * kGroupBytesInt4, *out = start + p.lane * 4;
    std::memcpy(start + kCodeBytesInt4 + p.lane * 2, &scale, 2);
    std::memcpy(start + kCodeBytesInt4 + 2 * kPanel + p.lane * 2, &minimum, 2);
    for (int k = 0; k < kGroup; k += 8) {
        uint8_t four[4];
        for (int i = 0; i < 4; ++i) four[i] = uint8_t(codes[k + i] | (codes[k + 4 + i] << 4));
        std::memcpy(out + k / 8 * 192, four, 4);
    }
}

void quantise_int4(const Place &p, int group, const float *x) {
    float low = x[0], high = x[0];
    for (int i = 1; i < kGroup; ++i) {
        low = std::isnan(x[i]) ? x[i] : std::fmin(low, x[i]);
        high = std::fmax(high, x[i]);
    }
    uint16_t minimum = scale_half(low), scale = scale_half((high - half_float(minimum)) / 15.0f);
    float inverse = half_float(scale) > 0 ? 1.0f / half_float(scale) : 0.0f;
    uint8_t codes[kGroup];
    for (int i = 0; i < kGroup; ++i)
        codes[i] = uint8_t(nearest_within((x[i] - half_float(minimum)) * inverse, 0, 15));
    put_group_int4(p, group, scale, minimum, codes);
}

void put_row_q8(const Place &p, const uint8_t *block, int groups) {
    for (int group = 0; group < groups; ++group, block += kQ8Bytes)
        put_group_int8(p, group, scale_half(half_float(read_half(block))),
                       reinterpret_cast<const int8_t *>(block + 2));
}

void put_row_q4(const Place &p, const uint8_t *block, int groups) {
    for (int group = 0; group < groups; ++group, block += kQ4Bytes) {
        uint8_t codes[kGroup];
        for (int i = 0; i < 16; ++i) codes[i] = block[4 + i] & 15, codes[i + 16] = block[4 + i] >> 4;
        put_group_int4(p, group, scale_half(half_float(read_half(block))),
                       scale_half(half_float(read_half(block + 2))), codes);
    }
}

void pack_row(const Matrix &matrix, uint8_t *packed, int output, const Source &s, int row, float *scratch) {
    Place place = place_of(matrix, packed, output);
    const uint8_t *raw = s.data + size_t(row) * row_bytes(s);
    int groups = s.inputs / kGroup;
    // The file's own blocks are kept as they are where the formats agree.
    if (matrix.format == Format::int8 && s.encoding == "q8_0") return put_row_q8(place, raw, groups);
    if (matrix.format == Format::int4 && s.encoding == "q4_1") return put_row_q4(place, raw, groups);
    decode_row(s, row, scratch);
    if (matrix.format == Format::bf16) return put_bf16(place, scratch, s.inputs);
    for (int group = 0; group < groups; ++group) {
        if (matrix.format == Format::int8) quantise_int8(place, group, scratch + group * kGroup);
        else quantise_int4(place, group, scratch + group * kGroup);
    }
}

struct Slot {
    const Matrix *matrix; // null for a vector of float32
    size_t vector;
    int rows, inputs;
    int first_output;
    bool interleaved; // panels of gate and up alternate
};

Slot matrix_slot(const Matrix &matrix, int rows, int first_output, bool interleaved = false) {
    return {&matrix, 0, rows, matrix.inputs, first_output, interleaved};
}
Slot vector_slot(size_t offset, int count, int first = 0) {
    return {nullptr, offset + size_t(first) * 4, 1, count, 0, false};
}

Slot model_slot(const Layout &l, const std::string &name) {
    const Geometry &g = l.geometry;
    if (name == "embedding") return matrix_slot(l.embedding, g.vocabulary, 0);
    if (name == "head" && !g.tied_head) return matrix_slot(l.head, g.vocabulary, 0);
    if (name == "final_norm") return vector_slot(l.final_norm, g.hidden);
    refuse("no such tensor in this model");
}

Slot layer_slot(const Layout &l, const std::string &name, int layer) {
    const Geometry &g = l.geometry;
    if (layer >= g.layers) refuse("the model has " + std::to_string(g.layers) + " layers");
    const LayerLayout &w = l.layers[layer];
    int q = g.query_width(), kv = g.kv_width();
    if (name == "query") return matrix_slot(w.qkv, q, 0);
    if (name == "key") return matrix_slot(w.qkv, kv, q);
    if (name == "value") return matrix_slot(w.qkv, kv, q + kv);
    if (name == "output") return matrix_slot(w.output, g.hidden, 0);
    if (name == "gate") return matrix_slot(w.gate_up, g.ffn, 0, true);
    if (name == "up") return matrix_slot(w.gate_up, g.ffn, kPanel, true);
    if (name == "down") return matrix_slot(w.down, g.hidden, 0);
    if (name == "attention_norm") return vector_slot(w.attention_norm, g.hidden);
    if (name == "mlp_norm") return vector_slot(w.mlp_norm, g.hidden);
    if (g.qkv_bias && name == "query_bias") return vector_slot(w.qkv_bias, q);
    if (g.qkv_bias && name == "key_bias") return vector_slot(w.qkv_bias, kv, q);
    if (g.qkv_bias && name == "value_bias") return vector_slot(w.qkv_bias, kv, q + kv);
    if (g.qk_norm && name == "query_norm") return vector_slot(w.query_norm, g.head_dim);
    if (g.qk_norm && name == "key_norm") return vector_slot(w.key_norm, g.head_dim);
    refuse("no such tensor in this model");
}

void check_shape(const Slot &slot, const Source &s) {
    std::string have = "[" + std::to_string(s.rows) + ", " + std::to_string(s.inputs) + "]";
    std::string want = "[" + std::to_string(slot.rows) + ", " + std::to_string(slot.inputs) + "]";
    if (s.rows != slot.rows || s.inputs != slot.inputs) refuse("shape " + have + ": must be " + want);
    if (s.bytes != size_t(s.rows) * row_bytes(s))
        refuse(std::to_string(s.bytes) + " bytes of " + s.encoding + " for shape " + have);
}

} // namespace

void write_header(const Layout &layout, uint8_t *packed) {
    std::string text = header_text(layout.geometry, layout.format);
    std::memset(packed, 0, kHeaderBytes);
    std::memcpy(packed, text.data(), text.size() < kHeaderBytes ? text.size() : kHeaderBytes);
}

void pack_tensor(const Layout &layout, uint8_t *packed, const std::string &slot_name, int layer,
                 const Source &source) {
    RoundToNearest mode;
    Slot slot = layer < 0 ? model_slot(layout, slot_name) : layer_slot(layout, slot_name, layer);
    check_shape(slot, source);
    std::vector<float> scratch(size_t(source.inputs));
    if (!slot.matrix) {
        decode_row(source, 0, scratch.data());
        for (float value : scratch)
            if (!std::isfinite(value)) refuse("holds a value that is not finite");
        std::memcpy(packed + slot.vector, scratch.data(), scratch.size() * 4);
        return;
    }
    for (int row = 0; row < source.rows; ++row) {
        int output = slot.first_output + (slot.interleaved ? row / kPanel * 2 * kPanel + row % kPanel : row);
        pack_row(*slot.matrix, packed, output, source, row, scratch.data());
    }
}

} // namespace diptych
