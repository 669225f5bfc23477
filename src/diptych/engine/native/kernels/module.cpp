// Python face of the kernels. Everything below it speaks plain C++.
#include "pack.hpp"
#include "runner.hpp"
#include "sampling.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

namespace nb = nanobind;
using namespace diptych;

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LogitsRows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;

Geometry make_geometry(const nb::dict &fields) {
    Geometry g;
    auto number = [&](const char *name) { return nb::cast<int>(fields[name]); };
    g.layers = number("layers"), g.hidden = number("hidden"), g.heads = number("heads");
    g.kv_heads = number("kv_heads"), g.head_dim = number("head_dim"), g.ffn = number("ffn");
    g.vocabulary = number("vocabulary"), g.context_max = number("context_max");
    g.norm_epsilon = nb::cast<float>(fields["norm_epsilon"]);
    g.rope_theta = nb::cast<double>(fields["rope_theta"]);
    g.tied_head = nb::cast<bool>(fields["tied_head"]), g.qkv_bias = nb::cast<bool>(fields["qkv_bias"]);
    g.qk_norm = nb::cast<bool>(fields["qk_norm"]);
    if (fields.contains("rope_factor")) {
        g.rope_scaled = true;
        g.rope_factor = nb::cast<double>(fields["rope_factor"]);
        g.rope_low = nb::cast<double>(fields["rope_low"]);
        g.rope_high = nb::cast<double>(fields["rope_high"]);
        g.rope_original_context = number("rope_original_context");
    }
    g.check();
    return g;
}

class Packer {
  public:
    Packer(const Geometry &geometry, const std::string &format) : layout_(geometry, format_named(format)) {}
    size_t bytes() const { return layout_.bytes; }
    void write_header(Bytes out) const {
        check(out);
        diptych::write_header(layout_, out.data());
    }
    void pack(Bytes out, const std::string &slot, int layer, const std::string &encoding, int rows, int inputs,
              ConstBytes data) const {
        check(out);
        Source source{encoding, data.data(), data.size(), rows, inputs};
        nb::gil_scoped_release unlocked;
        pack_tensor(layout_, out.data(), slot, layer, source);
    }

  private:
    void check(const Bytes &out) const {
        if (out.size() < layout_.bytes) throw std::invalid_argument("out: too small for the packed model");
    }
    Layout layout_;
};

std::vector<int32_t> integer_array(nb::handle item, size_t span, const char *field) {
    Integers array;
    if (!nb::try_cast(item, array, false))
        throw std::invalid_argument("spans[" + std::to_string(span) + "]." + field +
                                    ": must be a contiguous int32 array of one dimension");
    return std::vector<int32_t>(array.data(), array.data() + array.size());
}

// The runner with the Python objects whose memory it uses.
class Core {
  public:
    Core(const Geometry &geometry, int threads, const std::vector<int> &cores, int step_tokens_max,
         const std::string &isa)
        : runner_(geometry, choose_variant(isa), threads, cores, step_tokens_max) {}

    int add_weights(const std::string &format, ConstBytes packed) {
        int index = runner_.add_weights(format_named(format), packed.data(), packed.size());
        weights_.push_back(packed);
        return index;
    }
    void attach_pool(Bytes pool, int64_t pages) {
        runner_.attach_pool(pool.data(), pool.size(), pages);
        pool_ = pool;
    }
    // spans: (index of the weights, first position, tokens, pages, logits_from or None) of a
    // whole step. Returns the number of logits rows.
    int step(const nb::list &spans) {
        if (!pool_.is_valid()) throw std::invalid_argument("pool: attach_pool first");
        // Copies: what has been checked must be what runs, whatever other threads do to the arrays.
        std::vector<std::vector<int32_t>> tokens, pages;
        std::vector<SpanView> views;
        std::vector<int> used;
        int rows = 0;
        for (nb::handle item : spans) {
            nb::tuple span = nb::borrow<nb::tuple>(item);
            tokens.push_back(integer_array(span[2], views.size(), "tokens"));
            pages.push_back(integer_array(span[3], views.size(), "pages"));
            bool keeps = !span[4].is_none();
            int64_t count = int64_t(tokens.back().size()), from = keeps ? nb::cast<int64_t>(span[4]) : count;
            used.push_back(nb::cast<int>(span[0]));
            views.push_back({nb::cast<int64_t>(span[1]), tokens.back().data(), count, pages.back().data(),
                             int64_t(pages.back().size()), keeps, from, rows});
            if (from >= 0 && from < count) rows += int(count - from);
        }
        runner_.check(views);
        nb::gil_scoped_release unlocked;
        runner_.reserve_logits(rows);
        run_by_weights(views, used);
        return rows;
    }
    // float32 [rows, stride] over the step's own memory.
    nb::ndarray<nb::numpy, const float, nb::ndim<2>> logits(nb::handle self, size_t rows) {
        size_t shape[2] = {rows, size_t(runner_.geometry().vocabulary)};
        int64_t strides[2] = {int64_t(runner_.logits_stride()), 1};
        return {runner_.logits(), 2, shape, self, strides};
    }
    std::string isa() const { return runner_.variant().name; }

