// What every CUDA launcher needs: the device for the time of the call, launches, and errors as statuses.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "d2kernels/status.h"

// An error that was reported is no longer CUDA's last one: the next to ask for that is somebody else.
#define D2K_TRY(expression)                         \
    do {                                            \
        const cudaError_t d2k_error = (expression); \
        if (d2k_error != cudaSuccess) {             \
            cudaGetLastError();                     \
            return Status(d2k_error);               \
        }                                           \
    } while (0)

namespace d2k::cuda {

class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        status = cudaGetDevice(&before_);
        if (status == cudaSuccess && before_ != device) {
            status = cudaSetDevice(device);
            changed_ = status == cudaSuccess;
        }
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

    cudaError_t status;

private:
    int before_ = 0;
    bool changed_ = false;
};

// kernel<<<blocks, threads, shared, stream>>>(arguments...), whose own error it returns, and no earlier one.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, int threads, size_t shared, void* stream,
                   std::common_type_t<Parameters>... arguments) {
    void* pointers[] = {&arguments...};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, dim3(threads),
                            pointers, shared, static_cast<cudaStream_t>(stream));
}

// Lets a kernel's blocks have all the dynamic shared memory that the device has for one; *most is how much that is.
// The limit is the kernel's, not the call's: what one thread sets for its call, another's would lower.
cudaError_t raise_shared_limit(const void* kernel, int device, int* most);

template <class... Parameters>
cudaError_t raise_shared_limit(void (*kernel)(Parameters...), int device, int* most) {
    return raise_shared_limit(reinterpret_cast<const void*>(kernel), device, most);
}

}  // namespace d2k::cuda
