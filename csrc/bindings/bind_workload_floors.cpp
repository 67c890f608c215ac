#include "bindings/bind_workload.hpp"
#include "engine/linux/dma_latency.hpp"
#include "workload/floor.hpp"
#include "workload/lazy_floor.hpp"
#include "workload/move_floor.hpp"
#include "workload/sigbus_floor.hpp"

namespace uffd::workload {
namespace {

uint64_t bulk_copy_of(int fd, uint64_t start, uint64_t source, uint64_t length, uint64_t chunk,
                      size_t threads, const PyCpus& cpus) {
  return bulk_copy({fd, start, source, length, chunk, threads, to_cpus(cpus)});
}

uint64_t unregister_and_close_of(int fd, const PyRanges& ranges) {
  return unregister_and_close(fd, to_ranges(ranges));
}

uint64_t lazy_floor_of(int fd, int file, const PyRanges& ranges, uint64_t chunk) {
  return lazy_floor({fd, file, to_ranges(ranges), chunk});
}

uint64_t sigbus_touch_of(int fd, uint64_t start, uint64_t source, uint64_t length, uint64_t window,
                         uint64_t page_size) {
  return sigbus_touch({fd, start, source, length, window, page_size});
}

uint64_t read_and_move_of(int file, int fd, uint64_t start, uint64_t length) {
  return read_and_move({file, fd, start, length});
}

void bind_dma_latency(py::module_& m) {
  py::class_<DmaLatency>(m, "DmaLatency", "Keeps idle CPUs from sleeping deeply until closed.")
      .def(py::init<>())
      .def("close", &DmaLatency::close)
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](DmaLatency& self, const py::args&) { self.close(); });
}

}  // namespace

void bind_floors(py::module_& m) {
  m.def("bulk_copy", &bulk_copy_of, py::arg("fd"), py::arg("start"), py::arg("source"),
        py::arg("length"), py::kw_only(), py::arg("chunk"), py::arg("threads") = 1,
        py::arg("cpus") = PyCpus(), WithoutGil(), "UFFDIO_COPY in a loop; returns ns.");
  m.def("bulk_continue", &bulk_continue, py::arg("fd"), py::arg("start"), py::arg("length"),
        py::kw_only(), py::arg("chunk"), WithoutGil(), "UFFDIO_CONTINUE in a loop; returns ns.");
  m.def("close_fd", &close_fd, py::arg("fd"), WithoutGil(), "close(2); returns ns.");
  m.def("unregister_and_close", &unregister_and_close_of, py::arg("fd"), py::arg("ranges"),
        WithoutGil(), "UNREGISTER and WAKE of every range, then close(2); returns ns.");
  m.def("lazy_floor", &lazy_floor_of, py::arg("fd"), py::arg("file"), py::arg("ranges"),
        py::kw_only(), py::arg("chunk"), WithoutGil(),
        "One page a fault, and chunks while none waits, until all are installed; returns ns.");
  m.def("memcpy_floor", &memcpy_floor, py::arg("destination"), py::arg("source"), py::arg("length"),
        WithoutGil(), "memcpy; returns ns.");
  m.def("read_floor", &read_floor, py::arg("fd"), py::arg("destination"), py::arg("length"),
        py::kw_only(), py::arg("chunk"), WithoutGil(), "pread(2) in a loop; returns ns.");
  m.def("native_touch", &native_touch, py::arg("address"), py::arg("length"), py::arg("page_size"),
        WithoutGil(), "First touches of fresh memory; returns ns.");
  m.def("sigbus_touch", &sigbus_touch_of, py::arg("fd"), py::arg("start"), py::arg("source"),
        py::arg("length"), py::kw_only(), py::arg("window") = 1, py::arg("page_size") = 4096,
        WithoutGil(), "First touches, each with UFFDIO_COPY in its SIGBUS handler; returns ns.");
  m.def("read_and_move", &read_and_move_of, py::arg("file"), py::arg("fd"), py::arg("start"),
        py::arg("length"), WithoutGil(),
        "pread(2) of a file into huge pages, and UFFDIO_MOVE of them; returns ns.");
  m.def("release_pages", &release_pages, py::arg("address"), py::arg("length"), WithoutGil(),
        "MADV_DONTNEED.");
  m.def("warm", &warm, py::arg("length"), WithoutGil(),
        "Touch that much fresh memory and unmap it, so that the host has given it to this guest.");
  bind_dma_latency(m);
}

}  // namespace uffd::workload
