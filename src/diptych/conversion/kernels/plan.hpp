// A conversion as the kernels see it: loops over bytes. Knows neither layouts nor Python; what it holds
// was made by diptych.wire.kv.plan and checked against the pools by Converter.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace diptych {

struct Loop { // `extent` steps of so many bytes
    int64_t extent, source, target;
};

enum class Dtype { float32, bfloat16, float16, float8_e4m3, int8 };

inline size_t dtype_bytes(Dtype dtype) {
    switch (dtype) {
    case Dtype::float32: return 4;
    case Dtype::bfloat16:
    case Dtype::float16: return 2;
    default: return 1;
    }
}

struct CastLoop { // over blocks or rows
    int64_t extent, source, target, source_scale, target_scale;
};

struct Cast {
    std::vector<Loop> gather, scatter; // empty: rows are read, or written, in place
    std::vector<CastLoop> loops;       // over blocks; over rows where both sides are in place
};

struct Side {
    int64_t region = 0;
    std::vector<int64_t> offsets; // of each chunk in a page
    int64_t row_bytes = 0;
    std::vector<int64_t> scale_offsets; // empty: no scales
    int64_t scale_row_bytes = 0;
};

struct Nest {
    Side source, target;
    std::vector<Loop> loops; // slowest first
    int64_t run_bytes = 0;
    bool casts = false;
    Cast cast;
};

struct Shape { // of the blocks that change their type
    Dtype source, target;
    int64_t tokens, dims; // of one block
};

// Rows that change their type together: `dims` values each, with a scale where there is one.
struct Rows {
    static constexpr int kMost = 16;
    int count = 0;
    int64_t dims;
    const uint8_t *source[kMost];
    float source_scale[kMost] = {};
    uint8_t *target[kMost];
    float target_scale[kMost];
};
using CastRows = void (*)(Rows &rows);

// Everything that is compiled once for each instruction set.
struct CopyVariant {
    const char *name;
    // `stream`: past the caches where whole lines are written; to be followed by a store fence.
    void (*copy)(const Loop *loops, size_t count, int64_t run_bytes, const uint8_t *source, uint8_t *target,
                 bool stream);
    // Lines past the caches: `bytes` is a multiple of 64, and `target` is aligned to it.
    void (*stream)(const uint8_t *source, uint8_t *target, int64_t bytes);
    CastRows (*rows)(Dtype source, bool source_scaled, Dtype target, bool target_scaled);
};

const CopyVariant &copy_variant_plain();
#if defined(DIPTYCH_X86)
const CopyVariant &copy_variant_avx2();
const CopyVariant &copy_variant_avx512();
#endif

} // namespace diptych
