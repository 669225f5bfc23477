// Sixteen float32 lanes on every instruction set, so that norms, softmax and activations are written
// once and give the same bits everywhere: only +, -, *, /, compare and integer operations, no fused
// multiply-add (the build forbids contraction) and sums by lane in one fixed tree.
//
// Everything here and in the other headers of a variant lies in an unnamed namespace: the same source
// is compiled several times with different -m flags, and a function shared by the linker would run
// AVX-512 instructions on a CPU that has none.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = 16 / kWidth;

typedef float VectorF __attribute__((vector_size(4 * kWidth)));
typedef int32_t VectorI __attribute__((vector_size(4 * kWidth)));
typedef VectorF UnalignedF __attribute__((aligned(4)));
typedef VectorI UnalignedI __attribute__((aligned(4)));

#define DIPTYCH_INLINE inline __attribute__((always_inline))
#define DIPTYCH_EACH_PART                                                                                \
    _Pragma("GCC unroll 4") for (int part = 0; part < kParts; ++part)

struct Int16 {
    VectorI part[kParts];
};
struct Float16 { // sixteen lanes, not half precision
    VectorF part[kParts];
};

#define DIPTYCH_OPERATOR(Type, op)                                                                       \
    DIPTYCH_INLINE Type operator op(const Type &a, const Type &b) {                                      \
        Type out;                                                                                        \
        DIPTYCH_EACH_PART out.part[part] = a.part[part] op b.part[part];                                 \
        return out;                                                                                      \
    }
DIPTYCH_OPERATOR(Float16, +)
DIPTYCH_OPERATOR(Float16, -)
DIPTYCH_OPERATOR(Float16, *)
DIPTYCH_OPERATOR(Float16, /)
DIPTYCH_OPERATOR(Int16, +)
DIPTYCH_OPERATOR(Int16, -)
DIPTYCH_OPERATOR(Int16, &)
DIPTYCH_OPERATOR(Int16, |)
#undef DIPTYCH_OPERATOR

DIPTYCH_INLINE Int16 splat(int32_t value) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = VectorI{} + value;
    return out;
}
DIPTYCH_INLINE Float16 splat(float value) { // by its bits: adding it to zero would cost an addition
    int32_t raw;
    std::memcpy(&raw, &value, 4);
    Int16 all = splat(raw);
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = reinterpret_cast<VectorF>(all.part[part]);
    return out;
}
DIPTYCH_INLINE Float16 zero() { return splat(0.0f); }

DIPTYCH_INLINE Float16 load(const float *source) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = *reinterpret_cast<const UnalignedF *>(source + part * kWidth);
    return out;
}
DIPTYCH_INLINE void store(float *target, const Float16 &value) {
    DIPTYCH_EACH_PART *reinterpret_cast<UnalignedF *>(target + part * kWidth) = value.part[part];
}
DIPTYCH_INLINE void store(int32_t *target, const Int16 &value) {
    DIPTYCH_EACH_PART *reinterpret_cast<UnalignedI *>(target + part * kWidth) = value.part[part];
}
DIPTYCH_INLINE Int16 bits(const Float16 &value) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = reinterpret_cast<VectorI>(value.part[part]);
    return out;
}
DIPTYCH_INLINE Float16 from_bits(const Int16 &value) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = reinterpret_cast<VectorF>(value.part[part]);
    return out;
}
DIPTYCH_INLINE Int16 shift_left(const Int16 &value, int count) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = value.part[part] << count;
    return out;
}
DIPTYCH_INLINE Int16 shift_right(const Int16 &value, int count) { // arithmetic
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = value.part[part] >> count;
    return out;
}
DIPTYCH_INLINE Float16 greater_of(const Float16 &a, const Float16 &b) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = a.part[part] > b.part[part] ? a.part[part] : b.part[part];
    return out;
}
DIPTYCH_INLINE Float16 lesser_of(const Float16 &a, const Float16 &b) {
    Float16 out;
    DIPTYCH_EACH_PART out.part[part] = a.part[part] < b.part[part] ? a.part[part] : b.part[part];
    return out;
}
// Lanes where a > b keep `value`, the others are exactly +0 (also where a or b is NaN).
DIPTYCH_INLINE Float16 keep_where_greater(const Float16 &a, const Float16 &b, const Float16 &value) {
    Float16 out;
    DIPTYCH_EACH_PART {
        VectorI mask = a.part[part] > b.part[part];
        out.part[part] = reinterpret_cast<VectorF>(mask & reinterpret_cast<VectorI>(value.part[part]));
    }
    return out;
}
DIPTYCH_INLINE Float16 magnitude(const Float16 &value) {
    return from_bits(bits(value) & splat(int32_t(0x7fffffff)));
}

