// A call's arguments, or a tuple's elements, one after the other, into the fields of a problem.
#pragma once

#include <Python.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "bindings/tensor.h"
#include "d2kernels/ragged.h"

namespace d2k {

using Address = std::uintptr_t;

// Of memory that is written, where the type of its elements is not known yet.
struct WrittenAddress {
    Address at;
    operator Address() const { return at; }
};

// Thrown where Python's error is set.
struct PythonError {};

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// Missing, left over or of another type than what is read: a TypeError.
class Reader {
public:
    explicit Reader(PyObject* tuple = nullptr, Kept* kept = nullptr) : tuple_(tuple), kept_(kept) {}

    // An integer in T's range, a number, a bool, a tuple as a Reader, or a pointer: of an address, of a tensor, or null of
    // None. Elements that are not row-major are copied first where they are const, and refused where they are not; a
    // reader that keeps nothing takes them as they lie.
    template <class T>
    T next() {
        if constexpr (std::is_same_v<T, Reader>) return tuple();
        else if constexpr (std::is_same_v<T, const bool*>) return pointer<const bool>(flags());
        else if constexpr (std::is_pointer_v<T>)
            return reinterpret_cast<T>(address(!std::is_const_v<std::remove_pointer_t<T>>));
        else if constexpr (std::is_same_v<T, Address>) return address(false);
        else if constexpr (std::is_same_v<T, WrittenAddress>) return {address(true)};
        else if constexpr (std::is_same_v<T, bool>) return flag();
        else if constexpr (std::is_floating_point_v<T>) return static_cast<T>(number());
        else return static_cast<T>(integer(std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
    }

    // A tensor with its sizes, or nothing of None.
    Table table();

    // A tensor of one or two axes as it lies, or a tuple of a Table's fields.
    Table strided();

    // What may be None, in which case the value stays as it is.
    bool next_or_none(double* value);

    // What a PyCapsule of this name holds.
    template <class T>
    T* next_capsule(const char* name) { return static_cast<T*>(capsule(name)); }

    template <class... T>
    void read(T&... to) { ((to = next<T>()), ...); }

    // The same, and nothing is left.
    template <class... T>
    void rest(T&... to) {
        read(to...);
        end();
    }

    // The value at a place, wherever reading is.
    template <class T>
    T at(Py_ssize_t place) const {
        Reader there = *this;
        there.at_ = place;
        return there.next<T>();
    }

    // offsets, lengths
    Sequences sequences(int64_t total) {
        const auto offsets = next<const int64_t*>();
        const Table lengths = table();
        return {offsets, pointer<const int64_t>(lengths.at), lengths.count * lengths.width, total};
    }

    // offsets, lengths, count, total
    Sequences sequences() {
        const auto offsets = next<const int64_t*>();
        const auto lengths = next<const int64_t*>();
        const auto count = next<int64_t>();
        return {offsets, lengths, count, next<int64_t>()};
    }

    // Where anything is left, more was given than is taken.
    void end() const;

private:
    PyObject* object();
    Reader tuple();
    void* capsule(const char* name);
    Address address(bool written);
    Address flags();
    bool flag();
    double number();
    int64_t integer(int64_t least, int64_t most);

    PyObject* tuple_;  // the caller's
    Kept* kept_;       // the call's, or null
    Py_ssize_t at_ = 0;
};

}  // namespace d2k
