#include <memory>
#include <optional>

#include "bindings/bind_workload.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/floor_server.hpp"

namespace uffd::workload {
namespace {

std::unique_ptr<FloorServer> make_floor_server(int fd, uint64_t start, uint64_t length,
                                               uint64_t source, uint64_t copies, uint64_t page_size,
                                               uint64_t window, const std::string& reader,
                                               std::optional<int> cpu) {
  FloorServerPlan plan;
  plan.fd = fd;
  plan.start = start;
  plan.length = length;
  plan.source = source;
  plan.copies = copies;
  plan.page_size = page_size;
  plan.window = window;
  plan.reader = choose<Reader>(
      "reader", reader, {{"poll", Reader::poll}, {"read", Reader::read}, {"spin", Reader::spin}});
  if (cpu) plan.cpu = Cpu(*cpu);
  return std::make_unique<FloorServer>(plan);
}

std::pair<uint64_t, uint64_t> join(FloorServer& server) {
  const FloorServed served = server.join();
  return {served.elapsed_ns, served.faults};
}

}  // namespace

void bind_floor_server(py::module_& m) {
  const FloorServerPlan defaults;
  py::class_<FloorServer>(m, "FloorServer", "The shortest loop that serves missing faults.",
                          py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&make_floor_server), py::arg("fd"), py::kw_only(), py::arg("start"),
           py::arg("length"), py::arg("source"), py::arg("copies"),
           py::arg("page_size") = sys::page_size(), py::arg("window") = defaults.window,
           py::arg("reader") = "poll", py::arg("cpu") = py::none())
      .def("start", &FloorServer::start, WithoutGil())
      .def("join", &join, WithoutGil(), "Returns (ns, faults).");
}

}  // namespace uffd::workload
