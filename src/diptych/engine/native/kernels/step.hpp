// One step as the kernels see it: checked rows, buffers and weights. Knows no instruction set.
#pragma once
#include "geometry.hpp"
#include "team.hpp"

namespace diptych {

struct Tile { // consecutive rows of one span, which share the reads of its K and V
    int first_row, rows;
};
constexpr int kTileQueries = 16; // most query rows (tokens x heads of one group) of a tile
static_assert(kTileQueries >= kHeadsPerGroupMax, "one token's heads must fit a tile");

// Inputs of a matrix product, one row a token: bf16, or int8 with a scale for every 32.
struct Activations {
    uint8_t *codes;     // [rows][row_bytes]
    float *scale;       // [rows][inputs / 32]
    int32_t *sum;       // [rows][inputs / 32], of the codes of the group
    size_t row_bytes;   // of the widest input
    size_t row_groups;
};

struct Scratch { // of one thread
    float *scores;          // [kTileQueries][context]
    uint16_t *probability;  // [kTileQueries][context], bf16
    uint16_t *query;        // [kTileQueries][head_dim], bf16
    float *sums;            // [kTileQueries][head_dim]
    float *block;           // [kBlockRows][2 * kPanel], or one row of normed inputs
};
constexpr int kBlockRows = 64;
constexpr size_t kChunk = 1024; // tokens whose probabilities are summed before sums are compared

struct Step {
    const Layout *layout;
    const uint8_t *weights;
    uint8_t *pool;
    const float *cosine, *sine; // [position][head_dim / 2]
    int rows;
    const int32_t *tokens, *positions;  // [rows]
    const int32_t *const *pages;        // [rows], the page table of the row's span
    int tiles;
    const Tile *tile;
    int logits_rows;
    const int32_t *logits_source; // row of the step
    const int32_t *logits_target; // row of `logits`
    float *logits;
    size_t logits_stride;

    float *hidden;      // [rows][hidden]
    float *qkv;         // [rows][padded(qkv_width)]
    uint16_t *query;    // [rows][heads][head_dim], bf16
    float *ffn;         // [rows][padded(ffn)]
    Activations activations;
    const Scratch *scratch; // [threads]
    size_t score_stride;
};

// Everything that is compiled once for each instruction set.
struct Variant {
    const char *name;
    void (*forward)(const Step &step, Team &team, int thread);
    // Sampling: the greatest of a row, and power[i] = 2^((row[i] - shift) * factor) with the sum of each
    // kChunk of them. NaN is never the greatest, and its power is 0.
    float (*greatest)(const float *row, size_t count);
    void (*powers)(const float *row, size_t count, float shift, float factor, float *power, double *chunks);
};

const Variant &variant_plain();
#if defined(DIPTYCH_X86)
const Variant &variant_avx2();
const Variant &variant_avx512();
#endif
// The best variant this CPU runs, or the one that DIPTYCH_ISA names; `name` overrides both where not
// empty. Throws std::invalid_argument naming what can be had.
const Variant &choose_variant(const std::string &name);
std::vector<std::string> runnable_variants();

} // namespace diptych
