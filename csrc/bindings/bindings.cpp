#include "bindings/bindings.h"

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cpu/patience.h"

namespace d2k {
namespace {

// Whether a signal's handler has raised; Python runs them on its main thread alone.
bool signalled() {
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return raised;
}

}  // namespace

PyObject* Reader::object() {
    if (at_ >= PyTuple_GET_SIZE(tuple_)) {
        PyErr_Format(PyExc_TypeError, "%zd values given, but more are taken", PyTuple_GET_SIZE(tuple_));
        throw PythonError{};
    }
    return PyTuple_GET_ITEM(tuple_, at_++);
}

void Reader::end() const {
    if (at_ == PyTuple_GET_SIZE(tuple_)) return;
    PyErr_Format(PyExc_TypeError, "%zd values given, but %zd are taken", PyTuple_GET_SIZE(tuple_), at_);
    throw PythonError{};
}

Reader Reader::tuple() {
    PyObject* const value = object();
    if (PyTuple_Check(value)) return Reader(value, kept_);
    PyErr_Format(PyExc_TypeError, "a tuple is taken, not %.200s", Py_TYPE(value)->tp_name);
    throw PythonError{};
}

void* Reader::capsule(const char* name) {
    void* const held = PyCapsule_GetPointer(object(), name);
    if (!held) throw PythonError{};
    return held;
}

Address Reader::address(bool written) {
    static_assert(sizeof(Address) == sizeof(unsigned long long), "addresses have 64 bits");
    PyObject* const given = object();
    if (given == Py_None) return 0;
    if (!PyLong_Check(given)) return tensor_address(given, kept_, written);
    const unsigned long long value = PyLong_AsUnsignedLongLong(given);
    if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw PythonError{};
    return value;
}

Address Reader::flags() {
    if (at_ >= PyTuple_GET_SIZE(tuple_)) object();  // throws
    PyObject* const given = PyTuple_GET_ITEM(tuple_, at_);
    const Address at = address(false);
    return given == Py_None || PyLong_Check(given) || !kept_ ? at : tensor_flags(given, at, *kept_);
}

Table Reader::table() {
    PyObject* const given = object();
    return given == Py_None ? Table{} : tensor_table(given, kept_);
}

Table Reader::strided() {
    PyObject* const given = object();
    if (!PyTuple_Check(given)) return tensor_strided(given, kept_);
    Table table{};
    Reader(given, kept_).rest(table.at, table.count, table.width, table.stride, table.step);
    return table;
}

bool Reader::flag() {
    PyObject* const value = object();
    if (value == Py_True || value == Py_False) return value == Py_True;
    const std::string_view type = Py_TYPE(value)->tp_name;
    if (type == "numpy.bool" || type == "numpy.bool_") return PyObject_IsTrue(value) == 1;
    PyErr_Format(PyExc_TypeError, "a bool is taken, not %.200s", Py_TYPE(value)->tp_name);
    throw PythonError{};
}

double Reader::number() {
    const double value = PyFloat_AsDouble(object());
    if (value == -1 && PyErr_Occurred()) throw PythonError{};
    return value;
}

bool Reader::next_or_none(double* value) {
    if (at_ < PyTuple_GET_SIZE(tuple_) && PyTuple_GET_ITEM(tuple_, at_) == Py_None) {
        ++at_;
        return false;
    }
    *value = number();
    return true;
}

int64_t Reader::integer(int64_t least, int64_t most) {
    const long long value = PyLong_AsLongLong(object());  // refuses floats, takes what has __index__
    if (value == -1 && PyErr_Occurred()) throw PythonError{};
    if (value < least || value > most) {
        PyErr_Format(PyExc_OverflowError, "an integer in [%lld, %lld] is taken, not %lld",
                     static_cast<long long>(least), static_cast<long long>(most), value);
        throw PythonError{};
    }
    return value;
}

void Module::def(const char* name, void (*function)(Call&)) { add(name, function, true); }

void Module::def_size(const char* name, void (*function)(Call&)) { add(name, function, false); }

void Call::give(int64_t value) { give(PyLong_FromLongLong(value)); }

void Call::give(bool value) { give(PyBool_FromLong(value)); }

void Call::give(PyObject* owned) {
    if (!owned) throw PythonError{};
    Py_XDECREF(result_);
    result_ = owned;
}

PyObject* Call::take() {
    PyObject* const result = result_ ? result_ : Py_NewRef(Py_None);
    result_ = nullptr;
    return result;
}

void check(Status status) {
    if (status == kOk) return;
    if (status == kOutOfMemory) throw std::bad_alloc();
    if (status == kInterrupted) throw PythonError{};  // what the signal's handler raised
    if (status == kNotANumber) throw std::invalid_argument("a score is NaN");
#ifdef D2K_CUDA
    throw std::runtime_error("CUDA error " + std::to_string(status) + ": " + cuda_message(status));
#else
    throw std::runtime_error("unknown status " + std::to_string(status));
#endif
}

WithoutPython::WithoutPython() : state_(PyEval_SaveThread()) { cpu::interrupted = signalled; }

WithoutPython::~WithoutPython() {
    cpu::interrupted = nullptr;
    PyEval_RestoreThread(state_);
}

}  // namespace d2k
