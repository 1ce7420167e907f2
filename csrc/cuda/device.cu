#include "d2kernels/device.h"

#include <cstdio>

#include "launch.h"

namespace d2k {

const char* cuda_message(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

namespace cuda {

Status device_count(int* count) {
    *count = 0;
    D2K_TRY(cudaGetDeviceCount(count));
    return kOk;
}

Status device_name(int device, char* name, size_t size) {
    cudaDeviceProp properties;
    D2K_TRY(cudaGetDeviceProperties(&properties, device));
    std::snprintf(name, size, "%s (sm_%d%d)", properties.name, properties.major, properties.minor);
    return kOk;
}

Status runtime_version(int* version) {
    D2K_TRY(cudaRuntimeGetVersion(version));
    return kOk;
}

}  // namespace cuda
}  // namespace d2k
