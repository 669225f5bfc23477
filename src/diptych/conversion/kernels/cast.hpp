// Rows of values from one type to another. A vector of 8-bit codes with a scale that had an infinite or a
// NaN reads back as NaN throughout.
//
// In an unnamed namespace: compiled once for each instruction set, see lanes.hpp.
#pragma once
#include "codes.hpp"
#include "plan.hpp"

namespace {

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
    // The bits of the greatest magnitude. As whole numbers, so that infinite and NaN are above the rest.
    DIPTYCH_INLINE int32_t greatest() const {
        Int16 most = splat(int32_t(0));
        each([&](int64_t, const Float16 &value, int64_t) { most = greater_of(most, absolute(bits(value))); });
        return top(most);
    }
    DIPTYCH_INLINE static int32_t top(const Int16 &most) {
#if defined(__AVX512F__)
        return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(most.part[0]));
#else
        VectorI one = most.part[0];
        for (int part = 1; part < kParts; ++part) one = one > most.part[part] ? one : most.part[part];
        int32_t lane[kWidth], out = 0;
        std::memcpy(lane, &one, sizeof lane);
        for (int i = 0; i < kWidth; ++i) out = lane[i] > out ? lane[i] : out;
        return out;
#endif
    }
};

// A row of bf16 may be compared as 16-bit numbers.
template <> DIPTYCH_INLINE int32_t Row<Bf16, false>::greatest() const {
    typedef uint16_t Wide __attribute__((vector_size(4 * kWidth)));
    constexpr int64_t kLanes = 2 * kWidth;
    Wide most = {};
    int64_t i = 0;
    for (; i + kLanes <= dims; i += kLanes) {
        Wide size;
        std::memcpy(&size, data + 2 * i, sizeof size);
        size &= 0x7fff;
        most = most > size ? most : size;
    }
    uint16_t lane[kLanes], out = 0;
    std::memcpy(lane, &most, sizeof lane);
    for (int64_t j = 0; j < kLanes; ++j) out = lane[j] > out ? lane[j] : out;
    for (; i < dims; ++i) {
        uint16_t one;
        std::memcpy(&one, data + 2 * i, 2);
        out = (one & 0x7fff) > out ? (one & 0x7fff) : out;
    }
    return int32_t(out) << 16;
}

template <class S, bool kScaled, class T> void plain_rows(diptych::Rows &rows) {
    for (int r = 0; r < rows.count; ++r) {
        Row<S, kScaled> row{rows.source[r], rows.dims, splat(rows.source_scale[r])};
        uint8_t *target = rows.target[r];
        row.each([&](int64_t i, const Float16 &value, int64_t count) {
            if (count == 16) return T::put(target + i * int64_t(T::kBytes), value);
            uint8_t padded[16 * T::kBytes];
            T::put(padded, value);
            std::memcpy(target + i * int64_t(T::kBytes), padded, size_t(count) * T::kBytes);
        });
    }
}

constexpr int32_t kLeast = 27 << 23; // 2^-100: a vector with nothing as large is zero

// Scales that make the greatest value of each row the greatest code, and what to multiply by.
template <class T> void choose_scales(const int32_t *greatest, diptych::Rows &rows, float *factor) {
    for (int r = 0; r < diptych::Rows::kMost; ++r) {
        bool usable = greatest[r] >= kLeast && greatest[r] < 0x7f800000;
        float most = bits_float(uint32_t(usable ? greatest[r] : 0x3f800000));
        float scale = most / T::kGreatest, by = T::kGreatest / most;
        float unusable = bits_float(greatest[r] < kLeast ? 0u : 0x7fc00000u);
        rows.target_scale[r] = usable ? scale : unusable;
        factor[r] = usable ? by : 0.0f;
    }
}

template <class S, bool kScaled, class T> void scaled_rows(diptych::Rows &rows) {
    int32_t greatest[diptych::Rows::kMost] = {};
    float factor[diptych::Rows::kMost];
    for (int r = 0; r < rows.count; ++r)
        greatest[r] = Row<S, kScaled>{rows.source[r], rows.dims, splat(rows.source_scale[r])}.greatest();
    choose_scales<T>(greatest, rows, factor);
    for (int r = 0; r < rows.count; ++r) {
        Row<S, kScaled> row{rows.source[r], rows.dims, splat(rows.source_scale[r])};
        uint8_t *target = rows.target[r];
        if (factor[r] == 0.0f) {
            std::memset(target, 0, size_t(rows.dims));
            continue;
        }
        Float16 by = splat(factor[r]);
        row.each([&](int64_t i, const Float16 &value, int64_t count) {
            if (count == 16) return T::put_scaled(target + i, value * by);
            uint8_t padded[16];
            T::put_scaled(padded, value * by);
            std::memcpy(target + i, padded, size_t(count));
        });
    }
}

template <class S, bool kScaled> diptych::CastRows rows_from(diptych::Dtype target, bool target_scaled) {
    switch (target) {
    case diptych::Dtype::float32: return plain_rows<S, kScaled, F32>;
    case diptych::Dtype::bfloat16: return plain_rows<S, kScaled, Bf16>;
    case diptych::Dtype::float16: return plain_rows<S, kScaled, F16>;
    case diptych::Dtype::float8_e4m3:
        return target_scaled ? scaled_rows<S, kScaled, E4m3> : plain_rows<S, kScaled, E4m3>;
    default: return scaled_rows<S, kScaled, I8>;
    }
}

diptych::CastRows cast_rows(diptych::Dtype source, bool source_scaled, diptych::Dtype target, bool target_scaled) {
    switch (source) {
    case diptych::Dtype::float32: return rows_from<F32, false>(target, target_scaled);
    case diptych::Dtype::bfloat16: return rows_from<Bf16, false>(target, target_scaled);
    case diptych::Dtype::float16: return rows_from<F16, false>(target, target_scaled);
    case diptych::Dtype::float8_e4m3:
        return source_scaled ? rows_from<E4m3, true>(target, target_scaled)
                             : rows_from<E4m3, false>(target, target_scaled);
    default: return rows_from<I8, true>(target, target_scaled);
    }
}

} // namespace
