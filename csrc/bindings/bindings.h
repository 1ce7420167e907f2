// What every op's bindings share. Pointers and streams are integers; Python owns memory, device, dtype and contiguity.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "cpu/patience.h"
#include "d2kernels/device.h"
#include "d2kernels/status.h"

namespace d2k {

namespace py = pybind11;

inline void check(Status status) {
    if (status == kOk) return;
    if (status == kOutOfMemory) throw std::bad_alloc();
    if (status == kInterrupted) throw py::error_already_set();  // what the signal's handler raised
    if (status == kNotANumber) throw py::value_error("a score is NaN");
#ifdef D2K_CUDA
    throw std::runtime_error("CUDA error " + std::to_string(status) + ": " + cuda_message(status));
#else
    throw std::runtime_error("unknown status " + std::to_string(status));
#endif
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Whether a signal's handler has raised; Python runs them on its main thread alone.
inline bool signalled() {
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

// Runs call() -> Status without the GIL; long loops on the CPU end where a signal's handler raises.
template <class Call>
void run(const Call& call) {
    Status status;
    {
        const py::gil_scoped_release release;
        struct Interruptible {
            Interruptible() { cpu::interrupted = signalled; }
            ~Interruptible() { cpu::interrupted = nullptr; }
        } const interruptible;
        status = call();
    }
    check(status);
}

void bind_attention_pool(py::module_& m);
void bind_average_precision(py::module_& m);
void bind_condition_number(py::module_& m);
void bind_connected_components(py::module_& m);
void bind_dropout(py::module_& m);
void bind_foreground_score(py::module_& m);
void bind_head(py::module_& m);
void bind_localize(py::module_& m);
void bind_losses(py::module_& m);
void bind_lowest_attention(py::module_& m);
void bind_nms(py::module_& m);
void bind_pdmi(py::module_& m);
void bind_step_record(py::module_& m);
void bind_svd(py::module_& m);
void bind_temporal_conv(py::module_& m);
void bind_topk_pool(py::module_& m);
void bind_winograd(py::module_& m);

}  // namespace d2k
