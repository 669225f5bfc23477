// The rounding mode that every figure depends on. In an unnamed namespace: see lanes.hpp.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// To nearest, subnormals are zero (MXCSR 0x9FC0) while it lives; the thread's own mode afterwards.
class RoundToNearest {
  public:
    RoundToNearest(const RoundToNearest &) = delete;
    RoundToNearest &operator=(const RoundToNearest &) = delete;
#if defined(__x86_64__)
    RoundToNearest() : saved_(_mm_getcsr()) { _mm_setcsr(0x9fc0); }
    ~RoundToNearest() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#else
    RoundToNearest() {}
    ~RoundToNearest() {}
#endif
};

} // namespace
