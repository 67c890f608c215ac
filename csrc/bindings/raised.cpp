#include "bindings/raised.hpp"

#include "engine/linux/error.hpp"

namespace uffd::bindings {

PyObject* take_raised() noexcept {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
}

py::object to_exception(const std::exception_ptr& error) {
  if (!error) return py::none();
  try {
    std::rethrow_exception(error);
  } catch (const RaisedOnFetcher& raised) {
    return py::reinterpret_borrow<py::object>(raised.exception());
  } catch (const SystemError& failed) {
    return py::handle(PyExc_OSError)(failed.code().value(), failed.text());
  } catch (const std::exception& failed) {
    return py::handle(PyExc_RuntimeError)(failed.what());
  }
}

}  // namespace uffd::bindings
