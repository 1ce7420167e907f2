// Every CUDA launcher against the host's, without torch, for compute-sanitizer: all of them, or those that are named.
// Exit 1 on a difference, 2 on an unknown name, 77 without a GPU; --list prints the names.
#include <cstring>

#include "checks.h"

namespace {

struct Check {
    const char* name;
    int (*run)();
};

constexpr Check kChecks[] = {
    {"launches", check_launches},
    {"connected_components", check_connected_components},
    {"topk_pool", check_topk_pool},
    {"nms", check_nms},
    {"localize", check_localize},
    {"condition_number", check_condition_number},
    {"pdmi", check_pdmi},
    {"svd", check_svd},
    {"head", check_head},
    {"losses", check_losses},
    {"step_record", check_step_record},
    {"gather_rows", check_gather_rows},
    {"tv_l1", check_tv_l1},
};

const Check* named(const char* name) {
    for (const Check& check : kChecks)
        if (std::strcmp(check.name, name) == 0) return &check;
    return nullptr;
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 2 && std::strcmp(arguments[1], "--list") == 0) {
        for (const Check& check : kChecks) std::puts(check.name);
        return 0;
    }
    for (int i = 1; i < count; ++i) {
        if (named(arguments[i]) != nullptr) continue;
        std::printf("checks: no check %s; --list prints the names\n", arguments[i]);
        return 2;
    }
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::puts("checks: no CUDA device");
        return 77;
    }
    int wrong = 0;
    for (int i = 1; i < count; ++i) wrong += named(arguments[i])->run();
    if (count == 1)
        for (const Check& check : kChecks) wrong += check.run();
    std::printf("checks: %d wrong\n", wrong);
    return wrong != 0;
}
