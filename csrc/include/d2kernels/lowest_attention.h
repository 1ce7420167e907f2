// Where each sequence's attention is lowest: the first such row, NaN being lowest; -1 for an empty sequence.
#pragma once

#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k::cpu {

// attention (total), place (sequences). `threads` 0 means all that may be used.
template <class T>
Status lowest_attention(const Sequences& sequences, const T* attention, int64_t* place, int threads);

}  // namespace d2k::cpu
