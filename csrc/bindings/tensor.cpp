#include "bindings/tensor.h"

#include <unordered_map>

#include "bindings/reader.h"

namespace d2k {
namespace {

// Parts of DLPack 1's C exchange API (dmlc/dlpack, include/dlpack/dlpack.h), which torch has from 2.10 on.
struct View {
    void* data;
    int32_t device[2];
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;

    bool row_major() const {
        if (!strides) return true;
        int64_t step = 1;
        bool same = true;
        for (int32_t i = dimensions - 1; i >= 0; --i) {
            if (shape[i] == 0) return true;
            same &= shape[i] == 1 || strides[i] == step;
            step *= shape[i];
        }
        return same;
    }
};

struct Exchange {
    uint32_t major, minor;
    void *previous, *allocate, *take, *give;
    int (*view)(void* tensor, View* view);  // borrowed; -1 with Python's error
};

// What a type of tensors offers, or null; asked once a type, which then lives on.
const Exchange* exchange(PyTypeObject* type) {
    static std::unordered_map<PyTypeObject*, const Exchange*> known;
    if (const auto found = known.find(type); found != known.end()) return found->second;
    const Exchange* offered = nullptr;
    PyObject* const capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
    if (capsule) offered = static_cast<Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_XDECREF(capsule);
    PyErr_Clear();
    if (offered && (offered->major != 1 || !offered->view)) offered = nullptr;
    Py_INCREF(type);
    return known[type] = offered;
}

PyObject* method(PyObject* object, const char* name) {
    PyObject* const result = PyObject_CallMethod(object, name, nullptr);
    if (!result) throw PythonError{};
    return result;
}

}  // namespace

std::uintptr_t tensor_address(PyObject* tensor, Kept& kept, bool written) {
    if (const Exchange* const of = exchange(Py_TYPE(tensor))) {
        View view;
        if (of->view(tensor, &view) != 0) throw PythonError{};
        if (view.row_major()) return reinterpret_cast<std::uintptr_t>(view.data) + view.offset;
    }
    if (!PyObject_HasAttrString(tensor, "data_ptr")) {
        PyErr_Format(PyExc_TypeError, "an address or a tensor is taken, not %.200s", Py_TYPE(tensor)->tp_name);
        throw PythonError{};
    }
    PyObject* const same = method(tensor, "contiguous");
    kept.add(same);
    if (written && same != tensor) {
        PyErr_SetString(PyExc_TypeError, "a tensor that is written must be contiguous");
        throw PythonError{};
    }
    PyObject* const address = method(same, "data_ptr");
    const unsigned long long value = PyLong_AsUnsignedLongLong(address);
    Py_DECREF(address);
    if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw PythonError{};
    return value;
}

}  // namespace d2k
