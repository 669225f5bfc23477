// Rows of values from one type to another, by sixteen lanes of float32. What a target cannot hold becomes
// infinite or NaN, never another finite number; a vector of 8-bit codes that had an element of that kind
// reads back as NaN throughout. The same bits for every instruction set.
//
// In an unnamed namespace: compiled once for each instruction set, see lanes.hpp.
#pragma once
#include "../../engine/native/kernels/half.hpp"
#include "../../engine/native/kernels/lanes.hpp"
#include "plan.hpp"

namespace {

typedef uint16_t NarrowU16 __attribute__((vector_size(2 * kWidth)));
typedef uint8_t NarrowU8 __attribute__((vector_size(kWidth)));
typedef int8_t NarrowI8 __attribute__((vector_size(kWidth)));

template <class N> DIPTYCH_INLINE Int16 widen(const uint8_t *source) {
    Int16 out;
    DIPTYCH_EACH_PART {
        N narrow;
        std::memcpy(&narrow, source + part * sizeof narrow, sizeof narrow);
        out.part[part] = __builtin_convertvector(narrow, VectorI);
    }
    return out;
}
template <class N> DIPTYCH_INLINE void narrow(uint8_t *target, const Int16 &value) {
    DIPTYCH_EACH_PART {
        N low = __builtin_convertvector(value.part[part], N);
        std::memcpy(target + part * sizeof low, &low, sizeof low);
    }
}
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
        std::memcpy(&out, source, sizeof out);
        return out;
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        std::memcpy(target, &value, sizeof value);
    }
};

struct Bf16 {
    static constexpr size_t kBytes = 2;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        return from_bits(shift_left(widen<NarrowU16>(source), 16));
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        Int16 raw = bits(value), odd = shift_right(raw, 16) & splat(int32_t(1));
        Int16 rounded = shift_right(raw + odd + splat(int32_t(0x7fff)), 16);
        Int16 nan = greater(absolute(raw), 0x7f800000);
        narrow<NarrowU16>(target, choose(nan, splat(int32_t(0x7fc0)), rounded) & splat(int32_t(0xffff)));
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
        Int16 code = widen<NarrowU8>(source), low = code & splat(int32_t(0x7f));
        Int16 normal = shift_left(low, 20) + splat(int32_t(120 << 23));
        Float16 small;
        DIPTYCH_EACH_PART small.part[part] = __builtin_convertvector(low.part[part], VectorF);
        small = small * splat(0.001953125f); // below 2^-6: steps of 2^-9
        Int16 value = choose(greater(low, 7), normal, bits(small));
        value = value | shift_left(code & splat(int32_t(0x80)), 24);
        return from_bits(choose(greater(low, 0x7e), splat(int32_t(0x7fc00000)), value));
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        Int16 raw = bits(value), size = absolute(raw);
        Int16 odd = shift_right(size, 20) & splat(int32_t(1));
        Int16 normal = shift_right(size + odd + splat(int32_t(0x7ffff)), 20) - splat(int32_t(120 << 3));
        // Adding 2^14 leaves multiples of 2^-9, rounded, in the low bits.
        Int16 small = bits(from_bits(size) + splat(16384.0f)) - bits(splat(16384.0f));
        Int16 code = choose(greater(size, 0x3c7fffff), normal, small); // from 2^-6 on
        code = choose(greater(size, 0x43e80000), splat(int32_t(0x7f)), code); // above 464, infinite, NaN
        Int16 sign = shift_right(raw, 24) & splat(int32_t(0x80));
        narrow<NarrowU8>(target, code | sign);
    }
};

struct I8 {
    static constexpr size_t kBytes = 1;
    static constexpr float kGreatest = 127.0f;
    DIPTYCH_INLINE static Float16 get(const uint8_t *source) {
        Int16 code = widen<NarrowI8>(source);
        Float16 out;
        DIPTYCH_EACH_PART out.part[part] = __builtin_convertvector(code.part[part], VectorF);
        return out;
    }
    DIPTYCH_INLINE static void put(uint8_t *target, const Float16 &value) {
        narrow<NarrowU8>(target, nearest(value) & splat(int32_t(0xff)));
    }
};

