#include <array>

#include "bindings/bind_workload.hpp"
#include "workload/touches.hpp"

namespace uffd::workload {
namespace {

// Read-only, without a copy; keeps the Touches alive.
template <typename T>
py::array view(const py::object& touches, std::span<const T> values,
               std::vector<py::ssize_t> shape) {
  py::array_t<T> array(std::move(shape), values.data(), touches);
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

// A property that views one array of the log.
template <typename T>
auto log_view(std::span<const T> (AccessLog::*values)() const noexcept) {
  return [values](const py::object& self) {
    const std::span<const T> span = (self.cast<const Touches&>().log.*values)();
    return view(self, span, {static_cast<py::ssize_t>(span.size())});
  };
}

py::array timeline_histogram(const py::object& self) {
  const AccessLog& log = self.cast<const Touches&>().log;
  return view(self, log.bin_histograms(),
              {static_cast<py::ssize_t>(log.bins()), py::ssize_t{AccessLog::kBuckets}});
}

py::array_t<uint64_t> bucket_bounds() {
  std::array<uint64_t, AccessLog::kBuckets> bounds;
  for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = LatencyHistogram::lower_bound(i);
  return copied(std::span<const uint64_t>(bounds));
}

}  // namespace

void bind_touches(py::module_& m) {
  m.attr("BIN_NS") = AccessLog::kBinNs;
  m.def("bucket_bounds", &bucket_bounds, "The lower bound of each bucket of a histogram, in ns.");
  py::class_<Touches>(m, "Touches", "What the threads of a workload did and saw.")
      .def_readonly("origin_ns", &Touches::origin_ns)
      .def_readonly("elapsed_ns", &Touches::elapsed_ns)
      .def_readonly("thread_elapsed_ns", &Touches::thread_elapsed_ns)
      .def_readonly("touched", &Touches::touched)
      .def_readonly("wrong_pages", &Touches::wrong_pages)
      .def_readonly("wrong_addresses", &Touches::wrong_addresses)
      .def_readonly("minor_faults", &Touches::minor_faults)
      .def_readonly("major_faults", &Touches::major_faults)
      .def_readonly("cpu_ns", &Touches::cpu_ns)
      .def_property_readonly("max_ns", [](const Touches& self) { return self.log.max_ns(); })
      .def_property_readonly("histogram", log_view(&AccessLog::histogram))
      .def_property_readonly("timeline_overflow",
                             [](const Touches& self) { return self.log.overflow(); })
      .def_property_readonly("timeline_count", log_view(&AccessLog::bin_counts))
      .def_property_readonly("timeline_sum_ns", log_view(&AccessLog::bin_sums_ns))
      .def_property_readonly("timeline_max_ns", log_view(&AccessLog::bin_max_ns))
      .def_property_readonly("timeline_histogram", &timeline_histogram);
}

}  // namespace uffd::workload
