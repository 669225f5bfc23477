// Sixteen lanes of codes of 8 and 16 bits. In an unnamed namespace: see lanes.hpp.
#pragma once
#include "../../engine/native/kernels/lanes.hpp"

namespace {

// Sixteen codes to whole numbers and back; of a number that is too large the low bits are kept. Compilers
// make single moves of the general conversions of vectors, so each instruction set has its own here.
#if defined(__AVX512F__)

DIPTYCH_INLINE Int16 lanes_of(__m512i all) { return {{reinterpret_cast<VectorI>(all)}}; }
DIPTYCH_INLINE __m512i all_of(const Int16 &value) { return reinterpret_cast<__m512i>(value.part[0]); }
DIPTYCH_INLINE __m128i load_bytes(const uint8_t *source) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(source));
}
DIPTYCH_INLINE Int16 widen_halves(const uint8_t *source) {
    return lanes_of(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(source))));
}
DIPTYCH_INLINE Int16 widen_bytes(const uint8_t *source) {
    return lanes_of(_mm512_cvtepu8_epi32(load_bytes(source)));
}
DIPTYCH_INLINE Int16 widen_signed_bytes(const uint8_t *source) {
    return lanes_of(_mm512_cvtepi8_epi32(load_bytes(source)));
}
DIPTYCH_INLINE void narrow_halves(uint8_t *target, const Int16 &value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(target), _mm512_cvtepi32_epi16(all_of(value)));
}
DIPTYCH_INLINE void narrow_bytes(uint8_t *target, const Int16 &value) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(target), _mm512_cvtepi32_epi8(all_of(value)));
}

#elif defined(__AVX2__)

DIPTYCH_INLINE __m256i part_of(const Int16 &value, int part) {
    return reinterpret_cast<__m256i>(value.part[part]);
}
DIPTYCH_INLINE Int16 lanes_of(__m256i low, __m256i high) {
    return {{reinterpret_cast<VectorI>(low), reinterpret_cast<VectorI>(high)}};
}
DIPTYCH_INLINE Int16 widen_halves(const uint8_t *source) {
    const __m128i *halves = reinterpret_cast<const __m128i *>(source);
    return lanes_of(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves)),
                    _mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1)));
}
DIPTYCH_INLINE __m128i load_bytes(const uint8_t *source) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i *>(source));
}
DIPTYCH_INLINE Int16 widen_bytes(const uint8_t *source) {
    return lanes_of(_mm256_cvtepu8_epi32(load_bytes(source)), _mm256_cvtepu8_epi32(load_bytes(source + 8)));
}
DIPTYCH_INLINE Int16 widen_signed_bytes(const uint8_t *source) {
    return lanes_of(_mm256_cvtepi8_epi32(load_bytes(source)), _mm256_cvtepi8_epi32(load_bytes(source + 8)));
}
DIPTYCH_INLINE __m256i pack_halves(const Int16 &value, int32_t mask) { // as 0, 1, 4, 5 | 2, 3, 6, 7 by fours
    __m256i kept = _mm256_set1_epi32(mask);
    return _mm256_packus_epi32(_mm256_and_si256(part_of(value, 0), kept), _mm256_and_si256(part_of(value, 1), kept));
}
DIPTYCH_INLINE void narrow_halves(uint8_t *target, const Int16 &value) {
    __m256i packed = _mm256_permute4x64_epi64(pack_halves(value, 0xffff), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(target), packed);
}
DIPTYCH_INLINE void narrow_bytes(uint8_t *target, const Int16 &value) {
    __m256i packed = _mm256_permute4x64_epi64(pack_halves(value, 0xff), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(target),
                     _mm_packus_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
}

#else

template <class T> DIPTYCH_INLINE Int16 widen(const uint8_t *source) {
    T codes[16];
    int32_t lane[16];
    Int16 out;
    std::memcpy(codes, source, sizeof codes);
    for (int i = 0; i < 16; ++i) lane[i] = codes[i];
    std::memcpy(&out, lane, sizeof out);
    return out;
}
template <class T> DIPTYCH_INLINE void narrow(uint8_t *target, const Int16 &value) {
    int32_t lane[16];
    T codes[16];
    store(lane, value);
    for (int i = 0; i < 16; ++i) codes[i] = T(lane[i]);
    std::memcpy(target, codes, sizeof codes);
}
DIPTYCH_INLINE Int16 widen_halves(const uint8_t *source) { return widen<uint16_t>(source); }
DIPTYCH_INLINE Int16 widen_bytes(const uint8_t *source) { return widen<uint8_t>(source); }
DIPTYCH_INLINE Int16 widen_signed_bytes(const uint8_t *source) { return widen<int8_t>(source); }
DIPTYCH_INLINE void narrow_halves(uint8_t *target, const Int16 &value) { narrow<uint16_t>(target, value); }
DIPTYCH_INLINE void narrow_bytes(uint8_t *target, const Int16 &value) { narrow<uint8_t>(target, value); }

#endif

} // namespace
