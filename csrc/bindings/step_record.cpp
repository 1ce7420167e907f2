#include "d2kernels/step_record.h"

#include "bindings/reader.h"

namespace d2k {
namespace {

// In the order of the fields.
StepRecord record_of(const py::tuple& arguments) {
    Reader r(arguments);
    StepRecord x{};
    for (const float*& term : x.terms) term = r.address<const float>();
    x.norm = r.address<const float>();
    x.left_out = r.address<const int64_t>();
    x.reference = r.address<const float>();
    x.width = r.next<int64_t>();
    for (float** field : {&x.kept, &x.sums, &x.found_inf}) *field = r.address<float>();
    return x;
}

}  // namespace

void bind_step_record(py::module_& m) {
    m.def("step_record_cpu", [](const py::tuple& arguments) {
        const auto record = record_of(arguments);
        run([&] { return cpu::step_record(record); });
    });
#ifdef D2K_CUDA
    m.def("step_record_cuda", [](const py::tuple& arguments, int device, Address stream) {
        const auto record = record_of(arguments);
        run([&] { return cuda::step_record(record, device, pointer<void>(stream)); });
    });
#endif
}

}  // namespace d2k
