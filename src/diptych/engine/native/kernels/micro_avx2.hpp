// Dot-product primitives of AVX2 with FMA and F16C, in the arithmetic of VDPBF16PS and VPDPBUSD.
#pragma once
#include "lanes.hpp"

namespace {

constexpr int kBf16Rows = 2;
constexpr int kIntegerRows = 2;
constexpr int kValueRows = 2;

DIPTYCH_INLINE VectorF fused_part(VectorF a, VectorF b, VectorF c) {
    return reinterpret_cast<VectorF>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
}
DIPTYCH_INLINE Float16 fused(const Float16 &a, const Float16 &b, const Float16 &c) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = fused_part(a.part[part], b.part[part], c.part[part]);
    return out;
}
DIPTYCH_INLINE __m256i load_half_codes(const uint8_t *source) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source));
}

struct Pairs {
    VectorF first[2], second[2];
};
DIPTYCH_INLINE Pairs split_pairs(__m256i low, __m256i high) {
    __m256i mask = _mm256_set1_epi32(int(0xffff0000));
    return {{reinterpret_cast<VectorF>(_mm256_slli_epi32(low, 16)),
             reinterpret_cast<VectorF>(_mm256_slli_epi32(high, 16))},
            {reinterpret_cast<VectorF>(_mm256_and_si256(low, mask)),
             reinterpret_cast<VectorF>(_mm256_and_si256(high, mask))}};
}
DIPTYCH_INLINE Pairs load_pairs(const uint8_t *source) {
    return split_pairs(load_half_codes(source), load_half_codes(source + 32));
}
DIPTYCH_INLINE Pairs first_of_pairs(const Pairs &pairs) {
    return {{pairs.first[0], pairs.first[1]}, {VectorF{}, VectorF{}}};
}
DIPTYCH_INLINE Pairs splat_pair(const uint16_t *source) {
    int32_t pair;
    std::memcpy(&pair, source, 4);
    __m256i both = _mm256_set1_epi32(pair);
    return split_pairs(both, both);
}
DIPTYCH_INLINE void dot_pairs(Float16 &sum, const Pairs &a, const Pairs &b) {
    DIPTYCH_EACH_PART {
        sum.part[part] = fused_part(a.second[part], b.second[part], sum.part[part]);
        sum.part[part] = fused_part(a.first[part], b.first[part], sum.part[part]);
    }
}

struct Codes {
    __m256i part[2];
};
struct Bytes {
    __m256i four;
};
DIPTYCH_INLINE Codes load_codes(const uint8_t *source) {
    return {{load_half_codes(source), load_half_codes(source + 32)}};
}
DIPTYCH_INLINE Codes low_nibbles(const Codes &codes) {
    __m256i mask = _mm256_set1_epi8(15);
    return {{_mm256_and_si256(codes.part[0], mask), _mm256_and_si256(codes.part[1], mask)}};
}
DIPTYCH_INLINE Codes high_nibbles(const Codes &codes) {
    Codes shifted = {{_mm256_srli_epi16(codes.part[0], 4), _mm256_srli_epi16(codes.part[1], 4)}};
    return low_nibbles(shifted);
}
DIPTYCH_INLINE Bytes splat_bytes(const int8_t *source) {
    int32_t four;
    std::memcpy(&four, source, 4);
    return {_mm256_set1_epi32(four)};
}
DIPTYCH_INLINE Int16 start_of_dot(int32_t) { return splat(int32_t(0)); }
DIPTYCH_INLINE VectorI widen_and_add(VectorI sum, __m256i unsigned_bytes, __m256i signed_bytes) {
    __m256i products = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
    __m256i fours = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
    return sum + reinterpret_cast<VectorI>(fours);
}
// VPMADDUBSW saturates at 16 bits; |weight| <= 128 and |input| <= 127 keep the pair below 32513, which
// value + 128 would not. So the sign moves from the weight to the input.
DIPTYCH_INLINE void dot_codes(Int16 &sum, const Codes &a, const Bytes &b) {
    DIPTYCH_EACH_PART {
        __m256i value = _mm256_xor_si256(a.part[part], _mm256_set1_epi8(-128));
        __m256i input = _mm256_sign_epi8(b.four, value);
        sum.part[part] = widen_and_add(sum.part[part], _mm256_abs_epi8(value), input);
    }
}
DIPTYCH_INLINE void dot_nibbles(Int16 &sum, const Codes &a, const Bytes &b) {
    DIPTYCH_EACH_PART sum.part[part] = widen_and_add(sum.part[part], a.part[part], b.four);
}

DIPTYCH_INLINE Float16 load_halves(const uint8_t *source) {
    Float16 out;
    DIPTYCH_EACH_PART {
        __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(source + 16 * part));
        out.part[part] = reinterpret_cast<VectorF>(_mm256_cvtph_ps(halves));
    }
    return out;
}
DIPTYCH_INLINE Float16 to_float(const Int16 &value) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = reinterpret_cast<VectorF>(
        _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(value.part[part])));
    return out;
}
DIPTYCH_INLINE void prefetch(const uint8_t *address) {
    _mm_prefetch(reinterpret_cast<const char *>(address), _MM_HINT_T0);
}

} // namespace
