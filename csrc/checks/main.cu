// Every CUDA launcher against the host's, without torch, for compute-sanitizer. Exit 1 on a difference, 77 without a GPU.
#include "checks.h"

int main() {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::puts("checks: no CUDA device");
        return 77;
    }
    const int wrong = check_launches() + check_connected_components() + check_topk_pool() + check_nms() +
                      check_localize() + check_condition_number() + check_pdmi() + check_svd() + check_head() +
                      check_losses();
    std::printf("checks: %d wrong\n", wrong);
    return wrong != 0;
}
