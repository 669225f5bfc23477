#include "micro_avx512.hpp"

#include "forward.hpp"

namespace diptych {

const Variant &variant_avx512() {
    static const Variant variant{"avx512", forward, row_greatest, row_powers};
    return variant;
}

} // namespace diptych
