#include "converter.hpp"

#include "../../engine/native/kernels/cpu.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace diptych {

namespace {

constexpr size_t kLoopsMax = 40;

// To nearest, subnormals kept, while it lives: what the thread did before must not change a bit.
class DefaultRounding {
  public:
    DefaultRounding(const DefaultRounding &) = delete;
    DefaultRounding &operator=(const DefaultRounding &) = delete;
#if defined(__x86_64__)
    DefaultRounding() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~DefaultRounding() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#else
    DefaultRounding() {}
    ~DefaultRounding() {}
#endif
};

[[noreturn]] void refuse(const std::string &why) { throw std::invalid_argument(why); }

// Bytes from the first element to behind the last one that the loops reach.
int64_t reach(const std::vector<Loop> &loops, int64_t run_bytes, int64_t Loop::*stride) {
    int64_t last = 0;
    for (const Loop &loop : loops) last += (loop.extent - 1) * (loop.*stride);
    return last + run_bytes;
}

void check_loops(const std::vector<Loop> &loops) {
    if (loops.size() > kLoopsMax) refuse("nests: more than 40 loops");
    for (const Loop &loop : loops)
        if (loop.extent < 1 || loop.source < 0 || loop.target < 0) refuse("nests: a loop with a negative field");
}

void check_offsets(const std::vector<int64_t> &offsets, int64_t reached, int64_t page_bytes) {
    for (int64_t offset : offsets)
        if (offset < 0 || reached < 0 || offset + reached > page_bytes) refuse("nests: loops leave their page");
}

} // namespace

Converter::Converter(std::vector<Nest> nests, const Shape &shape, int64_t source_page_bytes,
                     int64_t target_page_bytes, const CopyVariant &variant)
    : nests_(std::move(nests)), shape_(shape), source_page_bytes_(source_page_bytes),
      target_page_bytes_(target_page_bytes), variant_(variant) {
    if (nests_.empty()) refuse("nests: none");
    if (shape_.tokens < 1 || shape_.dims < 1 || shape_.tokens > 65536 || shape_.dims > 65536)
        refuse("shape: out of range");
    source_chunks_ = nests_[0].source.offsets.size(), target_chunks_ = nests_[0].target.offsets.size();
    if (!source_chunks_ || !target_chunks_) refuse("nests: no offsets");
    source_scaled_ = !nests_[0].source.scale_offsets.empty();
    target_scaled_ = !nests_[0].target.scale_offsets.empty();
    for (const Nest &nest : nests_) {
        check_nest(nest);
        source_regions_ = std::max(source_regions_, nest.source.region + 1);
        target_regions_ = std::max(target_regions_, nest.target.region + 1);
        if (nest.casts) row_ = variant_.row(shape_.source, source_scaled_, shape_.target, target_scaled_);
    }
}

void Converter::check_nest(const Nest &nest) const {
    const Side &source = nest.source, &target = nest.target;
    if (source.offsets.size() != source_chunks_ || target.offsets.size() != target_chunks_ ||
        source.region < 0 || target.region < 0 || nest.run_bytes < 1)
        refuse("nests: inconsistent");
    check_loops(nest.loops);
    int64_t source_block = nest.run_bytes, target_block = nest.run_bytes;
    if (nest.casts) {
        source_block = block_bytes(source, nest.cast.gather, shape_.source, &Loop::source, &Loop::target);
        target_block = block_bytes(target, nest.cast.scatter, shape_.target, &Loop::target, &Loop::source);
        check_scales(nest);
    }
    check_offsets(source.offsets, reach(nest.loops, source_block, &Loop::source), source_page_bytes_);
    check_offsets(target.offsets, reach(nest.loops, target_block, &Loop::target), target_page_bytes_);
}

// What a block reaches on its own side; its loops must fill a tile on the other.
int64_t Converter::block_bytes(const Side &side, const std::vector<Loop> &loops, Dtype dtype,
                               int64_t Loop::*own, int64_t Loop::*tile) const {
    int64_t element = int64_t(dtype_bytes(dtype)), row = shape_.dims * element;
    if (side.row_bytes < 0) refuse("nests: a negative row");
    if (side.row_bytes > 0) return (shape_.tokens - 1) * side.row_bytes + row;
    check_loops(loops);
    if (reach(loops, element, tile) != shape_.tokens * row) refuse("nests: loops that do not fill their tile");
    return reach(loops, element, own);
}

void Converter::check_scales(const Nest &nest) const {
    if (nest.cast.scale_steps.size() != nest.loops.size()) refuse("nests: scale_steps are not of the loops");
    std::vector<Loop> steps;
    for (size_t i = 0; i < nest.loops.size(); ++i)
        steps.push_back({nest.loops[i].extent, nest.cast.scale_steps[i].source, nest.cast.scale_steps[i].target});
    check_loops(steps);
    auto check = [&](const Side &side, bool scaled, size_t chunks, int64_t Loop::*stride, int64_t page_bytes) {
        if (side.scale_offsets.size() != (scaled ? chunks : 0) ||
            side.scale_rows.size() != (scaled ? size_t(shape_.tokens) : 0))
            refuse("nests: inconsistent scales");
        for (int64_t row : side.scale_rows) {
            if (row < 0) refuse("nests: a negative scale row");
            check_offsets(side.scale_offsets, reach(steps, row + 4, stride), page_bytes);
        }
    };
    check(nest.source, source_scaled_, source_chunks_, &Loop::source, source_page_bytes_);
    check(nest.target, target_scaled_, target_chunks_, &Loop::target, target_page_bytes_);
}

