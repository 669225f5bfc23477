#include "cast.hpp"
#include "copy.hpp"

namespace diptych {

const CopyVariant &copy_variant_plain() {
    static const CopyVariant variant{"plain", copy_nest, cast_row};
    return variant;
}

} // namespace diptych
