#include "micro_avx2.hpp"

#include "forward.hpp"

namespace diptych {

const Variant &variant_avx2() {
    static const Variant variant{"avx2", forward, row_greatest, row_powers};
    return variant;
}

} // namespace diptych
