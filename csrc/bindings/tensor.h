// A tensor's memory, from the object that Python has of it.
#pragma once

#include <Python.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace d2k {

// References and copies that live until a call has returned.
class Kept {
public:
    Kept() = default;
    ~Kept() {
        for (PyObject* object : objects_) Py_DECREF(object);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    void add(PyObject* owned) { objects_.push_back(owned); }
    unsigned char* memory(size_t bytes) {
        copies_.push_back(std::make_unique<unsigned char[]>(bytes));
        return copies_.back().get();
    }

private:
    std::vector<PyObject*> objects_;
    std::vector<std::unique_ptr<unsigned char[]>> copies_;
};

// The address of a tensor's elements, row-major; of a copy in `kept` where they lie otherwise, or have no memory, which
// are zeros (torch._efficientzerotensor). Throws PythonError: a TypeError where it is no tensor, or one that is `written`
// and is not so. Where `kept` is null nobody reads elements, and they are taken as they lie; so by the two below.
std::uintptr_t tensor_address(PyObject* tensor, Kept* kept, bool written);

// Of bools at that address: there, or as a copy where a byte is neither 0 nor 1, as those of a view of integers may be: to a
// compiler that is no bool. On a CPU alone.
std::uintptr_t tensor_flags(PyObject* tensor, std::uintptr_t address, Kept& kept);

// A tensor's last axes: `count` of them, `width` long, `stride` apart, their elements `step` apart.
struct Table {
    std::uintptr_t at;
    int64_t count, width, stride, step = 1;
};

// As they are where a matrix's rows only lie apart, else row-major as by tensor_address; a step is 1.
Table tensor_table(PyObject* tensor, Kept* kept);

// A matrix, or a vector as rows of one, as it lies.
Table tensor_strided(PyObject* tensor, Kept* kept);

}  // namespace d2k
