// The types of KV elements as sixteen lanes of float32. What a type cannot hold becomes infinite or NaN,
// never another finite number. The same bits for every instruction set.
//
// In an unnamed namespace: compiled once for each instruction set, see lanes.hpp.
#pragma once
#include "../../engine/native/kernels/half.hpp"
#include "narrow.hpp"

namespace {

// Lanes of `a` where the mask is set (all ones), of `b` elsewhere.
DIPTYCH_INLINE Int16 choose(const Int16 &mask, const Int16 &a, const Int16 &b) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = (mask.part[part] & a.part[part]) | (~mask.part[part] & b.part[part]);
    return out;
}
DIPTYCH_INLINE Int16 greater(const Int16 &a, int32_t b) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = a.part[part] > b;
    return out;
}
DIPTYCH_INLINE Int16 greater_of(const Int16 &a, const Int16 &b) {
    Int16 out;
    DIPTYCH_EACH_PART out.part[part] = a.part[part] > b.part[part] ? a.part[part] : b.part[part];
    return out;
}
DIPTYCH_INLINE Int16 absolute(const Int16 &raw) { return raw & splat(int32_t(0x7fffffff)); }

// Instruction sets keep other bits of a NaN: there is one here.
DIPTYCH_INLINE Float16 one_nan(const Float16 &value) {
    Int16 raw = bits(value);
    return from_bits(choose(greater(absolute(raw), 0x7f800000), splat(int32_t(0x7fc00000)), raw));
}

struct F32 {
    static constexpr size_t kBytes = 4;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        Float16 out;
        DIPTYCH_EACH_PART std::memcpy(&out.part[part], source + part * sizeof(VectorF), sizeof(VectorF));
        return out;
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        DIPTYCH_EACH_PART std::memcpy(target + part * sizeof(VectorF), &value.part[part], sizeof(VectorF));
    }
};

struct Bf16 {
    static constexpr size_t kBytes = 2;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        return from_bits(shift_left(widen_halves(source), 16));
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        Int16 raw = bits(value), odd = shift_right(raw, 16) & splat(int32_t(1));
        Int16 rounded = shift_right(raw + odd + splat(int32_t(0x7fff)), 16);
        Int16 nan = greater(absolute(raw), 0x7f800000);
        narrow_halves(target, choose(nan, splat(int32_t(0x7fc0)), rounded));
    }
};

struct F16 {
    static constexpr size_t kBytes = 2;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        Float16 out;
#if defined(__AVX512F__)
        out.part[0] = reinterpret_cast<VectorF>(
            _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(source))));
#elif defined(__F16C__)
        DIPTYCH_EACH_PART out.part[part] = reinterpret_cast<VectorF>(
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(source) + part)));
#else
        float lane[16];
        uint16_t half[16];
        std::memcpy(half, source, sizeof half);
        for (int i = 0; i < 16; ++i) lane[i] = half_float(half[i]);
        out = load(lane);
#endif
        return one_nan(out);
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &any) {
        Float16 value = one_nan(any);
#if defined(__AVX512F__)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(target),
                            _mm512_cvtps_ph(reinterpret_cast<__m512>(value.part[0]), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
        DIPTYCH_EACH_PART _mm_storeu_si128(
            reinterpret_cast<__m128i *>(target) + part,
            _mm256_cvtps_ph(reinterpret_cast<__m256>(value.part[part]), _MM_FROUND_TO_NEAREST_INT));
#else
        float lane[16];
        uint16_t half[16];
        store(lane, value);
        for (int i = 0; i < 16; ++i) half[i] = float_half(lane[i]);
        std::memcpy(target, half, sizeof half);
#endif
    }
};

// OCP E4M3 without infinities: bias 7, greatest value 448 (0x7e), NaN 0x7f.
struct E4m3 {
    static constexpr size_t kBytes = 1;
    static constexpr float kGreatest = 448.0f;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        Int16 code = widen_bytes(source), low = code & splat(int32_t(0x7f));
        Int16 normal = shift_left(low, 20) + splat(int32_t(120 << 23));
        Float16 small;
        DIPTYCH_EACH_PART small.part[part] = __builtin_convertvector(low.part[part], VectorF);
        small = small * splat(0.001953125f); // below 2^-6: steps of 2^-9
        Int16 value = choose(greater(low, 7), normal, bits(small));
        value = value | shift_left(code & splat(int32_t(0x80)), 24);
        return from_bits(choose(greater(low, 0x7e), splat(int32_t(0x7fc00000)), value));
    }
    // Adding 2^20 times the power of two below a value (2^-6 at least) leaves its eighths of that power,
    // rounded, in the low bits: the fraction with the leading one, and a carry where there is one. Only the
    // low byte of the result is the code.
    DIPTYCH_INLINE static Int16 code(const Float16 &value) {
        Int16 raw = bits(value), size = absolute(raw);
        Int16 power = greater_of(size & splat(int32_t(0x7f800000)), splat(int32_t(121 << 23)));
        Int16 ruler = power + splat(int32_t(20 << 23));
        Int16 eighths = bits(from_bits(size) + from_bits(ruler)); // the ruler's low byte is zero
        return eighths + (shift_right(power, 20) - splat(int32_t(121 << 3)));
    }
    DIPTYCH_INLINE static Int16 sign(const Float16 &value) {
        return shift_right(bits(value), 24) & splat(int32_t(0x80));
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        Int16 held = greater(absolute(bits(value)), 0x43e80000); // above 464, infinite, NaN
        narrow_bytes(target, choose(held, splat(int32_t(0x7f)), code(value)) | sign(value));
    }
    DIPTYCH_INLINE static void put_scaled(uint8_t *target, const Float16 &value) {
        narrow_bytes(target, code(value) | sign(value));
    }
};

struct I8 {
    static constexpr size_t kBytes = 1;
    static constexpr float kGreatest = 127.0f;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        Int16 code = widen_signed_bytes(source);
        Float16 out;
        DIPTYCH_EACH_PART out.part[part] = __builtin_convertvector(code.part[part], VectorF);
        return out;
    }
    DIPTYCH_INLINE static void put_scaled(uint8_t *target, const Float16 &value) {
        narrow_bytes(target, bits(value + splat(kRounder))); // whose low byte is zero
    }
};

} // namespace
