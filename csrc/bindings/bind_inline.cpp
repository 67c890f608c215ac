#include "bindings/arguments.hpp"
#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/inline/inline_targets.hpp"

namespace uffd::bindings {
namespace {

// A buffer as it is, contiguous.
class Viewed {
 public:
  explicit Viewed(const py::object& object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0)
      throw py::error_already_set();
  }
  Viewed(const Viewed&) = delete;
  Viewed& operator=(const Viewed&) = delete;
  ~Viewed() { PyBuffer_Release(&buffer_); }

  Range range() const {
    return {reinterpret_cast<uint64_t>(buffer_.buf), static_cast<uint64_t>(buffer_.len)};
  }

 private:
  Py_buffer buffer_;
};

// Memory that is served inline has its pages installed; of other memory a byte of each is read.
bool install_and_read(const Range& range) {
  const uint64_t size = sys::page_size();
  const uint64_t first = range.start & ~(size - 1);
  if (!inline_targets::install({first, range.end() - first})) return false;
  for (uint64_t page = first; page < range.end(); page += size)
    (void)*reinterpret_cast<const volatile char*>(std::max(page, range.start));
  return true;
}

void touch(const py::object& memory, const py::object& offset, const py::object& length) {
  if (!PyObject_CheckBuffer(memory.ptr()))
    refuse_type("memory", memory, "an array or another buffer");
  const Viewed viewed(memory);
  const Range whole = viewed.range();
  const uint64_t from = unsigned_argument(offset, "offset");
  const uint64_t wanted = length.is_none() ? whole.length - std::min(from, whole.length)
                                           : unsigned_argument(length, "length");
  if (from > whole.length || wanted > whole.length - from) {
    throw std::invalid_argument(std::to_string(wanted) + " bytes from byte " +
                                std::to_string(from) + " on lie outside a buffer of " +
                                std::to_string(whole.length) +
                                " bytes: give a smaller offset or length");
  }
  if (wanted == 0) return;
  if (!without_gil([&] { return install_and_read({whole.start + from, wanted}); }))
    throw SystemError(
        EFAULT, "a page is poisoned, or its source cannot supply it: look at the target's report");
}

}  // namespace

void bind_inline(py::module_& m) {
  using namespace py::literals;
  m.def("regain_sigbus", &inline_targets::regain_signal);
  m.def("touch", &touch, "memory"_a, "offset"_a, "length"_a);
}

}  // namespace uffd::bindings
