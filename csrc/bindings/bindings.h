// What every op's bindings share. Pointers are integers, tensors or None; Python owns memory, device and dtype.
//
// pybind11 is in csrc/bindings.cpp alone, which knows one signature: a tuple. Its templates for each op's own take
// longer to compile than the ops.
#pragma once

#include "bindings/reader.h"
#include "d2kernels/device.h"
#include "d2kernels/status.h"

namespace d2k {

// One call from Python: its arguments, and what it returns, None where nothing is given.
class Call : public Reader {
public:
    // Without `elements` no tensor is copied, and none's elements may be read.
    explicit Call(PyObject* arguments, bool elements = true) : Reader(arguments, elements ? &copies_ : nullptr) {}
    ~Call() { Py_XDECREF(result_); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void give(int64_t value);
    void give(bool value);
    void give(PyObject* owned);  // null: Python's error is set

    // The result, which is the caller's now.
    PyObject* take();

private:
    Kept copies_;
    PyObject* result_ = nullptr;
};

// The module, as far as ops see it.
class Module {
public:
    explicit Module(void* module) : module_(module) {}
    void def(const char* name, void (*function)(Call&));
    // A function of shapes and options, as of how much memory a call needs: it reads no tensor's elements.
    void def_size(const char* name, void (*function)(Call&));

private:
    void add(const char* name, void (*function)(Call&), bool elements);
    void* module_;
};

void check(Status status);

// While it lives other Python threads run; long loops on the CPU end where a signal's handler raises.
class WithoutPython {
public:
    WithoutPython();
    ~WithoutPython();
    WithoutPython(const WithoutPython&) = delete;
    WithoutPython& operator=(const WithoutPython&) = delete;

private:
    PyThreadState* state_;
};

// Runs call() -> Status without the GIL.
template <class Function>
void run(const Function& call) {
    Status status;
    {
        const WithoutPython released;
        status = call();
    }
    check(status);
}

void bind_attention_pool(Module& m);
void bind_average_precision(Module& m);
void bind_condition_number(Module& m);
void bind_connected_components(Module& m);
void bind_dropout(Module& m);
void bind_foreground_score(Module& m);
void bind_gather_rows(Module& m);
void bind_head(Module& m);
void bind_localize(Module& m);
void bind_losses(Module& m);
void bind_lowest_attention(Module& m);
void bind_nms(Module& m);
void bind_objective(Module& m);
void bind_pdmi(Module& m);
void bind_step_record(Module& m);
void bind_svd(Module& m);
void bind_temporal_conv(Module& m);
void bind_topk_indices(Module& m);
void bind_topk_pool(Module& m);
void bind_tv_l1(Module& m);

}  // namespace d2k
