// Shapes of a model and the layout of its packed weights. Knows no instruction set.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace diptych {

constexpr int kPanel = 48;      // output features of one weight panel
constexpr int kGroup = 32;      // input features that share a scale
constexpr int kPageTokens = 16; // tokens of a KV page
constexpr int kHeadsPerGroupMax = 16;

enum class Format { bf16, int8, int4 };

Format format_named(const std::string &name); // throws std::invalid_argument

struct Geometry {
    int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocabulary = 0;
    int context_max = 0;
    float norm_epsilon = 0;
    double rope_theta = 0;
    bool rope_scaled = false;
    double rope_factor = 1, rope_low = 1, rope_high = 4;
    int rope_original_context = 0;
    bool tied_head = false, qkv_bias = false, qk_norm = false;

    int query_width() const { return heads * head_dim; }
    int kv_width() const { return kv_heads * head_dim; }
    int qkv_width() const { return query_width() + 2 * kv_width(); }
    size_t page_bytes() const { return size_t(2) * layers * kv_heads * kPageTokens * head_dim * 2; }
    void check() const; // throws std::invalid_argument naming the field and its limit
};

inline size_t aligned(size_t bytes) { return (bytes + 63) & ~size_t(63); }
inline int panels(int outputs) { return (outputs + kPanel - 1) / kPanel; }
inline int padded(int outputs) { return panels(outputs) * kPanel; }

// One matrix [outputs, inputs] as panels of 48 outputs, each panel contiguous and of these groups:
//   bf16  48 outputs of 32 inputs: [16][3][16][2] bf16
//   int8  [8][3][16][4] u8 (value + 128), then [48] fp16 scales, then 32 bytes unused
//   int4  [4][3][16][4] u8 (low nibble: inputs 8i..8i+3, high: 8i+4..8i+7), then [48] fp16 scales, then
//         [48] fp16 minima
// A product reads a matrix from its first byte to its last: one stream for the prefetcher.
struct Matrix {
    Format format = Format::bf16;
    int outputs = 0, inputs = 0;
    size_t offset = 0; // of the first panel, from the start of the packed buffer

    size_t panel_bytes() const;
    size_t bytes() const { return panel_bytes() * panels(outputs); }
};

constexpr size_t kGroupBytesBf16 = 3072, kGroupBytesInt8 = 1664, kGroupBytesInt4 = 960;
constexpr size_t kCodeBytesInt8 = 1536, kCodeBytesInt4 = 768; // of a group, before its scales

struct LayerLayout {
    Matrix qkv, output, gate_up, down; // gate_up: panels alternate gate, up
    size_t attention_norm = 0, mlp_norm = 0, qkv_bias = 0, query_norm = 0, key_norm = 0; // float32
};

struct Layout {
    Geometry geometry;
    Format format;
    std::vector<LayerLayout> layers;
    Matrix embedding; // the head too where tied
    Matrix head;
    size_t final_norm = 0;
    size_t bytes = 0;

    Layout(const Geometry &geometry, Format format);
};

// The first bytes of a packed buffer, so that a wrong file is refused instead of computed with.
constexpr size_t kHeaderBytes = 256;
std::string header_text(const Geometry &geometry, Format format);

} // namespace diptych
