#include "cast.hpp"
#include "copy.hpp"

namespace diptych {

const CopyVariant &copy_variant_plain() {
    static const CopyVariant variant{"plain", copy_nest, stream_bytes, cast_rows};
    return variant;
}

} // namespace diptych
