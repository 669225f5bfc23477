// Attention of a tile of consecutive tokens over bf16 pages, for the query heads of one KV head.
//
// Scores by blocks of 16 positions; softmax in two passes (maximum of the whole row, then the sum by
// lane = position % 16); probabilities rounded to bf16; weighted sum of V by pairs of positions,
// ascending. Positions at and beyond a row's end are never multiplied: their slots may hold anything.
#pragma once
#include "rows.hpp"
#include "tile.hpp"

#include <cmath>

namespace {

using diptych::Scratch;
using diptych::Tile;

struct Heads { // what one task of attention works on
    const Step *step;
    const Scratch *scratch;
    Tile tile;
    int layer, kv_head;
    int group; // query heads of the KV head
    int queries() const { return tile.rows * group; }
    int end(int token) const { return step->positions[tile.first_row + token] + 1; }
    const uint8_t *block(int index, int value) const {
        return reinterpret_cast<const uint8_t *>(
            page_block(*step, tile.first_row, index * kPageTokens, layer, value, kv_head));
    }
};

inline void gather_queries(const Heads &h) {
    const Geometry &g = h.step->layout->geometry;
    size_t bytes = size_t(h.group) * g.head_dim * 2;
    for (int t = 0; t < h.tile.rows; ++t) {
        size_t first = size_t(h.tile.first_row + t) * g.heads + h.kv_head * h.group;
        std::memcpy(h.scratch->query + size_t(t) * h.group * g.head_dim, h.step->query + first * g.head_dim,
                    bytes);
    }
}

inline void prefetch_block(const Heads &h, int index, int value, int blocks, size_t bytes) {
    if (index >= blocks) return;
    const uint8_t *block = h.block(index, value);
    for (size_t at = 0; at < bytes; at += 64) prefetch(block + at);
}

template <int Blocks>
DIPTYCH_INLINE void score_blocks(const Heads &h, int first_block, float factor) {
    int dim = h.step->layout->geometry.head_dim;
    const uint8_t *keys[Blocks];
    for (int j = 0; j < Blocks; ++j) keys[j] = h.block(first_block + j, 0);
    in_tiles<kBf16Rows>(h.queries(), [&](int first, auto count) {
        constexpr int n = decltype(count)::value;
        Sums<n, Blocks> sums;
        sums.clear();
        dot_tile<n, Blocks>(sums, keys, 64, h.scratch->query + first * dim, dim, dim / 2);
        each<n>(DIPTYCH_STEP(auto r) {
            float *out = h.scratch->scores + (first + r.value) * h.step->score_stride + first_block * 16;
            each<Blocks>(DIPTYCH_STEP(auto j) {
                store(out + 16 * j.value, sums.at[r.value][j.value] * splat(factor));
            });
        });
    });
}

inline void score(const Heads &h) {
    const Geometry &g = h.step->layout->geometry;
    float factor = kLog2E / std::sqrt(float(g.head_dim)); // so that softmax may use powers of two
    int blocks = (h.end(h.tile.rows - 1) + kPageTokens - 1) / kPageTokens, block = 0;
    size_t bytes = size_t(kPageTokens) * g.head_dim * 2;
    for (; block + 2 <= blocks; block += 2) {
        prefetch_block(h, block + 2, 0, blocks, bytes);
        prefetch_block(h, block + 3, 0, blocks, bytes);
        score_blocks<2>(h, block, factor);
    }
    if (block < blocks) score_blocks<1>(h, block, factor);
}

DIPTYCH_INLINE Float16 lane_numbers() {
    const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load(lanes);
}

// Probabilities (not yet divided by their sum) of one query over `end` positions; returns the sum.
inline float softmax_row(const float *scores, int end, uint16_t *probability) {
    int whole = end / 16 * 16;
    Float16 rest = splat(float(end - whole)), lanes = lane_numbers();
    Float16 most = splat(-3.0e38f), total = zero();
    for (int i = 0; i < whole; i += 16) most = greater_of(load(scores + i), most);
    if (whole < end) {
        Float16 masked = keep_where_greater(rest, lanes, load(scores + whole));
        Float16 floor = keep_where_greater(lanes, rest - splat(0.5f), splat(-3.0e38f));
        most = greater_of(masked + floor, most);
    }
    Float16 shift = splat(greatest(most));
    for (int i = 0; i < whole; i += 16) {
        Float16 power = exp2(load(scores + i) - shift);
        total = total + power;
        store_bf16(probability + i, power);
    }
    if (whole < end) {
        Float16 power = keep_where_greater(rest, lanes, exp2(load(scores + whole) - shift));
        total = total + power;
        store_bf16(probability + whole, power);
    }
    return sum(total);
}

// sums[queries] += probabilities times V over the pairs of positions [first, last); where `odd`, one
// more pair follows of which only the first position counts.
template <int Vectors>
DIPTYCH_INLINE void weigh_pairs(const Heads &h, int query, int queries, int column, int first, int last,
                                bool odd) {
    int dim = h.step->layout->geometry.head_dim;
    size_t stride = h.step->score_stride;
    in_tiles<kValueRows>(queries, [&](int offset, auto count) {
        constexpr int n = decltype(count)::value;
        const uint16_t *weight = h.scratch->probability + (query + offset) * stride;
        float *out = h.scratch->sums + (query + offset) * dim + column;
        Sums<n, Vectors> sums;
        each<n>(DIPTYCH_STEP(auto r) {
            each<Vectors>(DIPTYCH_STEP(auto j) {
                sums.at[r.value][j.value] = load(out + r.value * dim + 16 * j.value);
            });
        });
        const uint8_t *values[Vectors];
        for (int pair = first; pair < last;) {
            int stop = (pair / 8 + 1) * 8 < last ? (pair / 8 + 1) * 8 : last;
            const uint8_t *start = h.block(pair / 8, 1) + (pair % 8) * 4 * dim + column * 4;
            for (int j = 0; j < Vectors; ++j) values[j] = start + 64 * j;
            if (stop < last) prefetch_block(h, stop / 8, 1, stop / 8 + 1, size_t(kPageTokens) * dim * 2);
            dot_tile<n, Vectors>(sums, values, 4 * dim, weight + 2 * pair, stride, stop - pair);
            pair = stop;
        }
        if (odd) {
            const uint8_t *start = h.block(last / 8, 1) + (last % 8) * 4 * dim + column * 4;
            each<Vectors>(DIPTYCH_STEP(auto j) {
                Pairs v = first_of_pairs(load_pairs(start + 64 * j.value));
                each<n>(DIPTYCH_STEP(auto r) {
                    dot_pairs(sums.at[r.value][j.value], v, splat_pair(weight + r.value * stride + 2 * last));
                });
            });
        }
        each<n>(DIPTYCH_STEP(auto r) {
            each<Vectors>(DIPTYCH_STEP(auto j) {
                store(out + r.value * dim + 16 * j.value, sums.at[r.value][j.value]);
            });
        });
    });
}

// All queries of the tile together over the pairs that the first token sees whole, then each token's
// few remaining pairs by themselves: no row multiplies a position that it may not see.
template <int Vectors> void weigh_columns(const Heads &h, int column) {
    int common = h.end(0) / 2;
    weigh_pairs<Vectors>(h, 0, h.queries(), column, 0, common, false);
    for (int t = 0; t < h.tile.rows; ++t) {
        int end = h.end(t);
        if (end > 2 * common)
            weigh_pairs<Vectors>(h, t * h.group, h.group, column, common, end / 2, end % 2 != 0);
    }
}

// One task: the queries of a tile for one KV head, from scores to the inputs of the output projection.
inline void attend(const Step &s, const Scratch &scratch, int layer, int kv_head, const Tile &tile) {
    const Geometry &g = s.layout->geometry;
    Heads h{&s, &scratch, tile, layer, kv_head, g.heads / g.kv_heads};
    gather_queries(h);
    score(h);
    float inverse[diptych::kTileQueries];
    for (int q = 0; q < h.queries(); ++q) {
        float total = softmax_row(scratch.scores + q * s.score_stride, h.end(q / h.group),
                                  scratch.probability + q * s.score_stride);
        inverse[q] = 1.0f / total;
    }
    std::memset(scratch.sums, 0, sizeof(float) * h.queries() * g.head_dim);
    int column = 0;
    for (; column + 64 <= g.head_dim; column += 64) weigh_columns<4>(h, column);
    if (column < g.head_dim) weigh_columns<2>(h, column);
    for (int q = 0; q < h.queries(); ++q) {
        float *out = scratch.sums + q * g.head_dim;
        for (int i = 0; i < g.head_dim; i += 16) store(out + i, load(out + i) * splat(inverse[q]));
        int head = kv_head * h.group + q % h.group;
        write_activations(s.activations, s.layout->format, tile.first_row + q / h.group, head * g.head_dim,
                          g.head_dim, out);
    }
}

} // namespace
