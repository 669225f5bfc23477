// The forward pass of one step, run by every thread of the team. Between two shared phases lies a
// barrier; a phase is shared out over rows, panels or (KV head, tile) tasks.
#pragma once
#include "attention.hpp"
#include "matmul.hpp"

namespace {

using diptych::kBlockRows;
using diptych::LayerLayout;
using diptych::Team;

class Pass {
  public:
    Pass(const Step &step, Team &team, int thread)
        : s_(step), g_(step.layout->geometry), team_(team), thread_(thread), scratch_(step.scratch[thread]) {}

    void run() {
        share(s_.rows, [&](int row) {
            embed_row(s_.weights, s_.layout->embedding, s_.tokens[row], s_.hidden + row * size_t(g_.hidden));
        });
        for (int layer = 0; layer < g_.layers; ++layer) {
            attention(layer, s_.layout->layers[layer]);
            if (!ends_with_pages(layer)) mlp(s_.layout->layers[layer]);
        }
        logits();
    }

  private:
    template <class F> void share(int count, F &&f) {
        if (team_.size() == 1) {
            for (int i = 0; i < count; ++i) f(i);
            return;
        }
        int most = count / (team_.size() * 8), chunk = most > 1 ? most : 1;
        for (int first; (first = team_.take(chunk)) < count;)
            for (int i = first; i < count && i < first + chunk; ++i) f(i);
        team_.barrier();
    }

    // Where no row keeps logits, K and V of the last layer are all that is wanted of it.
    bool ends_with_pages(int layer) const { return layer == g_.layers - 1 && s_.logits_rows == 0; }

    const float *vector(size_t offset) const { return reinterpret_cast<const float *>(s_.weights + offset); }
    const float *vector_if(bool there, size_t offset) const { return there ? vector(offset) : nullptr; }

    void norm(size_t weight, int row, int target) {
        float *normed = scratch_.block;
        rms_norm(s_.hidden + row * size_t(g_.hidden), vector(weight), g_.norm_epsilon, g_.hidden, normed);
        write_activations(s_.activations, s_.layout->format, target, 0, g_.hidden, normed);
    }

    void product(const Matrix &matrix, int rows, const Output &out) {
        share(diptych::panels(matrix.outputs), [&](int panel) {
            matmul_panel(s_.weights, matrix, panel, s_.activations, 0, rows, out, panel * kPanel);
        });
    }

    void attention(int layer, const LayerLayout &w) {
        share(s_.rows, [&](int row) { norm(w.attention_norm, row, row); });
        int width = diptych::padded(g_.qkv_width());
        product(w.qkv, s_.rows, {s_.qkv, size_t(width), false, width, nullptr});
        HeadWeights heads{vector_if(g_.qkv_bias, w.qkv_bias), vector_if(g_.qk_norm, w.query_norm),
                          vector_if(g_.qk_norm, w.key_norm)};
        share(s_.rows, [&](int row) { finish_qkv_row(s_, layer, row, heads, scratch_.block); });
        if (ends_with_pages(layer)) return;
        share(s_.tiles * g_.kv_heads, [&](int task) {
            attend(s_, scratch_, layer, task / s_.tiles, s_.tile[task % s_.tiles]);
        });
        product(w.output, s_.rows, {s_.hidden, size_t(g_.hidden), true, g_.hidden, nullptr});
    }

    void mlp(const LayerLayout &w) {
        share(s_.rows, [&](int row) { norm(w.mlp_norm, row, row); });
        size_t width = diptych::padded(g_.ffn);
        share(diptych::panels(g_.ffn), [&](int pair) { gate_and_up(w.gate_up, pair, width); });
        share(s_.rows, [&](int row) {
            write_activations(s_.activations, s_.layout->format, row, 0, g_.ffn, s_.ffn + row * width);
        });
        product(w.down, s_.rows, {s_.hidden, size_t(g_.hidden), true, g_.hidden, nullptr});
    }

    // Both panels of a pair for a block of rows, which then go through SwiGLU while still in the cache.
    void gate_and_up(const Matrix &matrix, int pair, size_t width) {
        for (int first = 0; first < s_.rows; first += kBlockRows) {
            int rows = s_.rows - first < kBlockRows ? s_.rows - first : kBlockRows;
            float *base = scratch_.block - size_t(first) * 2 * kPanel;
            Output out{base, 2 * kPanel, false, 2 * kPanel, nullptr};
            matmul_panel(s_.weights, matrix, 2 * pair, s_.activations, first, rows, out, 0);
            matmul_panel(s_.weights, matrix, 2 * pair + 1, s_.activations, first, rows, out, kPanel);
            for (int row = first; row < first + rows; ++row) {
                const float *gate = scratch_.block + size_t(row - first) * 2 * kPanel;
                swiglu(gate, gate + kPanel, kPanel, s_.ffn + row * width + size_t(pair) * kPanel);
            }
        }
    }

    void logits() {
        if (s_.logits_rows == 0) return;
        share(s_.logits_rows, [&](int row) { norm(s_.layout->final_norm, s_.logits_source[row], row); });
        int width = diptych::padded(g_.vocabulary);
        product(s_.layout->head, s_.logits_rows, {s_.logits, s_.logits_stride, false, width, s_.logits_target});
    }

    const Step &s_;
    const Geometry &g_;
    Team &team_;
    int thread_;
    const Scratch &scratch_;
};

inline void forward(const Step &step, Team &team, int thread) { Pass(step, team, thread).run(); }

inline float row_greatest(const float *row, size_t count) {
    Float16 most = splat(-__builtin_inff());
    size_t i = 0;
    for (; i + 16 <= count; i += 16) most = greater_of(load(row + i), most);
    float out = greatest(most);
    for (; i < count; ++i) out = row[i] > out ? row[i] : out;
    return out;
}

inline void row_powers(const float *row, size_t count, float shift, float factor, float *power,
                       double *chunks) {
    for (size_t chunk = 0; chunk < count; chunk += diptych::kChunk) {
        size_t end = chunk + diptych::kChunk < count ? chunk + diptych::kChunk : count, i = chunk;
        Float16 total = zero();
        for (; i + 16 <= end; i += 16) {
            Float16 value = exp2((load(row + i) - splat(shift)) * splat(factor));
            store(power + i, value);
            total = total + value;
        }
        if (i < end) {
            float lane[16] = {};
            std::memcpy(lane, row + i, (end - i) * sizeof(float));
            store(lane, exp2((load(lane) - splat(shift)) * splat(factor)));
            for (size_t k = end - i; k < 16; ++k) lane[k] = 0;
            total = total + load(lane);
            std::memcpy(power + i, lane, (end - i) * sizeof(float));
        }
        chunks[chunk / diptych::kChunk] = double(sum(total));
    }
}

} // namespace
