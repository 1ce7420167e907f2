// What a launcher returns: 0, a negative code of our own, or a positive cudaError_t.
#pragma once

namespace d2k {

using Status = int;

constexpr Status kOk = 0;
constexpr Status kOutOfMemory = -1;
constexpr Status kNotANumber = -2;  // a score that has no place in an order
constexpr Status kInterrupted = -3;  // its caller asked for the end

#ifdef D2K_CUDA
const char* cuda_message(Status status);
#endif

}  // namespace d2k
