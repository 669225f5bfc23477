#include "converter.hpp"

#include "../../engine/native/kernels/cpu.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace diptych {

namespace {

constexpr size_t kLoopsMax = 40;
constexpr int64_t kStreamBytes = 4 << 20; // more than caches should be filled with by a copy
constexpr int64_t kLine = 64;

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

void store_fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

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

bool in_place(const Nest &nest) { return nest.source.row_bytes > 0 && nest.target.row_bytes > 0; }

// Rows are then looped over too, in the order in which the source has them.
void add_rows(Nest &nest, int64_t tokens) {
    nest.cast.loops.push_back({tokens, nest.source.row_bytes, nest.target.row_bytes, nest.source.scale_row_bytes,
                               nest.target.scale_row_bytes});
    std::stable_sort(nest.cast.loops.begin(), nest.cast.loops.end(),
                     [](const CastLoop &a, const CastLoop &b) { return a.source > b.source; });
}

} // namespace

// Rows on their way: collected until there are as many as change their type together.
class Batch {
  public:
    Batch(const Shape &shape, const CopyVariant &variant, CastRows cast, bool stream)
        : variant_(variant), cast_(cast), stream_(stream),
          source_row_bytes_(shape.dims * int64_t(dtype_bytes(shape.source))),
          row_bytes_(shape.dims * int64_t(dtype_bytes(shape.target))),
          source_tile_bytes_(lines(shape.tokens * shape.dims * int64_t(dtype_bytes(shape.source)))),
          target_tile_bytes_(lines(shape.tokens * row_bytes_)),
          memory_(size_t(source_tile_bytes_ + target_tile_bytes_ + lines(row_bytes_) * Rows::kMost + kLine)) {
        rows_.dims = shape.dims;
        base_ = memory_.data() + (-reinterpret_cast<uintptr_t>(memory_.data()) & (kLine - 1));
    }
    uint8_t *source_tile() { return base_; }
    uint8_t *target_tile() { return base_ + source_tile_bytes_; }
    int64_t row_bytes() const { return row_bytes_; }
    bool streams() const { return stream_; }

    // The rows that follow are whole lines of the target's pages, to be streamed.
    void stream_rows(bool streams) {
        if (streams != streams_rows_) flush();
        streams_rows_ = streams;
    }
    void push(const uint8_t *source, const uint8_t *source_scale, uint8_t *target, uint8_t *target_scale) {
        // By the time that the batch is full, its first rows have come from memory.
        for (int64_t at = 0; at < source_row_bytes_; at += kLine) __builtin_prefetch(source + at);
        int row = rows_.count++;
        rows_.source[row] = source;
        if (source_scale) std::memcpy(&rows_.source_scale[row], source_scale, 4);
        rows_.target[row] = streams_rows_ ? staged(row) : target;
        target_[row] = target, target_scale_[row] = target_scale;
        if (rows_.count == Rows::kMost) flush();
    }
    // Rows at even steps from the first one.
    void push_rows(const RowPlace &first, const CastLoop &loop) {
        for (int64_t i = 0; i < loop.extent; ++i)
            push(first.source + i * loop.source,
                 first.source_scale ? first.source_scale + i * loop.source_scale : nullptr,
                 first.target + i * loop.target,
                 first.target_scale ? first.target_scale + i * loop.target_scale : nullptr);
    }
    void flush() {
        if (rows_.count == 0) return;
        cast_(rows_);
        for (int row = 0; streams_rows_ && row < rows_.count; ++row)
            variant_.stream(rows_.target[row], target_[row], row_bytes_);
        for (int row = 0; target_scale_[0] && row < rows_.count; ++row)
            std::memcpy(target_scale_[row], &rows_.target_scale[row], 4);
        rows_.count = 0;
    }

  private:
    static int64_t lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
    uint8_t *staged(int row) { return base_ + source_tile_bytes_ + target_tile_bytes_ + row * lines(row_bytes_); }

