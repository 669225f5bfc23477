// Which variant this CPU runs. Compiled without any -m flag.
#include "step.hpp"

#include <cstdlib>
#include <stdexcept>

namespace diptych {

namespace {

bool runs_avx2() {
#if defined(DIPTYCH_X86)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool runs_avx512() {
#if defined(DIPTYCH_X86)
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

} // namespace

std::vector<std::string> runnable_variants() {
    std::vector<std::string> names;
    if (runs_avx512()) names.push_back("avx512");
    if (runs_avx2()) names.push_back("avx2");
    names.push_back("plain");
    return names;
}

const Variant &choose_variant(const std::string &name) {
    const char *forced = std::getenv("DIPTYCH_ISA");
    std::string wanted = !name.empty() ? name : forced ? forced : "";
    std::vector<std::string> names = runnable_variants();
    if (wanted.empty()) wanted = names.front();
    std::string list;
    for (const std::string &one : names) {
        list += (list.empty() ? "" : ", ") + one;
        if (one != wanted) continue;
#if defined(DIPTYCH_X86)
        if (one == "avx512") return variant_avx512();
        if (one == "avx2") return variant_avx2();
#endif
        return variant_plain();
    }
    throw std::invalid_argument("instruction set '" + wanted + "' (DIPTYCH_ISA): this CPU and build run " +
                                list);
}

} // namespace diptych
