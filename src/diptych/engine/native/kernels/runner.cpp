#include "runner.hpp"

#include "rounding.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <sstream>
#include <stdexcept>

namespace diptych {

namespace {

// Rows of logits kept from step to step; more (a scored prompt) go back to the system after their step.
constexpr int kLogitsRowsKept = 64;
constexpr int kTileTokens = 4;

[[noreturn]] void refuse(size_t span, const std::string &message) {
    throw std::invalid_argument("spans[" + std::to_string(span) + "]." + message);
}

// Hands out consecutive aligned pieces of one allocation; with no base it only counts.
class Carver {
  public:
    explicit Carver(uint8_t *base) : base_(base) {}
    template <class T> T *take(size_t count) {
        T *piece = base_ ? reinterpret_cast<T *>(base_ + used_) : nullptr;
        used_ += aligned(count * sizeof(T));
        return piece;
    }
    size_t used() const { return used_; }

  private:
    uint8_t *base_;
    size_t used_ = 0;
};

int widest_input(const Geometry &g) { return std::max({g.hidden, g.query_width(), g.ffn}); }

size_t carve_rows(Step &s, const Geometry &g, size_t rows, uint8_t *base) {
    Carver carver(base);
    size_t inputs = size_t(widest_input(g));
    s.hidden = carver.take<float>(rows * g.hidden);
    s.qkv = carver.take<float>(rows * padded(g.qkv_width()));
    s.query = carver.take<uint16_t>(rows * g.query_width());
    s.ffn = carver.take<float>(rows * padded(g.ffn));
    s.activations.row_bytes = aligned(inputs * 2);
    s.activations.row_groups = inputs / kGroup;
    s.activations.codes = carver.take<uint8_t>(rows * s.activations.row_bytes);
    s.activations.scale = carver.take<float>(rows * s.activations.row_groups);
    s.activations.sum = carver.take<int32_t>(rows * s.activations.row_groups);
    return carver.used();
}

size_t carve_scratch(Scratch &s, const Geometry &g, size_t positions, uint8_t *base) {
    Carver carver(base);
    size_t queries = kTileQueries;
    s.scores = carver.take<float>(queries * positions);
    s.probability = carver.take<uint16_t>(queries * positions);
    s.query = carver.take<uint16_t>(queries * g.head_dim);
    s.sums = carver.take<float>(queries * g.head_dim);
    s.block = carver.take<float>(std::max(size_t(kBlockRows) * 2 * kPanel, size_t(widest_input(g))));
    return carver.used();
}

// Angular frequencies of RoPE (Su et al., arXiv 2104.09864), with Llama 3's scaling where asked.
double frequency(const Geometry &g, int pair) {
    double base = std::pow(g.rope_theta, -2.0 * pair / g.head_dim);
    if (!g.rope_scaled) return base;
    double wavelength = 2 * 3.14159265358979323846 / base, original = g.rope_original_context;
    if (wavelength < original / g.rope_high) return base;
    if (wavelength > original / g.rope_low) return base / g.rope_factor;
    double smooth = (original / wavelength - g.rope_low) / (g.rope_high - g.rope_low);
    return (1 - smooth) * base / g.rope_factor + smooth * base;
}

// The first line in which two headers differ.
std::string difference(const std::string &have, const std::string &want) {
    std::istringstream from(have), to(want);
    for (std::string is, must; std::getline(to, must);) {
        if (!std::getline(from, is)) is = "nothing";
        if (is != must) return "packed for another model or format: '" + is + "', must be '" + must + "'";
    }
    return "packed for another model or format";
}

} // namespace

Memory::Memory(size_t bytes) {
    constexpr size_t huge = size_t(2) << 20;
    bytes_ = (bytes + huge - 1) / huge * huge;
    void *at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    madvise(at, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<uint8_t *>(at);
}

Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}

Memory &Memory::operator=(Memory &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Runner::Runner(const Geometry &geometry, const Variant &variant, int threads, const std::vector<int> &cores,
               int step_tokens_max)
    : geometry_(geometry), variant_(variant), step_tokens_max_(step_tokens_max), team_(threads, cores),
      scratch_(size_t(threads)) {
    geometry_.check();
    if (step_tokens_max < 1 || step_tokens_max > 65536)
        throw std::invalid_argument("step_tokens_max = " + std::to_string(step_tokens_max) +
                                    ": must be 1 to 65536");
}

int Runner::add_weights(Format format, const uint8_t *packed, size_t bytes) {
    Layout layout(geometry_, format);
    std::string want = header_text(geometry_, format);
    if (bytes < layout.bytes)
        throw std::invalid_argument("weights: " + std::to_string(bytes) + " bytes, the packed model needs " +
                                    std::to_string(layout.bytes));
    if (reinterpret_cast<uintptr_t>(packed) % 64 != 0)
        throw std::invalid_argument("weights: the buffer must start at a multiple of 64 bytes");
    std::string have(reinterpret_cast<const char *>(packed), strnlen(reinterpret_cast<const char *>(packed), kHeaderBytes));
    if (have != want) throw std::invalid_argument("weights: " + difference(have, want));
    layouts_.push_back(layout);
    weights_.push_back(packed);
    return int(weights_.size()) - 1;
}

void Runner::attach_pool(uint8_t *pool, size_t bytes, int64_t pages) {
    if (pages < 1 || pages > INT32_MAX)
        throw std::invalid_argument("pages = " + std::to_string(pages) + ": must be 1 to 2147483647");
    if (bytes < size_t(pages) * geometry_.page_bytes())
        throw std::invalid_argument("pool: " + std::to_string(bytes) + " bytes for " + std::to_string(pages) +
                                    " pages of " + std::to_string(geometry_.page_bytes()));
    if (reinterpret_cast<uintptr_t>(pool) % 64 != 0)
        throw std::invalid_argument("pool: must start at a multiple of 64 bytes");
    pool_ = pool;
    pool_pages_ = pages;
}

void Runner::check(const std::vector<SpanView> &spans) {
    int64_t rows = 0;
    for (size_t i = 0; i < spans.size(); ++i) {
        check_span(i, spans[i]);
        rows += spans[i].count;
    }
    if (rows > step_tokens_max_)
        throw std::invalid_argument("spans: " + std::to_string(rows) + " tokens, step_tokens_max is " +
                                    std::to_string(step_tokens_max_));
    check_writers(spans);
}

void Runner::check_span(size_t i, const SpanView &span) const {
    if (span.count < 1) refuse(i, "tokens: must hold at least one token");
    if (span.first_position < 0 || span.first_position > geometry_.context_max - span.count)
        refuse(i, "first_position = " + std::to_string(span.first_position) + " with " +
                      std::to_string(span.count) + " tokens: must stay within 0 to context_max = " +
                      std::to_string(geometry_.context_max));
    int64_t needed = (span.first_position + span.count + kPageTokens - 1) / kPageTokens;
    if (span.page_count != needed)
        refuse(i, "pages: " + std::to_string(span.page_count) + " pages, must be " + std::to_string(needed));
    for (int64_t k = 0; k < needed; ++k)
        if (span.pages[k] < 0 || span.pages[k] >= pool_pages_)
            refuse(i, "pages[" + std::to_string(k) + "] = " + std::to_string(span.pages[k]) +
                          ": the pool has pages 0 to " + std::to_string(pool_pages_ - 1));
    for (int64_t k = 0; k < span.count; ++k)
        if (span.tokens[k] < 0 || span.tokens[k] >= geometry_.vocabulary)
            refuse(i, "tokens[" + std::to_string(k) + "] = " + std::to_string(span.tokens[k]) +
                          ": the vocabulary has ids 0 to " + std::to_string(geometry_.vocabulary - 1));
    if (span.keeps_logits && (span.logits_from < 0 || span.logits_from >= span.count))
        refuse(i, "logits_from = " + std::to_string(span.logits_from) + ": must be 0 to " +
                      std::to_string(span.count - 1));
}

// A page that one span writes is in no other table, and in its own only once: else what is read there
// would depend on the order of the work.
void Runner::check_writers(const std::vector<SpanView> &spans) {
    page_mark_.resize(size_t(pool_pages_), 0);
    int64_t written = mark_, read = mark_ + int64_t(spans.size());
    mark_ = read + int64_t(spans.size());
    for (size_t i = 0; i < spans.size(); ++i)
        for (int64_t k = spans[i].first_position / kPageTokens; k < spans[i].page_count; ++k) {
            int64_t &mark = page_mark_[size_t(spans[i].pages[k])];
            if (mark > written)
                refuse(i, "pages[" + std::to_string(k) + "]: page " + std::to_string(spans[i].pages[k]) +
                              " is also written elsewhere in this step");
            mark = written + 1 + int64_t(i);
        }
    for (size_t i = 0; i < spans.size(); ++i)
        for (int64_t k = 0; k < spans[i].first_position / kPageTokens; ++k) {
            int64_t &mark = page_mark_[size_t(spans[i].pages[k])];
            if (mark == read + 1 + int64_t(i))
                refuse(i, "pages[" + std::to_string(k) + "]: page " + std::to_string(spans[i].pages[k]) +
                              " stands twice in the table");
            if (mark > written && mark <= read)
                refuse(i, "pages[" + std::to_string(k) + "]: page " + std::to_string(spans[i].pages[k]) +
                              " is written by spans[" + std::to_string(mark - written - 1) + "]");
            mark = read + 1 + int64_t(i);
        }
}

void Runner::reserve_logits(int rows) {
    size_t row_bytes = logits_stride() * sizeof(float), needed = size_t(std::max(rows, 1)) * row_bytes;
    bool shrink = rows <= kLogitsRowsKept && logits_.bytes() > 2 * kLogitsRowsKept * row_bytes + (size_t(2) << 20);
    if (logits_.bytes() < needed || shrink)
        logits_ = Memory(std::max(needed, rows > 8 ? std::min(rows, kLogitsRowsKept) * row_bytes : 8 * row_bytes));
}

void Runner::reserve_rows(int rows) {
    if (rows <= row_capacity_) return;
    int capacity = std::min(std::max({rows, 2 * row_capacity_, 16}), step_tokens_max_);
    Step counted{};
    buffers_ = Memory(carve_rows(counted, geometry_, size_t(capacity), nullptr));
    carve_rows(step_, geometry_, size_t(capacity), buffers_.data());
    row_capacity_ = capacity;
}

void Runner::reserve_positions(int positions) {
    if (positions <= position_capacity_) return;
    int capacity = std::min(std::max(positions, 2 * position_capacity_), geometry_.context_max);
    capacity = std::max(capacity, std::min(512, geometry_.context_max));
    size_t half = size_t(geometry_.head_dim) / 2;
    cosine_.resize(size_t(capacity) * half);
    sine_.resize(size_t(capacity) * half);
    for (size_t pair = 0; pair < half; ++pair) {
        double turn = frequency(geometry_, int(pair));
        for (int position = position_capacity_; position < capacity; ++position) {
            cosine_[position * half + pair] = float(std::cos(position * turn));
            sine_[position * half + pair] = float(std::sin(position * turn));
        }
    }
    position_capacity_ = capacity;
}

void Runner::reserve_scores(int positions) {
    if (positions <= score_capacity_) return;
    int capacity = std::max(positions, std::min(2 * score_capacity_, geometry_.context_max));
    capacity = (std::max(capacity, 512) + 31) / 32 * 32;
    Scratch counted{};
    size_t bytes = carve_scratch(counted, geometry_, size_t(capacity), nullptr);
    scratch_memory_ = Memory(bytes * scratch_.size());
    for (size_t i = 0; i < scratch_.size(); ++i)
        carve_scratch(scratch_[i], geometry_, size_t(capacity), scratch_memory_.data() + i * bytes);
    score_capacity_ = capacity;
}

void Runner::list_rows(const std::vector<SpanView> &spans) {
    Rows &r = rows_;
    r.tokens.clear(), r.positions.clear(), r.logits_source.clear(), r.logits_target.clear();
    r.pages.clear(), r.tiles.clear();
    int group = geometry_.heads / geometry_.kv_heads;
    int tile_tokens = std::max(1, std::min(kTileTokens, kTileQueries / group));
    for (const SpanView &span : spans) {
        int first_row = int(r.tokens.size());
        for (int i = 0; i < span.count; ++i) {
            r.tokens.push_back(span.tokens[i]);
            r.positions.push_back(int32_t(span.first_position) + i);
            r.pages.push_back(span.pages);
            if (i < span.logits_from) continue;
            r.logits_source.push_back(first_row + i);
            r.logits_target.push_back(span.logits_row + i - int(span.logits_from));
        }
        for (int i = 0; i < span.count; i += tile_tokens)
            r.tiles.push_back({first_row + i, std::min(tile_tokens, int(span.count) - i)});
    }
}

Step Runner::step_of(const Layout &layout, const uint8_t *weights) {
    Step s = step_;
    s.layout = &layout, s.weights = weights, s.pool = pool_;
    s.cosine = cosine_.data(), s.sine = sine_.data();
    s.rows = int(rows_.tokens.size());
    s.tokens = rows_.tokens.data(), s.positions = rows_.positions.data(), s.pages = rows_.pages.data();
    s.tiles = int(rows_.tiles.size()), s.tile = rows_.tiles.data();
    s.logits_rows = int(rows_.logits_source.size());
    s.logits_source = rows_.logits_source.data(), s.logits_target = rows_.logits_target.data();
    s.logits = logits_.as<float>(), s.logits_stride = logits_stride();
    s.scratch = scratch_.data(), s.score_stride = size_t(score_capacity_);
    return s;
}

void Runner::run(int weights, const std::vector<SpanView> &spans) {
    if (spans.empty()) return;
    RoundToNearest mode; // the tables of angles too
    list_rows(spans);
    int end = 1 + *std::max_element(rows_.positions.begin(), rows_.positions.end());
    reserve_rows(int(rows_.tokens.size()));
    reserve_positions(end);
    reserve_scores(end);
    Step step = step_of(layouts_[size_t(weights)], weights_[size_t(weights)]);
    team_.run([&](int thread) { variant_.forward(step, team_, thread); });
}

} // namespace diptych