DIPTYCH_INLINE float sum(const Float16 &value) {
    float lane[16];
    store(lane, value);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lane[i] = lane[i] + lane[i + width];
    return lane[0];
}
// The order does not matter for a maximum or an integer sum, so these two may use what the CPU has.
DIPTYCH_INLINE float greatest(const Float16 &value) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(reinterpret_cast<__m512>(value.part[0]));
#else
    float lane[16];
    store(lane, value);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
#endif
}
DIPTYCH_INLINE int32_t sum(const Int16 &value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(value.part[0]));
#else
    int32_t lane[16], total = 0;
    store(lane, value);
    for (int i = 0; i < 16; ++i) total += lane[i];
    return total;
#endif
}

// Nearest integer, ties to even, for |value| < 2^22; adding 1.5 * 2^23 leaves no room for a fraction.
constexpr float kRounder = 12582912.0f;

DIPTYCH_INLINE Int16 nearest(const Float16 &value) {
    return bits(value + splat(kRounder)) - bits(splat(kRounder));
}

// 2^x: x = n + f with |f| <= 1/2, a polynomial of degree 6 (Chebyshev fit, relative error below 2e-7)
// for 2^f and n added to the exponent. Exactly 0 at and below -126; x is held below 127.
DIPTYCH_INLINE Float16 exp2(const Float16 &exponent) {
    Float16 x = lesser_of(greater_of(exponent, splat(-126.0f)), splat(126.999f));
    Float16 shifted = x + splat(kRounder);
    Int16 whole = bits(shifted) - bits(splat(kRounder));
    Float16 f = x - (shifted - splat(kRounder));
    Float16 y = splat(1.546144777e-4f);
    y = y * f + splat(1.339086681e-3f);
    y = y * f + splat(9.618056938e-3f);
    y = y * f + splat(5.550356954e-2f);
    y = y * f + splat(2.402265072e-1f);
    y = y * f + splat(6.931471825e-1f);
    y = y * f + splat(1.0f);
    Float16 power = from_bits(bits(y) + shift_left(whole, 23));
    return keep_where_greater(exponent, splat(-126.0f), power);
}

constexpr float kLog2E = 1.44269504088896340736f;

// bf16 bits of sixteen floats, to nearest even, in the low halves; subnormals become zero and NaN
// stays NaN, as VCVTNEPS2BF16 has it.
DIPTYCH_INLINE Int16 bf16_bits(const Float16 &value) {
    Int16 raw = bits(value);
    Int16 odd = shift_right(raw, 16) & splat(int32_t(1));
    Int16 rounded = shift_right(raw + odd + splat(int32_t(0x7fff)), 16) & splat(int32_t(0xffff));
    Int16 absolute = raw & splat(int32_t(0x7fffffff));
    Int16 out;
    DIPTYCH_EACH_PART {
        VectorI nan = absolute.part[part] > 0x7f800000;
        VectorI tiny = absolute.part[part] < 0x00800000;
        VectorI sign = (raw.part[part] >> 16) & 0x8000;
        VectorI kept = (rounded.part[part] & ~nan & ~tiny) | (nan & 0x7fc0) | (tiny & sign);
        out.part[part] = kept;
    }
    return out;
}

DIPTYCH_INLINE void store_low_halves(uint16_t *target, const Int16 &value) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(target),
                        _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(value.part[0])));
#else
    int32_t lane[16];
    store(lane, value);
    for (int i = 0; i < 16; ++i) target[i] = uint16_t(lane[i]);
#endif
}
DIPTYCH_INLINE void store_bf16(uint16_t *target, const Float16 &value) {
    store_low_halves(target, bf16_bits(value));
}
DIPTYCH_INLINE void store_low_bytes(int8_t *target, const Int16 &value) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i *>(target),
                     _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(value.part[0])));
#else
    int32_t lane[16];
    store(lane, value);
    for (int i = 0; i < 16; ++i) target[i] = int8_t(lane[i]);
#endif
}

} // namespace