  private:
    void run_by_weights(const std::vector<SpanView> &views, const std::vector<int> &used) {
        for (int index = 0; index < int(weights_.size()); ++index) {
            std::vector<SpanView> group;
            for (size_t i = 0; i < views.size(); ++i)
                if (used[i] == index) group.push_back(views[i]);
            runner_.run(index, group);
        }
    }
    std::vector<ConstBytes> weights_;
    Bytes pool_;
    Runner runner_;
};

std::vector<int> integers(const Integers &array) {
    return std::vector<int>(array.data(), array.data() + array.size());
}

nb::tuple sample_tuple(const Sample &sample, bool scored) {
    nb::list top;
    for (const auto &[token, logprob] : sample.top) top.append(nb::make_tuple(token, logprob));
    return nb::make_tuple(sample.token, scored ? nb::cast(sample.logprob) : nb::none(), nb::tuple(top));
}

// The instruction set for sampling, chosen once; every one gives the same bits here.
const Variant &sampling_variant() {
    static const Variant &variant = choose_variant("");
    return variant;
}

const float *row_of(const LogitsRows &logits, int64_t row) {
    if (row < 0 || row >= int64_t(logits.shape(0)))
        throw std::invalid_argument("row = " + std::to_string(row) + ": the step kept " +
                                    std::to_string(logits.shape(0)) + " rows");
    if (logits.stride(1) != 1) throw std::invalid_argument("logits: rows must be contiguous");
    return logits.data() + row * logits.stride(0);
}

nb::tuple sample_row(const LogitsRows &logits, int64_t row, Sampler &sampler, uint64_t output_index) {
    const float *values = row_of(logits, row);
    Sample sample;
    {
        nb::gil_scoped_release unlocked;
        sample = sampler.sample(values, int(logits.shape(1)), output_index, sampling_variant());
        sampler.record(sample.token);
    }
    return sample_tuple(sample, sampler.options().logprobs >= 0);
}

nb::list score_rows(const LogitsRows &logits, int64_t first_row, const Integers &targets, int top) {
    if (top < 0 || top > 20) throw std::invalid_argument("top: must be 0 to 20");
    int vocabulary = int(logits.shape(1));
    std::vector<Sample> samples;
    for (size_t i = 0; i < targets.size(); ++i)
        if (row_of(logits, first_row + int64_t(i)), targets.data()[i] < 0 || targets.data()[i] >= vocabulary)
            throw std::invalid_argument("targets[" + std::to_string(i) + "]: no token id of the vocabulary");
    {
        nb::gil_scoped_release unlocked;
        for (size_t i = 0; i < targets.size(); ++i)
            samples.push_back(score_row(row_of(logits, first_row + int64_t(i)), vocabulary, targets.data()[i],
                                        top, sampling_variant()));
    }
    nb::list out;
    for (const Sample &sample : samples) out.append(sample_tuple(sample, true));
    return out;
}

Sampler make_sampler(double temperature, int top_k, double top_p, double min_p, double repetition,
                     double frequency, double presence, const std::vector<std::pair<int, float>> &bias,
                     int logprobs, uint64_t seed, uint32_t choice, const Integers &prompt,
                     const Integers &emitted) {
    SamplingOptions options;
    options.temperature = temperature, options.top_k = top_k, options.top_p = top_p, options.min_p = min_p;
    options.repetition_penalty = repetition, options.frequency_penalty = frequency;
    options.presence_penalty = presence, options.bias = bias, options.logprobs = logprobs;
    options.seed = seed, options.choice = choice;
    return Sampler(options, integers(prompt), integers(emitted));
}

std::vector<uint32_t> philox_vector(const std::vector<uint32_t> &counter, const std::vector<uint32_t> &key) {
    if (counter.size() != 4 || key.size() != 2)
        throw std::invalid_argument("counter, key: four and two words of 32 bits");
    std::vector<uint32_t> out(4);
    philox(counter.data(), key.data(), out.data());
    return out;
}

} // namespace

NB_MODULE(_kernels, m) {
    nb::set_leak_warnings(false); // interpreter exit with live engines is no leak
    nb::class_<Geometry>(m, "Geometry").def("__init__", [](Geometry *self, const nb::dict &fields) {
        new (self) Geometry(make_geometry(fields));
    });
    nb::class_<Packer>(m, "Packer")
        .def(nb::init<const Geometry &, const std::string &>())
        .def_prop_ro("bytes", &Packer::bytes)
        .def("write_header", &Packer::write_header)
        .def("pack", &Packer::pack);
    nb::class_<Core>(m, "Core")
        .def(nb::init<const Geometry &, int, const std::vector<int> &, int, const std::string &>())
        .def("add_weights", &Core::add_weights)
        .def("attach_pool", &Core::attach_pool)
        .def("step", &Core::step)
        .def("logits", [](nb::handle self, size_t rows) { return nb::cast<Core &>(self).logits(self, rows); })
        .def_prop_ro("isa", &Core::isa);
    nb::class_<Sampler>(m, "Sampler");
    m.def("sampler", &make_sampler);
    m.def("sample_row", &sample_row);
    m.def("score_rows", &score_rows);
    m.def("uniform", &uniform);
    m.def("philox", &philox_vector);
    m.def("runnable_variants", &runnable_variants);
    m.def("default_variant", [] { return std::string(choose_variant("").name); });
}
