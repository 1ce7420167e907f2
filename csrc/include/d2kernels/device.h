// The CUDA devices that this extension sees, for the doctor.
#pragma once

#include <cstddef>

#include "d2kernels/status.h"

namespace d2k::cuda {

Status device_count(int* count);
Status device_name(int device, char* name, size_t size);
Status runtime_version(int* version);

}  // namespace d2k::cuda
