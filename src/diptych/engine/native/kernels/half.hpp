// IEEE half precision and bf16 as scalars. In an unnamed namespace: see lanes.hpp.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

inline uint32_t float_bits(float value) {
    uint32_t out;
    std::memcpy(&out, &value, 4);
    return out;
}
inline float bits_float(uint32_t value) {
    float out;
    std::memcpy(&out, &value, 4);
    return out;
}

inline float half_float(uint16_t half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent == 0) { // zero and subnormals: fraction * 2^-24, exact
        float value = float(fraction) * 5.9604644775390625e-8f;
        return bits_float(float_bits(value) | sign);
    }
    if (exponent == 31) return bits_float(sign | 0x7f800000 | (fraction << 13));
    return bits_float(sign | ((exponent + 112) << 23) | (fraction << 13));
}

inline uint16_t float_half(float value) { // to nearest even
    uint32_t raw = float_bits(value), sign = (raw >> 16) & 0x8000, magnitude = raw & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (magnitude < 0x38800000) { // subnormal: adding 1/2 leaves the rounded fraction in the low bits
        float shifted = bits_float(magnitude) + 0.5f;
        return uint16_t(sign | (float_bits(shifted) - 0x3f000000));
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded >> 13) - 0x1c000));
}

inline float bf16_float(uint16_t value) { return bits_float(uint32_t(value) << 16); }

inline uint16_t float_bf16(float value) { // as lanes.hpp: subnormals to zero, NaN stays NaN
    uint32_t raw = float_bits(value), magnitude = raw & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fc0;
    if (magnitude < 0x00800000) return uint16_t((raw >> 16) & 0x8000);
    return uint16_t((raw + 0x7fff + ((raw >> 16) & 1)) >> 16);
}

} // namespace
