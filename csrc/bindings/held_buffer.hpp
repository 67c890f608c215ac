// Buffers of Python's that the engine uses.
#pragma once

#include <memory>
#include <span>

#include "bindings/common.hpp"
#include "bindings/dropped.hpp"

namespace uffd::bindings {

// The bytes of an object, which stay where they are until the owner's last reference is gone; any
// thread may let go of that.
struct HeldBuffer {
  std::span<std::byte> bytes;
  std::shared_ptr<void> owner;
};

// flags as of PyObject_GetBuffer. With the GIL. Throws what Python raises.
inline HeldBuffer hold_buffer(const py::object& object, int flags) {
  struct View final : Droppable {
    void release() override { PyBuffer_Release(&buffer); }
    Py_buffer buffer{};
  };
  release_dropped();
  auto view = std::make_unique<View>();
  if (PyObject_GetBuffer(object.ptr(), &view->buffer, flags) != 0) throw py::error_already_set();
  const std::span bytes(static_cast<std::byte*>(view->buffer.buf),
                        static_cast<size_t>(view->buffer.len));
  return {bytes, std::shared_ptr<void>(view.release(), [](View* last) { drop(last); })};
}

}  // namespace uffd::bindings
