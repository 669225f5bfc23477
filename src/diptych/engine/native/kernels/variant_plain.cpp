#include "micro_plain.hpp"

#include "forward.hpp"

namespace diptych {

const Variant &variant_plain() {
    static const Variant variant{"plain", forward, row_greatest, row_powers};
    return variant;
}

} // namespace diptych
