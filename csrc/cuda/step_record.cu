#include "d2kernels/step_record.h"

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) record_kernel(StepRecord record) {
    __shared__ typename BlockTeam<kThreads>::Storage storage;
    BlockTeam<kThreads> team(storage);
    d2k::step_record(team, record);
}

}  // namespace

Status step_record(const StepRecord& record, int device, void* stream) {
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    D2K_TRY(launch(record_kernel, 1, kThreads, 0, stream, record));
    return kOk;
}

}  // namespace d2k::cuda
