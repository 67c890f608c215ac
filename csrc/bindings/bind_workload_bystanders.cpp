#include <memory>

#include "bindings/bind_workload.hpp"
#include "workload/bystander.hpp"

namespace uffd::workload {
namespace {

std::unique_ptr<Bystanders> make_bystanders(const std::string& kind, size_t threads, size_t pages,
                                            const PyCpus& cpus, size_t timeline_bins) {
  BystanderPlan plan;
  plan.kind = choose<BystanderKind>("kind", kind,
                                    {{"fault", BystanderKind::fault},
                                     {"mmap", BystanderKind::mmap},
                                     {"populate", BystanderKind::populate}});
  plan.threads = threads;
  plan.pages = pages;
  plan.cpus = to_cpus(cpus);
  plan.timeline_bins = timeline_bins;
  const py::gil_scoped_release released;
  return std::make_unique<Bystanders>(plan);
}

}  // namespace

void bind_bystanders(py::module_& m) {
  const BystanderPlan defaults;
  py::class_<Bystanders>(m, "Bystanders", "Threads that do memory work of their own, and time it.",
                         py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&make_bystanders), py::arg("kind"), py::kw_only(),
           py::arg("threads") = defaults.threads, py::arg("pages") = defaults.pages,
           py::arg("cpus") = PyCpus(), py::arg("timeline_bins") = defaults.timeline_bins)
      .def("start", &Bystanders::start, WithoutGil())
      .def("stop", &Bystanders::stop, WithoutGil());
}

}  // namespace uffd::workload
