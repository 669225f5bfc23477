// One conversion, ready to run: checks every page id and every byte that its loops can reach against the
// pools before the first byte is written.
#pragma once
#include "plan.hpp"

#include <string>

namespace diptych {

struct Region {
    uint8_t *data; // of a source: only read
    size_t bytes;
};

struct Pages {
    const int64_t *ids;
    int64_t count;
};

struct RowPlace { // of one row, or of the first one of a block
    const uint8_t *source, *source_scale; // scales: null where there are none
    uint8_t *target, *target_scale;
};

class Batch;

class Converter {
  public:
    // `page_bytes`: of one page in each region of a side. Throws std::invalid_argument naming what is
    // inconsistent.
    Converter(std::vector<Nest> nests, const Shape &shape, int64_t source_page_bytes,
              int64_t target_page_bytes, const CopyVariant &variant);

    // Throws std::invalid_argument naming the side; nothing has been written then.
    void run(const std::vector<Region> &source, Pages source_pages, const std::vector<Region> &target,
             Pages target_pages) const;
    const char *isa() const { return variant_.name; }

  private:
    void check_nest(const Nest &nest) const;
    int64_t block_bytes(const Side &side, const std::vector<Loop> &loops, Dtype dtype, int64_t Loop::*own,
                        int64_t Loop::*tile) const;
    void check_scales(const Nest &nest) const;
    void check_side(const char *name, const std::vector<Region> &pool, Pages pages, int64_t page_bytes,
                    int64_t regions) const;
    void cast_chunk(const Nest &nest, const uint8_t *read, size_t source_chunk, uint8_t *written,
                    size_t target_chunk, Batch &batch) const;
    void walk(const Nest &nest, size_t depth, RowPlace place, Batch &batch) const;
    void cast_block(const Nest &nest, const RowPlace &block, Batch &batch) const;

    std::vector<Nest> nests_;
    Shape shape_;
    int64_t source_page_bytes_, target_page_bytes_;
    size_t source_chunks_, target_chunks_; // of a page
    int64_t source_regions_ = 0, target_regions_ = 0;
    bool source_scaled_, target_scaled_;
    const CopyVariant &variant_;
    CastRows rows_ = nullptr;
};

const CopyVariant &choose_copy_variant(const std::string &name);

} // namespace diptych
