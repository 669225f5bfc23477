// Python face of the conversion kernels.
#include "converter.hpp"

#include "../../engine/native/kernels/cpu.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

namespace nb = nanobind;
using namespace diptych;

namespace {

using ConstBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Numbers = std::vector<int64_t>;
using LoopTuple = std::tuple<int64_t, int64_t, int64_t>; // extent, source stride, target stride
using Loops = std::vector<LoopTuple>;
using SideTuple = std::tuple<int64_t, Numbers, int64_t, Numbers, int64_t>;
using CastTuple = std::tuple<bool, Loops, Loops, std::vector<std::tuple<int64_t, int64_t>>>;
using NestTuple = std::tuple<SideTuple, SideTuple, Loops, int64_t, CastTuple>;

std::vector<Loop> loops_of(const Loops &tuples) {
    std::vector<Loop> out;
    for (const auto &[extent, source, target] : tuples) out.push_back({extent, source, target});
    return out;
}

Side side_of(const SideTuple &tuple) {
    const auto &[region, offsets, row_bytes, scale_offsets, scale_row_bytes] = tuple;
    return {region, offsets, row_bytes, scale_offsets, scale_row_bytes};
}

Nest nest_of(const NestTuple &tuple) {
    const auto &[source, target, loops, run_bytes, cast] = tuple;
    const auto &[casts, gather, scatter, scale_steps] = cast;
    Nest nest;
    nest.source = side_of(source), nest.target = side_of(target), nest.loops = loops_of(loops);
    nest.run_bytes = run_bytes, nest.casts = casts;
    nest.cast.gather = loops_of(gather), nest.cast.scatter = loops_of(scatter);
    if (casts && scale_steps.size() != nest.loops.size())
        throw std::invalid_argument("nests: scale steps are not of the loops");
    for (size_t i = 0; casts && i < nest.loops.size(); ++i) {
        const Loop &loop = nest.loops[i];
        const auto &[from, to] = scale_steps[i];
        nest.cast.loops.push_back({loop.extent, loop.source, loop.target, from, to});
    }
    return nest;
}

Dtype dtype_of(const std::string &name) {
    const char *names[] = {"float32", "bfloat16", "float16", "float8_e4m3", "int8"};
    for (int i = 0; i < 5; ++i)
        if (name == names[i]) return Dtype(i);
    throw std::invalid_argument("dtype: '" + name + "' is unknown");
}

Converter *make_converter(const std::vector<NestTuple> &tuples, const std::string &source_dtype,
                          const std::string &target_dtype, int64_t tokens, int64_t dims,
                          int64_t source_page_bytes, int64_t target_page_bytes, const std::string &isa) {
    std::vector<Nest> nests;
    for (const NestTuple &tuple : tuples) nests.push_back(nest_of(tuple));
    Shape shape{dtype_of(source_dtype), dtype_of(target_dtype), tokens, dims};
    return new Converter(std::move(nests), shape, source_page_bytes, target_page_bytes, choose_copy_variant(isa));
}

void run(const Converter &converter, const std::vector<ConstBytes> &source, const Ids &source_pages,
         const std::vector<Bytes> &target, const Ids &target_pages) {
    std::vector<Region> from, to;
    for (const ConstBytes &one : source) from.push_back({const_cast<uint8_t *>(one.data()), one.size()});
    for (const Bytes &one : target) to.push_back({one.data(), one.size()});
    // Copies: what has been checked must be what runs, whatever other threads do to the arrays.
    Numbers read(source_pages.data(), source_pages.data() + source_pages.size());
    Numbers written(target_pages.data(), target_pages.data() + target_pages.size());
    nb::gil_scoped_release unlocked;
    converter.run(from, {read.data(), int64_t(read.size())}, to, {written.data(), int64_t(written.size())});
}

} // namespace

NB_MODULE(_conversion, m) {
    nb::class_<Converter>(m, "Converter")
        .def(nb::new_(&make_converter))
        .def("run", &run)
        .def_prop_ro("isa", &Converter::isa);
    m.def("runnable_isas", &runnable_isas);
}
