#include "bindings/bind_workload.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/pattern.hpp"

namespace uffd::workload {
namespace {

// The bytes of an object, which can be neither freed nor resized meanwhile.
class HeldBuffer {
 public:
  explicit HeldBuffer(const py::object& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  HeldBuffer(const HeldBuffer&) = delete;
  HeldBuffer& operator=(const HeldBuffer&) = delete;
  ~HeldBuffer() { PyBuffer_Release(&view_); }

  uint64_t address() const noexcept { return reinterpret_cast<uint64_t>(view_.buf); }
  uint64_t length() const noexcept { return static_cast<uint64_t>(view_.len); }

 private:
  Py_buffer view_;
};

py::array_t<uint64_t> checksums_at(uint64_t address, uint64_t length, uint64_t page_size) {
  std::vector<uint64_t> sums;
  {
    const py::gil_scoped_release released;
    sums = checksums(address, length, page_size);
  }
  return copied(std::span<const uint64_t>(sums));
}

py::array_t<uint64_t> checksums_of(const py::object& buffer, uint64_t page_size) {
  const HeldBuffer held(buffer);
  return checksums_at(held.address(), held.length(), page_size);
}

}  // namespace

void bind_pattern(py::module_& m) {
  m.def("fill_pattern", &fill_pattern, py::arg("address"), py::arg("length"), py::arg("seed"),
        WithoutGil(), "Write the pattern of a seed; no two pages of it are equal.");
  m.def("checksums", &checksums_at, py::arg("address"), py::arg("length"),
        py::arg("page_size") = sys::page_size(), "One checksum for each page of memory.");
  m.def("checksums_of", &checksums_of, py::arg("buffer"), py::arg("page_size") = sys::page_size(),
        "One checksum for each page of a contiguous buffer.");
}

}  // namespace uffd::workload
