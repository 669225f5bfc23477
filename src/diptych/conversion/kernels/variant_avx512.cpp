#include "cast.hpp"
#include "copy.hpp"

namespace diptych {

const CopyVariant &copy_variant_avx512() {
    static const CopyVariant variant{"avx512", copy_nest, stream_bytes, cast_rows};
    return variant;
}

} // namespace diptych
