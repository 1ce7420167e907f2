// The Python module d2kernels._C: the build's facts here, each op's entry points in bindings/<op>.cpp.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace d2k {

void Module::add(const char* name, void (*function)(Call&), bool elements) {
    static_cast<py::module_*>(module_)->def(name, [function, elements](const py::args& arguments) {
        Call call(arguments.ptr(), elements);
        try {
            function(call);
        } catch (const PythonError&) {
            throw py::error_already_set();
        }
        return py::reinterpret_steal<py::object>(call.take());
    });
}

}  // namespace d2k

using namespace d2k;

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of d2kernels.";
    Module module(&m);
    for (const auto bind :
         {bind_attention_pool, bind_average_precision, bind_condition_number, bind_connected_components, bind_dropout,
          bind_foreground_score, bind_gather_rows, bind_head, bind_localize, bind_losses, bind_lowest_attention, bind_nms,
          bind_objective, bind_pdmi, bind_step_record, bind_svd, bind_temporal_conv, bind_topk_indices, bind_topk_pool, bind_tv_l1})
        bind(module);

#ifdef D2K_CUDA
    m.attr("has_cuda") = true;
    m.attr("cuda_archs") = D2K_CUDA_ARCHS;
    m.def("cuda_runtime_version", [] {
        int version = 0;
        check(cuda::runtime_version(&version));
        return version;
    });
    m.def("cuda_devices", [] {
        int count = 0;
        check(cuda::device_count(&count));
        py::list names;
        for (int i = 0; i < count; ++i) {
            char name[320];
            check(cuda::device_name(i, name, sizeof name));
            names.append(std::string(name));
        }
        return names;
    });
#else
    m.attr("has_cuda") = false;
    m.attr("cuda_archs") = "";
#endif
}
