// Dot-product primitives in plain C++, in the arithmetic of VDPBF16PS and VPDPBUSD: for CPUs without
// AVX2, and the obvious statement of what the other variants compute.
#pragma once
#include "half.hpp"
#include "lanes.hpp"

namespace {

constexpr int kBf16Rows = 2;
constexpr int kIntegerRows = 2;
constexpr int kValueRows = 2;

DIPTYCH_INLINE Float16 fused(const Float16 &a, const Float16 &b, const Float16 &c) {
    float x[16], y[16], z[16];
    store(x, a), store(y, b), store(z, c);
    for (int i = 0; i < 16; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
    return load(z);
}

struct Pairs {
    Float16 first, second;
};
DIPTYCH_INLINE Pairs load_pairs(const uint8_t *source) {
    Int16 raw;
    DIPTYCH_EACH_PART raw.part[part] = *reinterpret_cast<const UnalignedI *>(source + part * kWidth * 4);
    return {from_bits(shift_left(raw, 16)), from_bits(raw & splat(int32_t(0xffff0000)))};
}
DIPTYCH_INLINE Pairs first_of_pairs(const Pairs &pairs) { return {pairs.first, zero()}; }
DIPTYCH_INLINE Pairs splat_pair(const uint16_t *source) {
    return {splat(bf16_float(source[0])), splat(bf16_float(source[1]))};
}
// A product of two bf16 values is exact in float32 (while it is a normal number), so multiplying and
// adding rounds once, as a fused multiply-add does.
DIPTYCH_INLINE void dot_pairs(Float16 &sum, const Pairs &a, const Pairs &b) {
    sum = sum + a.second * b.second;
    sum = sum + a.first * b.first;
}

struct Codes {
    uint8_t code[64];
};
struct Bytes {
    int8_t four[4];
};
DIPTYCH_INLINE Codes load_codes(const uint8_t *source) {
    Codes out;
    std::memcpy(out.code, source, 64);
    return out;
}
DIPTYCH_INLINE Codes low_nibbles(const Codes &codes) {
    Codes out;
    for (int i = 0; i < 64; ++i) out.code[i] = codes.code[i] & 15;
    return out;
}
DIPTYCH_INLINE Codes high_nibbles(const Codes &codes) {
    Codes out;
    for (int i = 0; i < 64; ++i) out.code[i] = codes.code[i] >> 4;
    return out;
}
DIPTYCH_INLINE Bytes splat_bytes(const int8_t *source) {
    Bytes out;
    std::memcpy(out.four, source, 4);
    return out;
}
DIPTYCH_INLINE Int16 start_of_dot(int32_t) { return splat(int32_t(0)); }
DIPTYCH_INLINE void dot_shifted(Int16 &sum, const Codes &a, const Bytes &b, int shift) {
    int32_t lane[16];
    for (int i = 0; i < 16; ++i) {
        int32_t total = 0;
        for (int k = 0; k < 4; ++k) total += (int32_t(a.code[4 * i + k]) - shift) * b.four[k];
        lane[i] = total;
    }
    Int16 dot;
    DIPTYCH_EACH_PART dot.part[part] = *reinterpret_cast<const UnalignedI *>(lane + part * kWidth);
    sum = sum + dot;
}
DIPTYCH_INLINE void dot_codes(Int16 &sum, const Codes &a, const Bytes &b) { dot_shifted(sum, a, b, 128); }
DIPTYCH_INLINE void dot_nibbles(Int16 &sum, const Codes &a, const Bytes &b) { dot_shifted(sum, a, b, 0); }

DIPTYCH_INLINE Float16 load_halves(const uint8_t *source) {
    float lane[16];
    uint16_t half[16];
    std::memcpy(half, source, 32);
    for (int i = 0; i < 16; ++i) lane[i] = half_float(half[i]);
    return load(lane);
}
DIPTYCH_INLINE Float16 to_float(const Int16 &value) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = __builtin_convertvector(value.part[part], VectorF);
    return out;
}
DIPTYCH_INLINE void prefetch(const uint8_t *address) { __builtin_prefetch(address); }

} // namespace
