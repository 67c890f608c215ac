// What every bind_*.cpp shares. Include it first.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "engine/linux/range.hpp"

namespace uffd::bindings {

namespace py = pybind11;

void bind_errors(py::module_& m);
void bind_probe(py::module_& m);
void bind_messages(py::module_& m);
void bind_userfaultfd(py::module_& m);
void bind_mapping(py::module_& m);
void bind_sources(py::module_& m);
void bind_callable_source(py::module_& m);
void bind_shared_image(py::module_& m);
void bind_region(py::module_& m);
void bind_manager(py::module_& m);
void bind_target(py::module_& m);
void bind_inline(py::module_& m);
void bind_journal(py::module_& m);

// Releases the GIL, unless the interpreter is gone.
template <typename Function>
auto without_gil(Function&& function) {
  const py::gil_scoped_release released;
  return function();
}

}  // namespace uffd::bindings
