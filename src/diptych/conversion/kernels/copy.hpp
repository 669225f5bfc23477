// Strided copies. A nest ends in one of three inner loops: runs that are contiguous on both sides, a
// transposition (one loop steps by an element on the source's side, another on the target's), or single
// elements. Transpositions go by blocks of registers, so that both sides are touched in whole lines.
//
// A large copy is streamed: whole lines go past the caches (non-temporal stores), because reading a line
// only to overwrite it would cost as much as the read that is wanted. That needs lines that are written
// from end to end, so a nest is streamed only where its target is made of whole, aligned lines.
//
// In an unnamed namespace: compiled once for each instruction set, see lanes.hpp.
#pragma once
#include "plan.hpp"

#include <algorithm>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace {

using diptych::Loop;

#define COPY_INLINE inline __attribute__((always_inline))

typedef uint8_t Line __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
typedef uint64_t Doubles __attribute__((vector_size(16)));

template <class V> COPY_INLINE V read(const uint8_t *source) {
    V out;
    std::memcpy(&out, source, sizeof out);
    return out;
}
template <bool kStream, class V> COPY_INLINE void write(uint8_t *target, const V &value) {
#if defined(__SSE2__)
    if constexpr (kStream) return _mm_stream_si128(reinterpret_cast<__m128i *>(target), reinterpret_cast<__m128i>(value));
#endif
    std::memcpy(target, &value, sizeof value);
}
constexpr int64_t kLine = 64;
COPY_INLINE void stream_line(uint8_t *target, const uint8_t *source) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i *>(target), _mm512_loadu_si512(source));
#elif defined(__AVX2__)
    for (int i = 0; i < 2; ++i)
        _mm256_stream_si256(reinterpret_cast<__m256i *>(target) + i,
                            _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source) + i));
#else
    for (int i = 0; i < 4; ++i) write<true>(target + 16 * i, read<Line>(source + 16 * i));
#endif
}

