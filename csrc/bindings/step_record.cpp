#include "d2kernels/step_record.h"

#include "bindings/bindings.h"

namespace d2k {
namespace {

// In the order of the fields.
StepRecord record_of(Reader r) {
    StepRecord x{};
    for (const float*& term : x.terms) term = r.next<const float*>();
    r.rest(x.norm, x.left_out, x.reference, x.width, x.kept, x.sums, x.found_inf);
    return x;
}

}  // namespace

void bind_step_record(Module& m) {
    m.def("step_record_cpu", [](Call& c) {
        const auto record = record_of(c.next<Reader>());
        c.end();
        run([&] { return cpu::step_record(record); });
    });
#ifdef D2K_CUDA
    m.def("step_record_cuda", [](Call& c) {
        const auto record = record_of(c.next<Reader>());
        int device;
        void* stream;
        c.rest(device, stream);
        run([&] { return cuda::step_record(record, device, stream); });
    });
#endif
}

}  // namespace d2k
