#include "geometry.hpp"

#include <cstdio>
#include <stdexcept>

namespace diptych {

namespace {

void require(bool good, const std::string &message) {
    if (!good) throw std::invalid_argument(message);
}

void require_range(const char *field, long value, long low, long high) {
    require(value >= low && value <= high,
            std::string(field) + " = " + std::to_string(value) + ": must be " + std::to_string(low) +
                " to " + std::to_string(high));
}

void require_multiple(const char *field, int value) {
    require(value % kGroup == 0, std::string(field) + " = " + std::to_string(value) +
                                     ": the native kernels need a multiple of 32");
}

class Cursor {
  public:
    size_t vector(size_t count) { return take(count * 4); }
    Matrix matrix(Format format, int outputs, int inputs) {
        Matrix matrix{format, outputs, inputs, 0};
        matrix.offset = take(matrix.bytes());
        return matrix;
    }
    size_t position() const { return position_; }

  private:
    size_t take(size_t bytes) {
        size_t start = position_;
        position_ += aligned(bytes);
        return start;
    }
    size_t position_ = kHeaderBytes;
};

} // namespace

Format format_named(const std::string &name) {
    if (name == "bf16") return Format::bf16;
    if (name == "int8") return Format::int8;
    if (name == "int4") return Format::int4;
    throw std::invalid_argument("format '" + name + "': must be bf16, int8 or int4");
}

void Geometry::check() const {
    require_range("layers", layers, 1, 1024);
    require_range("hidden", hidden, 32, 65536);
    require_range("ffn", ffn, 32, 262144);
    require_range("head_dim", head_dim, 32, 256);
    require_range("heads", heads, 1, 1024);
    require_range("kv_heads", kv_heads, 1, heads);
    require_range("vocabulary", vocabulary, 1, 1 << 22);
    require_range("context_max", context_max, 1, 1 << 22);
    require_multiple("hidden", hidden);
    require_multiple("ffn", ffn);
    require_multiple("head_dim", head_dim);
    require(heads % kv_heads == 0, "heads = " + std::to_string(heads) +
                                       ": must be a multiple of kv_heads = " + std::to_string(kv_heads));
    require(heads / kv_heads <= kHeadsPerGroupMax,
            "heads / kv_heads = " + std::to_string(heads / kv_heads) + ": the native kernels take at most " +
                std::to_string(kHeadsPerGroupMax));
    require(norm_epsilon > 0 && norm_epsilon < 1, "norm_epsilon: must be above 0 and below 1");
    require(rope_theta >= 1, "rope_theta: must be at least 1");
    require(!rope_scaled || (rope_factor > 0 && rope_high > rope_low && rope_original_context > 0),
            "rope_scaling: factor and original_context must be above 0, high above low");
}

size_t Matrix::panel_bytes() const {
    size_t group = format == Format::bf16 ? kGroupBytesBf16 : format == Format::int8 ? kGroupBytesInt8 : kGroupBytesInt4;
    return size_t(inputs / kGroup) * group;
}

Layout::Layout(const Geometry &geometry, Format format) : geometry(geometry), format(format) {
    geometry.check();
    Cursor cursor;
    const Geometry &g = geometry;
    for (int i = 0; i < g.layers; ++i) {
        LayerLayout layer;
        layer.attention_norm = cursor.vector(g.hidden);
        layer.qkv = cursor.matrix(format, g.qkv_width(), g.hidden);
        if (g.qkv_bias) layer.qkv_bias = cursor.vector(g.qkv_width());
        if (g.qk_norm) layer.query_norm = cursor.vector(g.head_dim);
        if (g.qk_norm) layer.key_norm = cursor.vector(g.head_dim);
        layer.output = cursor.matrix(format, g.hidden, g.query_width());
        layer.mlp_norm = cursor.vector(g.hidden);
        layer.gate_up = cursor.matrix(format, 2 * padded(g.ffn), g.hidden);
        layer.down = cursor.matrix(format, g.hidden, g.ffn);
        layers.push_back(layer);
    }
    final_norm = cursor.vector(g.hidden);
    // Four bits are too few for the head: its errors are the logits' errors.
    Format head_format = format == Format::int4 ? Format::int8 : format;
    embedding = cursor.matrix(head_format, g.vocabulary, g.hidden);
    head = g.tied_head ? embedding : cursor.matrix(head_format, g.vocabulary, g.hidden);
    bytes = cursor.position();
}

std::string header_text(const Geometry &g, Format format) {
    static const char *const names[] = {"bf16", "int8", "int4"};
    char text[kHeaderBytes];
    std::snprintf(text, sizeof text,
                  "diptych packed weights 1\nformat %s\nlayers %d\nhidden %d\nheads %d\nkv_heads %d\n"
                  "head_dim %d\nffn %d\nvocabulary %d\ntied_head %d\nqkv_bias %d\nqk_norm %d\n",
                  names[int(format)], g.layers, g.hidden, g.heads, g.kv_heads, g.head_dim, g.ffn,
                  g.vocabulary, int(g.tied_head), int(g.qkv_bias), int(g.qk_norm));
    return text;
}

} // namespace diptych
