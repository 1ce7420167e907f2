#include "d2kernels/step_record.h"

namespace d2k::cpu {

Status step_record(const StepRecord& record) {
    HostTeam team;
    d2k::step_record(team, record);
    return kOk;
}

}  // namespace d2k::cpu
