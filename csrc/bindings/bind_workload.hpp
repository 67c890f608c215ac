// What the bindings of _workload share. Conversions and the GIL only.
//
// Nothing below the bindings holds a Python object, so the GIL is released as soon as the arguments
// are converted: a touched page may be missing, and whoever supplies it may need the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/choice.hpp"
#include "engine/linux/range.hpp"
#include "engine/linux/thread.hpp"

namespace uffd::workload {

namespace py = pybind11;

void bind_pattern(py::module_& m);
void bind_touches(py::module_& m);
void bind_toucher(py::module_& m);
void bind_bystanders(py::module_& m);
void bind_floors(py::module_& m);
void bind_floor_server(py::module_& m);
void bind_races(py::module_& m);
void bind_churn(py::module_& m);

using WithoutGil = py::call_guard<py::gil_scoped_release>;
using PyRanges = std::vector<std::pair<uint64_t, uint64_t>>;  // (start, length)
using PyCpus = std::vector<int>;

inline std::vector<Range> to_ranges(const PyRanges& pairs) {
  std::vector<Range> ranges;
  ranges.reserve(pairs.size());
  for (const auto& [start, length] : pairs) ranges.push_back({start, length});
  return ranges;
}

inline std::vector<Cpu> to_cpus(const PyCpus& numbers) {
  return std::vector<Cpu>(numbers.begin(), numbers.end());
}

using bindings::Choices;
using bindings::choose;

template <typename T>
py::array_t<T> copied(std::span<const T> values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace uffd::workload
