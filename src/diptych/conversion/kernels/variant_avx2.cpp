#include "cast.hpp"
#include "copy.hpp"

namespace diptych {

const CopyVariant &copy_variant_avx2() {
    static const CopyVariant variant{"avx2", copy_nest, cast_row};
    return variant;
}

} // namespace diptych
