// The Python module d2kernels._C: the build's facts here, each op's entry points in bindings/<op>.cpp.
#include "bindings/bindings.h"

using namespace d2k;

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of d2kernels.";
    bind_attention_pool(m);
    bind_average_precision(m);
    bind_condition_number(m);
    bind_connected_components(m);
    bind_dropout(m);
    bind_foreground_score(m);
    bind_head(m);
    bind_localize(m);
    bind_losses(m);
    bind_lowest_attention(m);
    bind_nms(m);
    bind_pdmi(m);
    bind_step_record(m);
    bind_svd(m);
    bind_temporal_conv(m);
    bind_topk_pool(m);
    bind_winograd(m);

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
