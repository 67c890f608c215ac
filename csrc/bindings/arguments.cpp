#include "bindings/arguments.hpp"

namespace uffd::bindings {

void refuse_type(const char* name, const py::handle& value, const std::string& what) {
  throw py::type_error(std::string(name) + " is " + py::repr(value).cast<std::string>() +
                       "; it must be " + what);
}

namespace {

uint64_t integer_argument(const py::object& value, const char* name, int bits) {
  const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!integer) {
    PyErr_Clear();
    refuse_type(name, value, "an integer");
  }
  const unsigned long long number = PyLong_AsUnsignedLongLong(integer.ptr());
  if (PyErr_Occurred() || (bits < 64 && number >> bits != 0)) {
    PyErr_Clear();
    throw std::invalid_argument(std::string(name) + " is " + py::str(value).cast<std::string>() +
                                "; it must be between 0 and 2**" + std::to_string(bits) + " - 1");
  }
  return number;
}

}  // namespace

uint64_t unsigned_argument(const py::object& value, const char* name) {
  return integer_argument(value, name, 64);
}

int small_argument(const py::object& value, const char* name) {
  return static_cast<int>(integer_argument(value, name, 31));
}

bool flag_argument(const py::object& value, const char* name) {
  if (!PyBool_Check(value.ptr())) refuse_type(name, value, "True or False");
  return value.ptr() == Py_True;
}

std::optional<double> seconds_argument(const py::object& value, const char* name) {
  if (value.is_none()) return std::nullopt;
  const double seconds = PyBool_Check(value.ptr()) ? -1.0 : PyFloat_AsDouble(value.ptr());
  if (PyBool_Check(value.ptr()) || PyErr_Occurred()) {
    PyErr_Clear();
    refuse_type(name, value, "a number of seconds, or None");
  }
  return seconds;
}

std::shared_ptr<Source> source_argument(const py::object& value, const char* name) {
  if (value.is_none()) return nullptr;
  if (!py::isinstance<Source>(value)) {
    refuse_type(name, value,
                "a source: pyuffd.FileSource(path), MemorySource(buffer), ZeroSource(), "
                "CallableSource(function, length) or SharedImage(source)");
  }
  return value.cast<std::shared_ptr<Source>>();
}

}  // namespace uffd::bindings
