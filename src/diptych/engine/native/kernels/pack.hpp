// Weights from the encodings of model files into the panels of geometry.hpp.
#pragma once
#include "geometry.hpp"

namespace diptych {

// Source tensor: `rows` x `inputs` in encoding f32, f16, bf16, q8_0 or q4_1 (GGUF blocks of 32).
struct Source {
    std::string encoding;
    const uint8_t *data;
    size_t bytes;
    int rows, inputs;
};

void write_header(const Layout &layout, uint8_t *packed);
// Packs one canonical tensor (`query`, `gate`, `final_norm`, ...). Throws std::invalid_argument naming
// the tensor where its shape, encoding or values do not fit.
void pack_tensor(const Layout &layout, uint8_t *packed, const std::string &slot, int layer,
                 const Source &source);

} // namespace diptych
