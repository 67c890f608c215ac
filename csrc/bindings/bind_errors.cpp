#include <system_error>

#include "bindings/common.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/own_exceptions.hpp"
#include "engine/linux/error.hpp"
#include "engine/serve/manager/manager.hpp"

namespace uffd::bindings {
namespace {

PyObject* unsupported_error = nullptr;    // a subclass of OSError
PyObject* missing_pages_error = nullptr;  // a subclass of RuntimeError

// OSError chooses its own subclass (PermissionError, ...) by the errno.
void raise_os_error(PyObject* type, const SystemError& error) {
  const py::tuple arguments = py::make_tuple(error.code().value(), error.text());
  PyErr_SetObject(type, arguments.ptr());
}

void raise_unsupported(const UnsupportedError& error) {
  const py::object raised = py::handle(unsupported_error)(error.code().value(), error.text());
  raised.attr("needs") = py::tuple(py::cast(error.needs()));
  PyErr_SetObject(unsupported_error, raised.ptr());
}

void raise_missing_pages(const MissingPagesError& error) {
  const py::object raised = py::handle(missing_pages_error)(error.what());
  raised.attr("missing_pages") = error.missing_pages;
  PyErr_SetObject(missing_pages_error, raised.ptr());
}

void translate(std::exception_ptr pending) {
  try {
    std::rethrow_exception(pending);
  } catch (const UnsupportedError& error) {
    raise_unsupported(error);
  } catch (const SystemError& error) {
    raise_os_error(PyExc_OSError, error);
  } catch (const MissingPagesError& error) {
    raise_missing_pages(error);
  } catch (const std::system_error& error) {  // a thread that cannot be started
    raise_os_error(PyExc_OSError, SystemError(error.code().value(), error.what()));
  }
}

PyObject* new_exception(py::module_& m, const char* name, const char* doc, PyObject* base,
                        const py::dict& attributes) {
  const std::string qualified = std::string("pyuffd.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, attributes.ptr());
  if (!type) throw py::error_already_set();
  m.attr(name) = py::handle(type);
  return type;
}

}  // namespace

void bind_errors(py::module_& m) {
  using namespace py::literals;
  unsupported_error = new_exception(m, "UnsupportedError", doc("UnsupportedError"), PyExc_OSError,
                                    py::dict("needs"_a = py::tuple()));
  missing_pages_error = new_exception(m, "MissingPagesError", doc("MissingPagesError"),
                                      PyExc_RuntimeError, py::dict("missing_pages"_a = 0));
  translate_own_exceptions(translate);

  // For tests of this border.
  m.def("_raise_system_error",
        [](int error, const std::string& text) { throw SystemError(error, text); });
}

}  // namespace uffd::bindings
