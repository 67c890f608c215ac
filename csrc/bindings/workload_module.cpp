#include <pybind11/pybind11.h>

#include "bindings/bind_workload.hpp"
#include "bindings/own_exceptions.hpp"
#include "engine/linux/error.hpp"

namespace py = pybind11;

namespace {

// OSError with (errno, text) makes the right subclass, such as PermissionError.
void translate(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const uffd::SystemError& error) {
    py::set_error(PyExc_OSError, py::make_tuple(error.code().value(), error.text()));
  }
}

}  // namespace

PYBIND11_MODULE(_workload, m) {
  m.doc() = "The measuring side: threads that touch pages and time every access, and the floors.";
  uffd::bindings::translate_own_exceptions(translate);
  uffd::workload::bind_pattern(m);
  uffd::workload::bind_touches(m);
  uffd::workload::bind_toucher(m);
  uffd::workload::bind_bystanders(m);
  uffd::workload::bind_floors(m);
  uffd::workload::bind_floor_server(m);
  uffd::workload::bind_races(m);
  uffd::workload::bind_churn(m);
}
