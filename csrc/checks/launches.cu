// What every launcher does around its kernels: errors that stay its own, and limits that no call lowers.
#include "../cuda/launch.h"

#include "checks.h"
#include "d2kernels/svd.h"

namespace {

__global__ void echo(int value, double* to) { *to = value; }

void errors(checks::Tally& tally) {
    const checks::Device<double> matrices(checks::uniform<double>(2 * 9, 1)), u(2 * 9), s(2 * 3), vh(2 * 9);
    const auto floats = [](const checks::Device<double>& x) { return d2k::Floats(x.get(), checks::kDtype<double>); };
    const d2k::Svd<d2k::AnyFloat> problem{floats(matrices), 2, 3, 3, floats(u), floats(s), floats(vh)};
    // On a device that is not there, and with less workspace than a matrix needs.
    tally.add(d2k::cuda::svd(problem, nullptr, 0, 9999, nullptr) > 0, "a missing device is an error");
    tally.add(cudaGetLastError() == cudaSuccess, "a missing device's error is left to the next call");
    tally.add(d2k::cuda::svd(problem, nullptr, 8, 0, nullptr) == d2k::kOutOfMemory, "too small a workspace is an error");
    // An error of somebody else's is not taken for the launch's, which runs.
    CHECK(cudaGetLastError());
    cudaSetDevice(9999);
    tally.add(d2k::cuda::svd(problem, nullptr, 0, 0, nullptr) == d2k::kOk, "an earlier error is reported again");
    cudaGetLastError();
    const auto values = s.host();
    tally.add(values[0] >= values[1] && values[1] >= values[2], "a launch after an error has no result");
}

void limits(checks::Tally& tally) {
    int all = 0, most = 0, again = 0;
    CHECK(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(d2k::cuda::raise_shared_limit(echo, 0, &most));
    CHECK(d2k::cuda::raise_shared_limit(echo, 0, &again));
    tally.add(most == all && again == most, "the limit is not all that a block may have:", most, "of", all);
    const checks::Device<double> to(1);
    // Arguments are converted as a call's are; the most that is allowed is.
    CHECK(d2k::cuda::launch(echo, 1, 1, most, nullptr, 7L, to.get()));
    tally.add(to.host()[0] == 7, "a launch's arguments");
}

}  // namespace

int check_launches() {
    checks::Tally tally("launches");
    errors(tally);
    limits(tally);
    return tally.finish();
}
