// Compiled without any -m flag.
#include "cpu.hpp"

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

std::vector<std::string> runnable_isas() {
    std::vector<std::string> names;
    if (runs_avx512()) names.push_back("avx512");
    if (runs_avx2()) names.push_back("avx2");
    names.push_back("plain");
    return names;
}

std::string chosen_isa(const std::string &name) {
    const char *forced = std::getenv("DIPTYCH_ISA");
    std::string wanted = !name.empty() ? name : forced ? forced : "";
    std::vector<std::string> names = runnable_isas();
    if (wanted.empty()) return names.front();
    std::string list;
    for (const std::string &one : names) {
        if (one == wanted) return one;
        list += (list.empty() ? "" : ", ") + one;
    }
    throw std::invalid_argument("instruction set '" + wanted + "' (DIPTYCH_ISA): this CPU and build run " + list);
}

} // namespace diptych
