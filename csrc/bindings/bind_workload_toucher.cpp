#include <memory>
#include <optional>

#include "bindings/bind_workload.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/toucher.hpp"

namespace uffd::workload {
namespace {

using PyChecksums = py::array_t<uint64_t, py::array::c_style>;

VisitPlan visit_plan(const std::string& order, size_t stride, const std::string& partition,
                     uint64_t seed) {
  VisitPlan plan;
  plan.partition = choose<Partition>("partition", partition,
                                     {{"split", Partition::split},
                                      {"interleaved", Partition::interleaved},
                                      {"all", Partition::all}});
  plan.order = choose<Order>(
      "order", order,
      {{"sequential", Order::sequential}, {"random", Order::random}, {"stride", Order::stride}});
  plan.stride = stride;
  plan.seed = seed;
  return plan;
}

std::unique_ptr<Toucher> make_toucher(const PyRanges& ranges, uint64_t page_size,
                                      const std::string& order, size_t stride,
                                      const std::string& partition, uint64_t seed, bool write,
                                      bool timed, uint64_t passes, uint64_t think_ns,
                                      const std::optional<PyChecksums>& checksums, size_t threads,
                                      const PyCpus& cpus, size_t timeline_bins) {
  TouchPlan plan;
  plan.ranges = to_ranges(ranges);
  plan.page_size = page_size;
  plan.visits = visit_plan(order, stride, partition, seed);
  plan.write = write;
  plan.timed = timed;
  plan.passes = passes;
  plan.think_ns = think_ns;
  if (checksums) plan.checksums.assign(checksums->data(), checksums->data() + checksums->size());
  plan.threads = threads;
  plan.cpus = to_cpus(cpus);
  plan.timeline_bins = timeline_bins;
  const py::gil_scoped_release released;
  return std::make_unique<Toucher>(plan);
}

}  // namespace

void bind_toucher(py::module_& m) {
  const TouchPlan defaults;
  // The destructor waits for threads that may wait for a page.
  py::class_<Toucher>(m, "Toucher", "Threads that touch the pages of ranges.",
                      py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&make_toucher), py::arg("ranges"), py::kw_only(),
           py::arg("page_size") = sys::page_size(), py::arg("order") = "sequential",
           py::arg("stride") = defaults.visits.stride, py::arg("partition") = "split",
           py::arg("seed") = defaults.visits.seed, py::arg("write") = defaults.write,
           py::arg("timed") = defaults.timed, py::arg("passes") = defaults.passes,
           py::arg("think_ns") = defaults.think_ns, py::arg("checksums") = py::none(),
           py::arg("threads") = defaults.threads, py::arg("cpus") = PyCpus(),
           py::arg("timeline_bins") = defaults.timeline_bins)
      .def("start", &Toucher::start, WithoutGil())
      .def("stop", &Toucher::stop)
      .def("running", &Toucher::running)
      .def("join", &Toucher::join, WithoutGil());
}

}  // namespace uffd::workload
