// What every CUDA launcher needs: the device for the time of the call, and errors as statuses.
#pragma once

#include <cuda_runtime.h>

#include "d2kernels/status.h"

#define D2K_TRY(expression)                                        \
    do {                                                           \
        const cudaError_t d2k_error = (expression);                \
        if (d2k_error != cudaSuccess) return Status(d2k_error);    \
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

}  // namespace d2k::cuda