    const CopyVariant &variant_;
    CastRows cast_;
    bool stream_;
    int64_t source_row_bytes_, row_bytes_, source_tile_bytes_, target_tile_bytes_;
    std::vector<uint8_t> memory_;
    uint8_t *base_;
    Rows rows_;
    bool streams_rows_ = false;
    uint8_t *target_[Rows::kMost], *target_scale_[Rows::kMost];
};

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
    for (Nest &nest : nests_) {
        check_nest(nest);
        source_regions_ = std::max(source_regions_, nest.source.region + 1);
        target_regions_ = std::max(target_regions_, nest.target.region + 1);
        if (!nest.casts) continue;
        rows_ = variant_.rows(shape_.source, source_scaled_, shape_.target, target_scaled_);
        if (in_place(nest)) add_rows(nest, shape_.tokens);
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
    std::vector<Loop> steps{{shape_.tokens, nest.source.scale_row_bytes, nest.target.scale_row_bytes}};
    for (const CastLoop &loop : nest.cast.loops) steps.push_back({loop.extent, loop.source_scale, loop.target_scale});
    check_loops(steps);
    auto check = [&](const Side &side, bool scaled, size_t chunks, int64_t Loop::*stride, int64_t page_bytes) {
        if (side.scale_offsets.size() != (scaled ? chunks : 0)) refuse("nests: inconsistent scales");
        check_offsets(side.scale_offsets, reach(steps, 4, stride), page_bytes);
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
    bool stream = target_pages.count * target_page_bytes_ * target_regions_ >= kStreamBytes;
    std::optional<Batch> batch;
    if (rows_) batch.emplace(shape_, variant_, rows_, stream);
    for (const Nest &nest : nests_) {
        const Region &from = source[size_t(nest.source.region)], &to = target[size_t(nest.target.region)];
        for (int64_t chunk = 0; chunk < source_pages.count * int64_t(source_chunks_); ++chunk) {
            size_t s = size_t(chunk) % source_chunks_, t = size_t(chunk) % target_chunks_;
            const uint8_t *read = from.data + source_pages.ids[chunk / int64_t(source_chunks_)] * source_page_bytes_;
            uint8_t *written = to.data + target_pages.ids[chunk / int64_t(target_chunks_)] * target_page_bytes_;
            if (nest.casts) cast_chunk(nest, read, s, written, t, *batch);
            else
                variant_.copy(nest.loops.data(), nest.loops.size(), nest.run_bytes, read + nest.source.offsets[s],
                              written + nest.target.offsets[t], stream);
        }
    }
    if (batch) batch->flush();
    if (stream) store_fence();
}

void Converter::cast_chunk(const Nest &nest, const uint8_t *read, size_t source_chunk, uint8_t *written,
                           size_t target_chunk, Batch &batch) const {
    uint8_t *target = written + nest.target.offsets[target_chunk];
    bool lines = nest.target.row_bytes && nest.target.row_bytes % kLine == 0 && batch.row_bytes() % kLine == 0 &&
                 reinterpret_cast<uintptr_t>(target) % kLine == 0;
    for (const CastLoop &loop : nest.cast.loops) lines = lines && loop.target % kLine == 0;
    batch.stream_rows(lines && batch.streams());
    walk(nest, 0,
         {read + nest.source.offsets[source_chunk],
          source_scaled_ ? read + nest.source.scale_offsets[source_chunk] : nullptr, target,
          target_scaled_ ? written + nest.target.scale_offsets[target_chunk] : nullptr},
         batch);
}

void Converter::walk(const Nest &nest, size_t depth, RowPlace place, Batch &batch) const {
    if (depth == nest.cast.loops.size()) return cast_block(nest, place, batch);
    const CastLoop &loop = nest.cast.loops[depth];
    if (depth + 1 == nest.cast.loops.size() && in_place(nest)) return batch.push_rows(place, loop);
    for (int64_t i = 0; i < loop.extent; ++i) {
        walk(nest, depth + 1, place, batch);
        place.source += loop.source, place.target += loop.target;
        if (source_scaled_) place.source_scale += loop.source_scale;
        if (target_scaled_) place.target_scale += loop.target_scale;
    }
}

// Rows that do not lie in rows on their side go through a tile of one block.
void Converter::cast_block(const Nest &nest, const RowPlace &block, Batch &batch) const {
    RowPlace place = block;
    int64_t source_row = nest.source.row_bytes, target_row = nest.target.row_bytes;
    if (!source_row) {
        place.source = batch.source_tile();
        source_row = shape_.dims * int64_t(dtype_bytes(shape_.source));
        variant_.copy(nest.cast.gather.data(), nest.cast.gather.size(), int64_t(dtype_bytes(shape_.source)),
                      block.source, batch.source_tile(), false);
    }
    if (!target_row) place.target = batch.target_tile(), target_row = batch.row_bytes();
    batch.push_rows(place, {shape_.tokens, source_row, target_row, nest.source.scale_row_bytes,
                            nest.target.scale_row_bytes});
    batch.flush();
    if (!nest.target.row_bytes)
        variant_.copy(nest.cast.scatter.data(), nest.cast.scatter.size(), int64_t(dtype_bytes(shape_.target)),
                      batch.target_tile(), block.target, batch.streams());
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
