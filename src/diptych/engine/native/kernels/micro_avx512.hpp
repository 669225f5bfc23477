// Dot-product primitives of AVX-512 with BF16 and VNNI (Zen 4, Cooper Lake, Sapphire Rapids and later).
#pragma once
#include "lanes.hpp"

namespace {

constexpr int kBf16Rows = 8;    // 8 x 3 accumulators, 3 weights, 1 input: 28 of 32 registers
constexpr int kIntegerRows = 4; // 4 x 3 integer and 4 x 3 float accumulators
constexpr int kValueRows = 6;   // 6 x 4 accumulators of the weighted sum of V

struct Pairs { // sixteen pairs of bf16
    __m512i raw;
};
DIPTYCH_INLINE Pairs load_pairs(const uint8_t *source) { return {_mm512_loadu_si512(source)}; }
DIPTYCH_INLINE Pairs first_of_pairs(const Pairs &pairs) {
    return {_mm512_and_si512(pairs.raw, _mm512_set1_epi32(0xffff))};
}
DIPTYCH_INLINE Pairs splat_pair(const uint16_t *source) {
    int32_t pair;
    std::memcpy(&pair, source, 4);
    return {_mm512_set1_epi32(pair)};
}
// sum + a.second * b.second, then + a.first * b.first, each rounded once.
DIPTYCH_INLINE void dot_pairs(Float16 &sum, const Pairs &a, const Pairs &b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.part[0]) : "v"(a.raw), "v"(b.raw));
}

struct Codes { // sixteen times four weight codes, as stored
    __m512i raw;
};
struct Bytes { // four signed inputs in every lane
    __m512i raw;
};
DIPTYCH_INLINE Codes load_codes(const uint8_t *source) { return {_mm512_loadu_si512(source)}; }
DIPTYCH_INLINE Codes low_nibbles(const Codes &codes) {
    return {_mm512_and_si512(codes.raw, _mm512_set1_epi8(15))};
}
DIPTYCH_INLINE Codes high_nibbles(const Codes &codes) {
    return {_mm512_and_si512(_mm512_srli_epi16(codes.raw, 4), _mm512_set1_epi8(15))};
}
DIPTYCH_INLINE Bytes splat_bytes(const int8_t *source) {
    int32_t four;
    std::memcpy(&four, source, 4);
    return {_mm512_set1_epi32(four)};
}
// Codes are value + 128, so the sum starts at -128 times the sum of the inputs.
DIPTYCH_INLINE Int16 start_of_dot(int32_t input_sum) { return splat(int32_t(-128 * input_sum)); }
DIPTYCH_INLINE void dot_codes(Int16 &sum, const Codes &a, const Bytes &b) {
    // Not the intrinsic: with it GCC 12 copies and spills the accumulators of a register tile.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.part[0]) : "v"(a.raw), "v"(b.raw));
}
DIPTYCH_INLINE void dot_nibbles(Int16 &sum, const Codes &a, const Bytes &b) { dot_codes(sum, a, b); }

DIPTYCH_INLINE Float16 load_halves(const uint8_t *source) {
    __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source));
    return {{reinterpret_cast<VectorF>(_mm512_cvtph_ps(halves))}};
}
DIPTYCH_INLINE Float16 to_float(const Int16 &value) {
    return {{reinterpret_cast<VectorF>(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(value.part[0])))}};
}
DIPTYCH_INLINE Float16 fused(const Float16 &a, const Float16 &b, const Float16 &c) {
    return {{reinterpret_cast<VectorF>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a.part[0]),
                                                       reinterpret_cast<__m512>(b.part[0]),
                                                       reinterpret_cast<__m512>(c.part[0])))}};
}
DIPTYCH_INLINE void prefetch(const uint8_t *address) {
    _mm_prefetch(reinterpret_cast<const char *>(address), _MM_HINT_T0);
}

} // namespace