void Converter::check_side(const char *name, const std::vector<Region> &pool, Pages pages, int64_t page_bytes,
                           int64_t regions) const {
    std::string side = name;
    if (int64_t(pool.size()) < regions)
        refuse(side + "_pool: " + std::to_string(pool.size()) + " regions, the format has " +
               std::to_string(regions));
    int64_t whole = INT64_MAX;
    for (const Region &region : pool) whole = std::min(whole, int64_t(region.bytes) / page_bytes);
    for (int64_t i = 0; i < pages.count; ++i)
        if (pages.ids[i] < 0 || pages.ids[i] >= whole)
            refuse(side + "_pages[" + std::to_string(i) + "]: page " + std::to_string(pages.ids[i]) +
                   ", the pool has " + std::to_string(whole));
}

void Converter::run(const std::vector<Region> &source, Pages source_pages, const std::vector<Region> &target,
                    Pages target_pages) const {
    if (source_pages.count * int64_t(source_chunks_) != target_pages.count * int64_t(target_chunks_))
        refuse("pages: " + std::to_string(source_pages.count) + " of the source and " +
               std::to_string(target_pages.count) + " of the target are not as many tokens");
    check_side("source", source, source_pages, source_page_bytes_, source_regions_);
    check_side("target", target, target_pages, target_page_bytes_, target_regions_);
    DefaultRounding rounding;
    std::vector<uint8_t> tiles(row_ ? tile_bytes(shape_.source) + tile_bytes(shape_.target) : 0);
    for (const Nest &nest : nests_) {
        const Region &from = source[size_t(nest.source.region)], &to = target[size_t(nest.target.region)];
        for (int64_t chunk = 0; chunk < source_pages.count * int64_t(source_chunks_); ++chunk) {
            size_t s = size_t(chunk) % source_chunks_, t = size_t(chunk) % target_chunks_;
            const uint8_t *read = from.data + source_pages.ids[chunk / int64_t(source_chunks_)] * source_page_bytes_;
            uint8_t *written = to.data + target_pages.ids[chunk / int64_t(target_chunks_)] * target_page_bytes_;
            run_chunk(nest, read, s, written, t, tiles.data());
        }
    }
}

void Converter::run_chunk(const Nest &nest, const uint8_t *read, size_t source_chunk, uint8_t *written,
                          size_t target_chunk, uint8_t *tiles) const {
    const uint8_t *source = read + nest.source.offsets[source_chunk];
    uint8_t *target = written + nest.target.offsets[target_chunk];
    if (!nest.casts)
        return variant_.copy(nest.loops.data(), nest.loops.size(), nest.run_bytes, source, target);
    Block block{source, source_scaled_ ? read + nest.source.scale_offsets[source_chunk] : nullptr, target,
                target_scaled_ ? written + nest.target.scale_offsets[target_chunk] : nullptr};
    cast_blocks(nest, 0, block, tiles);
}

void Converter::cast_blocks(const Nest &nest, size_t depth, Block block, uint8_t *tiles) const {
    if (depth == nest.loops.size()) return cast_block(nest, block, tiles);
    const Loop &loop = nest.loops[depth];
    const ScaleStep &scale = nest.cast.scale_steps[depth];
    for (int64_t i = 0; i < loop.extent; ++i) {
        cast_blocks(nest, depth + 1, block, tiles);
        block.source += loop.source, block.target += loop.target;
        if (source_scaled_) block.source_scales += scale.source;
        if (target_scaled_) block.target_scales += scale.target;
    }
}

void Converter::cast_block(const Nest &nest, const Block &block, uint8_t *tiles) const {
    const Side &from = nest.source, &to = nest.target;
    const uint8_t *source = block.source;
    uint8_t *target = block.target;
    int64_t source_row = from.row_bytes, target_row = to.row_bytes;
    int64_t source_element = int64_t(dtype_bytes(shape_.source));
    int64_t target_element = int64_t(dtype_bytes(shape_.target));
    if (!source_row) {
        variant_.copy(nest.cast.gather.data(), nest.cast.gather.size(), source_element, source, tiles);
        source = tiles, source_row = shape_.dims * source_element;
    }
    if (!target_row) target = tiles + tile_bytes(shape_.source), target_row = shape_.dims * target_element;
    for (int64_t token = 0; token < shape_.tokens; ++token) {
        float read = 1.0f, written = 0.0f;
        if (source_scaled_) std::memcpy(&read, block.source_scales + from.scale_rows[size_t(token)], 4);
        row_(source + token * source_row, read, target + token * target_row, &written, shape_.dims);
        if (target_scaled_) std::memcpy(block.target_scales + to.scale_rows[size_t(token)], &written, 4);
    }
    if (!to.row_bytes)
        variant_.copy(nest.cast.scatter.data(), nest.cast.scatter.size(), target_element, target, block.target);
}

const CopyVariant &choose_copy_variant(const std::string &name) {
    const std::string chosen = chosen_isa(name);
#if defined(DIPTYCH_X86)
    if (chosen == "avx512") return copy_variant_avx512();
    if (chosen == "avx2") return copy_variant_avx2();
#endif
    return copy_variant_plain();
}

} // namespace diptych