// Lanes of a and b in turns: the lower halves of both, or the upper ones.
COPY_INLINE Line zip_low(Line a, Line b) {
    return __builtin_shuffle(a, b, (Line){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
COPY_INLINE Line zip_high(Line a, Line b) {
    return __builtin_shuffle(a, b, (Line){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}
COPY_INLINE Halves zip_low(Halves a, Halves b) {
    return __builtin_shuffle(a, b, (Halves){0, 8, 1, 9, 2, 10, 3, 11});
}
COPY_INLINE Halves zip_high(Halves a, Halves b) {
    return __builtin_shuffle(a, b, (Halves){4, 12, 5, 13, 6, 14, 7, 15});
}
COPY_INLINE Words zip_low(Words a, Words b) { return __builtin_shuffle(a, b, (Words){0, 4, 1, 5}); }
COPY_INLINE Words zip_high(Words a, Words b) { return __builtin_shuffle(a, b, (Words){2, 6, 3, 7}); }
COPY_INLINE Doubles zip_low(Doubles a, Doubles b) { return __builtin_shuffle(a, b, (Doubles){0, 2}); }
COPY_INLINE Doubles zip_high(Doubles a, Doubles b) { return __builtin_shuffle(a, b, (Doubles){1, 3}); }

template <class U> struct Lanes;
template <> struct Lanes<uint8_t> { typedef Line Vector; };
template <> struct Lanes<uint16_t> { typedef Halves Vector; };
template <> struct Lanes<uint32_t> { typedef Words Vector; };
template <> struct Lanes<uint64_t> { typedef Doubles Vector; };

struct Matrix { // target[column * target_step + row * unit] = source[row * source_step + column * unit]
    int64_t rows, source_step, columns, target_step;
};

// rows x rows elements: each round of zips sorts by one more bit of the row number.
template <class U, bool kStream> COPY_INLINE void square(const uint8_t *source, uint8_t *target, const Matrix &m) {
    using V = typename Lanes<U>::Vector;
    constexpr int kCount = int(sizeof(V) / sizeof(U));
    V lane[kCount], next[kCount];
    _Pragma("GCC unroll 16") for (int i = 0; i < kCount; ++i) lane[i] = read<V>(source + i * m.source_step);
    _Pragma("GCC unroll 4") for (int width = 1; width < kCount; width *= 2) {
        _Pragma("GCC unroll 8") for (int i = 0; i < kCount / 2; ++i) {
            next[2 * i] = zip_low(lane[i], lane[i + kCount / 2]);
            next[2 * i + 1] = zip_high(lane[i], lane[i + kCount / 2]);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < kCount; ++i) lane[i] = next[i];
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < kCount; ++i) write<kStream>(target + i * m.target_step, lane[i]);
}

template <class U>
COPY_INLINE void rectangle(const uint8_t *source, uint8_t *target, const Matrix &m, int64_t row, int64_t rows,
                           int64_t column, int64_t columns) {
    for (int64_t c = column; c < columns; ++c)
        for (int64_t r = row; r < rows; ++r)
            std::memcpy(target + c * m.target_step + r * int64_t(sizeof(U)),
                        source + r * m.source_step + c * int64_t(sizeof(U)), sizeof(U));
}

// Two rows into one line of pairs.
template <class U, bool kStream> COPY_INLINE void zip(const uint8_t *source, uint8_t *target, const Matrix &m) {
    using V = typename Lanes<U>::Vector;
    constexpr int64_t kCount = sizeof(V) / sizeof(U), kUnit = sizeof(U);
    int64_t c = 0;
    for (; c + kCount <= m.columns; c += kCount) {
        V a = read<V>(source + c * kUnit), b = read<V>(source + m.source_step + c * kUnit);
        write<kStream>(target + 2 * c * kUnit, zip_low(a, b));
        write<kStream>(target + 2 * c * kUnit + int64_t(sizeof(V)), zip_high(a, b));
    }
    rectangle<U>(source, target, m, 0, 2, c, m.columns);
}

// One line of pairs into two rows: zipping a vector's halves log2(count) times less one undoes it.
template <class U, bool kStream> COPY_INLINE void unzip(const uint8_t *source, uint8_t *target, const Matrix &m) {
    using V = typename Lanes<U>::Vector;
    constexpr int64_t kCount = sizeof(V) / sizeof(U), kUnit = sizeof(U);
    int64_t r = 0;
    for (; r + kCount <= m.rows; r += kCount) {
        V a = read<V>(source + 2 * r * kUnit), b = read<V>(source + 2 * r * kUnit + int64_t(sizeof(V)));
        _Pragma("GCC unroll 4") for (int64_t width = 1; width < kCount; width *= 2) {
            V low = zip_low(a, b), high = zip_high(a, b);
            a = low, b = high;
        }
        write<kStream>(target + r * kUnit, a);
        write<kStream>(target + m.target_step + r * kUnit, b);
    }
    rectangle<U>(source, target, m, r, m.rows, 0, 2);
}

template <class U, bool kStream> void transpose(const uint8_t *source, uint8_t *target, const Matrix &m) {
    constexpr int64_t kCount = 16 / sizeof(U), kUnit = sizeof(U);
    if (m.rows == 2 && m.target_step == 2 * kUnit) return zip<U, kStream>(source, target, m);
    if (m.columns == 2 && m.source_step == 2 * kUnit) return unzip<U, kStream>(source, target, m);
    int64_t rows = m.rows / kCount * kCount, columns = m.columns / kCount * kCount;
    for (int64_t c = 0; c < columns; c += kCount) {
        if (c * kUnit % kLine == 0 && c * kUnit + kLine < columns * kUnit)
            for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(source + r * m.source_step + c * kUnit + kLine);
        for (int64_t r = 0; r < rows; r += kCount)
            square<U, kStream>(source + r * m.source_step + c * kUnit, target + c * m.target_step + r * kUnit, m);
    }
    rectangle<U>(source, target, m, rows, m.rows, 0, columns);
    rectangle<U>(source, target, m, 0, m.rows, columns, m.columns);
}

template <int64_t kBytes> void fixed_runs(const Loop &loop, int64_t, const uint8_t *source, uint8_t *target) {
    for (int64_t i = 0; i < loop.extent; ++i, source += loop.source, target += loop.target)
        std::memcpy(target, source, kBytes);
}

void stream_bytes(const uint8_t *source, uint8_t *target, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += kLine) stream_line(target + at, source + at);
}

inline void streamed_runs(const Loop &loop, int64_t bytes, const uint8_t *source, uint8_t *target) {
    for (int64_t i = 0; i < loop.extent; ++i, source += loop.source, target += loop.target)
        stream_bytes(source, target, bytes);
}

inline void runs(const Loop &loop, int64_t bytes, const uint8_t *source, uint8_t *target) {
    for (int64_t i = 0; i < loop.extent; ++i, source += loop.source, target += loop.target)
        std::memcpy(target, source, size_t(bytes));
}

using Runs = void (*)(const Loop &, int64_t, const uint8_t *, uint8_t *);

inline Runs runs_of(int64_t bytes) {
    switch (bytes) {
    case 1: return fixed_runs<1>;
    case 2: return fixed_runs<2>;
    case 4: return fixed_runs<4>;
    case 8: return fixed_runs<8>;
    case 16: return fixed_runs<16>;
    case 32: return fixed_runs<32>;
    case 64: return fixed_runs<64>;
    case 128: return fixed_runs<128>;
    case 256: return fixed_runs<256>;
    case 512: return fixed_runs<512>;
    default: return runs;
    }
}

using Transpose = void (*)(const uint8_t *, uint8_t *, const Matrix &);

template <bool kStream> Transpose transpose_of(int64_t unit) {
    switch (unit) {
    case 1: return transpose<uint8_t, kStream>;
    case 2: return transpose<uint16_t, kStream>;
    case 4: return transpose<uint32_t, kStream>;
    case 8: return transpose<uint64_t, kStream>;
    default: return nullptr;
    }
}

// Whether a transposition writes lines from end to end. Of a zip the line is along the columns.
inline bool whole_lines(const Matrix &m, int64_t unit) {
    if (m.rows == 2 && m.target_step == 2 * unit) return m.columns * 2 * unit % kLine == 0;
    return m.rows * unit % kLine == 0 && m.columns * unit % 16 == 0 && m.target_step % kLine == 0;
}

inline bool aligned(const uint8_t *target, const Loop *loops, size_t count) {
    return reinterpret_cast<uintptr_t>(target) % kLine == 0 &&
           std::all_of(loops, loops + count, [](const Loop &loop) { return loop.target % kLine == 0; });
}

template <class Inner>
void outer(const Loop *loops, size_t count, const uint8_t *source, uint8_t *target, const Inner &inner) {
    if (count == 0) return inner(source, target);
    for (int64_t i = 0; i < loops->extent; ++i)
        outer(loops + 1, count - 1, source + i * loops->source, target + i * loops->target, inner);
}

constexpr size_t kLoopsMax = 40;

void copy_nest(const Loop *loops, size_t count, int64_t run_bytes, const uint8_t *source, uint8_t *target,
               bool stream) {
    Loop own[kLoopsMax] = {};
    while (count && loops[count - 1].source == run_bytes && loops[count - 1].target == run_bytes)
        run_bytes *= loops[--count].extent;
    if (count == 0) own[count++] = {1, run_bytes, run_bytes};
    else std::copy(loops, loops + count, own);
    const Loop last = own[count - 1];
    Loop *along = std::find_if(own, own + count, [&](const Loop &l) { return l.source == run_bytes; });
    Transpose turn = last.target == run_bytes ? transpose_of<false>(run_bytes) : nullptr;
    if (turn && along < own + count - 1) {
        Matrix m{last.extent, last.source, along->extent, along->target};
        std::rotate(along, along + 1, own + count - 1);
        if (stream && whole_lines(m, run_bytes) && aligned(target, own, count - 2))
            turn = transpose_of<true>(run_bytes);
        return outer(own, count - 2, source, target, [&](const uint8_t *s, uint8_t *t) { turn(s, t, m); });
    }
    bool streamed = stream && run_bytes % kLine == 0 && aligned(target, own, count);
    Runs copied = streamed ? streamed_runs : runs_of(run_bytes);
    if (run_bytes >= kLine) // reads wait and writes do not: whole lines are read in their order
        std::sort(own, own + count, [](const Loop &a, const Loop &b) { return a.source > b.source; });
    outer(own, count - 1, source, target,
          [&](const uint8_t *s, uint8_t *t) { copied(own[count - 1], run_bytes, s, t); });
}

} // namespace
