#include "d2kernels/device.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

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

cudaError_t raise_shared_limit(const void* kernel, int device, int* most) {
    static std::mutex mutex;
    static std::map<std::pair<const void*, int>, int> raised;
    const std::lock_guard<std::mutex> guard(mutex);
    const auto found = raised.find({kernel, device});
    if (found != raised.end()) {
        *most = found->second;
        return cudaSuccess;
    }
    cudaFuncAttributes of;
    int all = 0;
    cudaError_t error = cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&of, kernel);
    if (error != cudaSuccess) return error;
    *most = all - static_cast<int>(of.sharedSizeBytes);
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, *most);
    if (error == cudaSuccess) raised[{kernel, device}] = *most;
    return error;
}

}  // namespace cuda
}  // namespace d2k
