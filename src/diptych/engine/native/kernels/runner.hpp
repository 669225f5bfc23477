// One model on one pool: packed weights of one or more formats, buffers, threads. Checks every span
// before a kernel sees it, so that no kernel needs to.
#pragma once
#include "step.hpp"

#include <memory>

namespace diptych {

struct SpanView {
    int64_t first_position;
    const int32_t *tokens;
    int64_t count;
    const int32_t *pages;
    int64_t page_count;
    bool keeps_logits;
    int64_t logits_from; // count where no row keeps logits
    int logits_row;      // of the step's logits, for the first row that keeps them
};

// Memory in pages of the system, huge ones where they are to be had, and not initialised.
class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(Memory &&other) noexcept { *this = std::move(other); }
    Memory &operator=(Memory &&other) noexcept;
    uint8_t *data() const { return data_; }
    size_t bytes() const { return bytes_; }
    template <class T> T *as() const { return reinterpret_cast<T *>(data_); }

  private:
    uint8_t *data_ = nullptr;
    size_t bytes_ = 0;
};

class Runner {
  public:
    Runner(const Geometry &geometry, const Variant &variant, int threads, const std::vector<int> &cores,
           int step_tokens_max);

    // The buffer must outlive the runner. Returns the index of the weights. Throws
    // std::invalid_argument where its header does not say this geometry and format.
    int add_weights(Format format, const uint8_t *packed, size_t bytes);
    void attach_pool(uint8_t *pool, size_t bytes, int64_t pages);

    // Throws std::invalid_argument naming span and field; nothing has been written then.
    void check(const std::vector<SpanView> &spans);
    // `check` must have passed. Makes room for `rows` rows of logits; keeps those of earlier calls of
    // the same step where `rows` is the same.
    void reserve_logits(int rows);
    void run(int weights, const std::vector<SpanView> &spans);

    const float *logits() const { return logits_.as<float>(); }
    size_t logits_stride() const { return size_t(padded(geometry_.vocabulary)); }
    const Geometry &geometry() const { return geometry_; }
    const Variant &variant() const { return variant_; }
    int step_tokens_max() const { return step_tokens_max_; }

  private:
    struct Rows { // of one call: what the kernels index by row
        std::vector<int32_t> tokens, positions, logits_source, logits_target;
        std::vector<const int32_t *> pages;
        std::vector<Tile> tiles;
    };
    void check_span(size_t index, const SpanView &span) const;
    void check_writers(const std::vector<SpanView> &spans);
    void list_rows(const std::vector<SpanView> &spans);
    void reserve_rows(int rows);
    void reserve_positions(int positions);
    void reserve_scores(int positions);
    Step step_of(const Layout &layout, const uint8_t *weights);

    Geometry geometry_;
    const Variant &variant_;
    int step_tokens_max_;
    Team team_;
    std::vector<Layout> layouts_;
    std::vector<const uint8_t *> weights_;
    uint8_t *pool_ = nullptr;
    int64_t pool_pages_ = 0;
    std::vector<int64_t> page_mark_; // what the current step does with a page; grows, never cleared
    int64_t mark_ = 0;
    Rows rows_;
    int row_capacity_ = 0, position_capacity_ = 0, score_capacity_ = 0;
    Memory buffers_, logits_, scratch_memory_;
    std::vector<float> cosine_, sine_;
    std::vector<Scratch> scratch_;
    Step step_{};
};

} // namespace diptych
