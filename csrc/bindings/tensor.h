// A tensor's memory, from the object that Python has of it.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

namespace d2k {

// References that live until a call has returned.
class Kept {
public:
    Kept() = default;
    ~Kept() {
        for (PyObject* object : objects_) Py_DECREF(object);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    void add(PyObject* owned) { objects_.push_back(owned); }

private:
    std::vector<PyObject*> objects_;
};

// The address of a tensor's elements, row-major; of a copy in `kept` where they lie otherwise. Throws PythonError: a
// TypeError where it is no tensor, or one that is `written` and lies otherwise.
std::uintptr_t tensor_address(PyObject* tensor, Kept& kept, bool written);

}  // namespace d2k
