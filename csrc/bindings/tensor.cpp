#include "bindings/tensor.h"

#include <cstring>
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
    bool rows_apart() const {
        return dimensions == 2 && strides && data && (shape[1] == 1 || strides[1] == 1) && strides[0] >= shape[1];
    }
    int64_t elements() const {
        int64_t count = 1;
        for (int32_t i = 0; i < dimensions; ++i) count *= shape[i];
        return count;
    }
    std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(data) + offset; }
};

constexpr int32_t kCpu = 1;       // DLPack's number of it
constexpr int64_t kFew = 1024;  // elements, that are copied here in less time than a call of Python takes

// Copies the elements to `to`, row-major.
void copy(const View& view, int32_t axis, const unsigned char* from, size_t size, unsigned char*& to) {
    if (axis == view.dimensions) {
        memcpy(to, from, size);
        to += size;
        return;
    }
    for (int64_t i = 0; i < view.shape[axis]; ++i)
        copy(view, axis + 1, from + i * view.strides[axis] * static_cast<int64_t>(size), size, to);
}

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

// Whether a tensor's view is to be had without a call of Python.
bool looks(PyObject* tensor, View& view) {
    const Exchange* const of = exchange(Py_TYPE(tensor));
    if (!of) return false;
    if (of->view(tensor, &view) != 0) throw PythonError{};
    return true;
}

PyObject* checked(PyObject* result) {
    if (!result) throw PythonError{};
    return result;
}

PyObject* method(PyObject* object, const char* name) { return checked(PyObject_CallMethod(object, name, nullptr)); }

constexpr std::uintptr_t kNowhere = 64;  // for elements without memory that nobody reads: not null, which says something

unsigned long long number(PyObject* owned) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(checked(owned));
    Py_DECREF(owned);
    if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw PythonError{};
    return value;
}

}  // namespace

std::uintptr_t tensor_address(PyObject* tensor, Kept* kept, bool written) {
    View view;
    if (looks(tensor, view)) {
        if (view.data && view.row_major()) return view.address();
        const int64_t count = view.elements();
        if (!kept && !view.data && count > 0) return kNowhere;
        if (!kept || count == 0) return view.address();
        if (!written && view.data && view.device[0] == kCpu && count <= kFew) {
            const size_t size = view.bits / 8 * view.lanes;
            unsigned char* const made = kept->memory(static_cast<size_t>(count) * size);
            unsigned char* to = made;
            copy(view, 0, reinterpret_cast<const unsigned char*>(view.address()), size, to);
            return reinterpret_cast<std::uintptr_t>(made);
        }
    }
    if (!PyObject_HasAttrString(tensor, "data_ptr")) {
        PyErr_Format(PyExc_TypeError, "an address or a tensor is taken, not %.200s", Py_TYPE(tensor)->tp_name);
        throw PythonError{};
    }
    PyObject* same = tensor;
    if (kept) kept->add(same = method(tensor, "contiguous"));
    unsigned long long address = number(method(same, "data_ptr"));
    if (address == 0 && number(method(same, "numel")) > 0) {
        if (!kept) return kNowhere;
        kept->add(same = method(same, "clone"));
        address = number(method(same, "data_ptr"));
    }
    if (address == 0 && number(method(same, "numel")) > 0) {
        PyErr_SetString(PyExc_TypeError, "a tensor with memory of its own is taken, not one that stands for another");
        throw PythonError{};
    }
    if (written && same != tensor) {
        PyErr_SetString(PyExc_TypeError, "a tensor that is written must be contiguous, in memory of its own");
        throw PythonError{};
    }
    return address;
}

std::uintptr_t tensor_flags(PyObject* tensor, std::uintptr_t address, Kept& kept) {
    View view;
    int64_t count = 0;
    if (looks(tensor, view)) {
        count = view.device[0] == kCpu ? view.elements() : 0;
    } else {
        PyObject* const on_cpu = checked(PyObject_GetAttrString(tensor, "is_cpu"));
        count = on_cpu == Py_True ? static_cast<int64_t>(number(method(tensor, "numel"))) : 0;
        Py_DECREF(on_cpu);
    }
    const auto* const bytes = reinterpret_cast<const unsigned char*>(address);
    unsigned char all = 0;
    for (int64_t i = 0; i < count; ++i) all |= bytes[i];
    if (all <= 1) return address;
    unsigned char* const made = kept.memory(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) made[i] = bytes[i] != 0;
    return reinterpret_cast<std::uintptr_t>(made);
}

Table tensor_table(PyObject* tensor, Kept* kept) {
    View view;
    const bool looked = looks(tensor, view);
    if (looked && view.rows_apart()) return {view.address(), view.shape[0], view.shape[1], view.strides[0]};
    Table table{tensor_address(tensor, kept, false), 1, 1, 1};
    PyObject* const shape = looked ? nullptr : checked(PyObject_GetAttrString(tensor, "shape"));
    Kept beside;
    if (shape) beside.add(shape);
    const Py_ssize_t dimensions = looked ? view.dimensions : PySequence_Size(shape);
    for (Py_ssize_t i = 0; i < dimensions; ++i) {
        const auto size = looked ? view.shape[i] : static_cast<int64_t>(number(PySequence_GetItem(shape, i)));
        if (i + 1 < dimensions) table.count *= size;
        else table.width = table.stride = size;
    }
    return table;
}

Table tensor_strided(PyObject* tensor, Kept* kept) {
    View view;
    if (looks(tensor, view) && view.strides && view.data) {
        if (view.dimensions == 1) return {view.address(), view.shape[0], 1, view.strides[0]};
        if (view.dimensions == 2)
            return {view.address(), view.shape[0], view.shape[1], view.strides[0], view.strides[1]};
    }
    return tensor_table(tensor, kept);
}

}  // namespace d2k