// A row of S, each value times the row's scale where it has one.
template <class S, bool kScaled> struct Row {
    const uint8_t *data;
    int64_t dims;
    Float16 scale;

    DIPTYCH_INLINE Float16 at(const uint8_t *codes) const {
        return kScaled ? one_nan(S::get(codes) * scale) : S::get(codes);
    }
    // `take(index, values, count)` for every sixteen; the last, shorter ones are filled up with zeros.
    template <class Take> DIPTYCH_INLINE void each(const Take &take) const {
        int64_t i = 0;
        for (; i + 16 <= dims; i += 16) take(i, at(data + i * int64_t(S::kBytes)), 16);
        if (i == dims) return;
        uint8_t padded[16 * S::kBytes] = {};
        std::memcpy(padded, data + i * int64_t(S::kBytes), size_t(dims - i) * S::kBytes);
        take(i, at(padded), dims - i);
    }
};

template <class T> DIPTYCH_INLINE void put(uint8_t *target, int64_t index, const Float16 &value, int64_t count) {
    if (count == 16) return T::put(target + index * int64_t(T::kBytes), value);
    uint8_t padded[16 * T::kBytes];
    T::put(padded, value);
    std::memcpy(target + index * int64_t(T::kBytes), padded, size_t(count) * T::kBytes);
}

constexpr float kLeast = 7.888609052210118e-31f; // 2^-100: a vector with nothing above it is zero

template <class S, bool kScaled, class T>
void plain_row(const uint8_t *source, float scale, uint8_t *target, float *, int64_t dims) {
    Row<S, kScaled> row{source, dims, splat(scale)};
    row.each([&](int64_t i, const Float16 &value, int64_t count) { put<T>(target, i, value, count); });
}

template <class S, bool kScaled, class T>
void scaled_row(const uint8_t *source, float scale, uint8_t *target, float *target_scale, int64_t dims) {
    Row<S, kScaled> row{source, dims, splat(scale)};
    Int16 most = splat(int32_t(0));
    row.each([&](int64_t, const Float16 &value, int64_t) {
        Int16 size = absolute(bits(value));
        DIPTYCH_EACH_PART most.part[part] = size.part[part] > most.part[part] ? size.part[part] : most.part[part];
    });
    // As whole numbers: NaN and infinite are above every finite one.
    int32_t lane[16], top = 0;
    store(lane, most);
    for (int j = 0; j < 16; ++j) top = lane[j] > top ? lane[j] : top;
    float greatest = bits_float(uint32_t(top));
    bool finite = top < 0x7f800000, zero_row = greatest < kLeast;
    *target_scale = !finite ? bits_float(0x7fc00000) : zero_row ? 0.0f : greatest / T::kGreatest;
    Float16 factor = splat(finite && !zero_row ? T::kGreatest / greatest : 0.0f);
    if (!finite || zero_row) {
        std::memset(target, 0, size_t(dims) * T::kBytes);
        return;
    }
    row.each([&](int64_t i, const Float16 &value, int64_t count) { put<T>(target, i, value * factor, count); });
}

template <class S, bool kScaled> diptych::CastRow row_from(diptych::Dtype target, bool target_scaled) {
    switch (target) {
    case diptych::Dtype::float32: return plain_row<S, kScaled, F32>;
    case diptych::Dtype::bfloat16: return plain_row<S, kScaled, Bf16>;
    case diptych::Dtype::float16: return plain_row<S, kScaled, F16>;
    case diptych::Dtype::float8_e4m3:
        return target_scaled ? scaled_row<S, kScaled, E4m3> : plain_row<S, kScaled, E4m3>;
    default: return scaled_row<S, kScaled, I8>;
    }
}

diptych::CastRow cast_row(diptych::Dtype source, bool source_scaled, diptych::Dtype target, bool target_scaled) {
    switch (source) {
    case diptych::Dtype::float32: return row_from<F32, false>(target, target_scaled);
    case diptych::Dtype::bfloat16: return row_from<Bf16, false>(target, target_scaled);
    case diptych::Dtype::float16: return row_from<F16, false>(target, target_scaled);
    case diptych::Dtype::float8_e4m3:
        return source_scaled ? row_from<E4m3, true>(target, target_scaled)
                             : row_from<E4m3, false>(target, target_scaled);
    default: return row_from<I8, true>(target, target_scaled);
    }
}

} // namespace
