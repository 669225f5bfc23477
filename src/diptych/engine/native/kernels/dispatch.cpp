// Which variant this CPU runs. Compiled without any -m flag.
#include "cpu.hpp"
#include "step.hpp"

namespace diptych {

std::vector<std::string> runnable_variants() { return runnable_isas(); }

const Variant &choose_variant(const std::string &name) {
    const std::string chosen = chosen_isa(name);
#if defined(DIPTYCH_X86)
    if (chosen == "avx512") return variant_avx512();
    if (chosen == "avx2") return variant_avx2();
#endif
    return variant_plain();
}

} // namespace diptych
