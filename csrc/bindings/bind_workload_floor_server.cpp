#include <memory>
#include <optional>
#include <tuple>

#include "bindings/bind_workload.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/epoll_floor.hpp"
#include "workload/floor_server.hpp"

namespace uffd::workload {
namespace {

std::unique_ptr<FloorServer> make_floor_server(int fd, uint64_t start, uint64_t length,
                                               uint64_t source, uint64_t copies, uint64_t page_size,
                                               uint64_t window, const std::string& reader,
                                               std::optional<int> cpu, size_t workers) {
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
  plan.workers = workers;
  return std::make_unique<FloorServer>(plan);
}

std::pair<uint64_t, uint64_t> join(FloorServer& server) {
  const FloorServed served = server.join();
  return {served.elapsed_ns, served.faults};
}

using FloorTarget = std::tuple<int, uint64_t, uint64_t>;  // descriptor, start, source

std::unique_ptr<EpollFloor> make_epoll_floor(const std::vector<FloorTarget>& targets,
                                             uint64_t copies, std::optional<int> cpu) {
  std::vector<EpollFloorTarget> converted;
  for (const auto& [fd, start, source] : targets) converted.push_back({fd, start, source});
  return std::make_unique<EpollFloor>(std::move(converted), copies,
                                      cpu ? std::optional(Cpu(*cpu)) : std::nullopt);
}

}  // namespace

void bind_floor_server(py::module_& m) {
  const FloorServerPlan defaults;
  py::class_<FloorServer>(m, "FloorServer", "The shortest loop that serves missing faults.",
                          py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&make_floor_server), py::arg("fd"), py::kw_only(), py::arg("start"),
           py::arg("length"), py::arg("source"), py::arg("copies"),
           py::arg("page_size") = sys::page_size(), py::arg("window") = defaults.window,
           py::arg("reader") = "poll", py::arg("cpu") = py::none(), py::arg("workers") = 0)
      .def("start", &FloorServer::start, WithoutGil())
      .def("join", &join, WithoutGil(), "Returns (ns, faults).");

  py::class_<EpollFloor>(m, "EpollFloor", "The shortest loop that serves many userfaultfds.",
                         py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&make_epoll_floor), py::arg("targets"), py::kw_only(), py::arg("copies"),
           py::arg("cpu") = py::none())
      .def("start", &EpollFloor::start, WithoutGil())
      .def("join", &EpollFloor::join, WithoutGil());
}

}  // namespace uffd::workload
