// A mapping as Python has it. Include bindings/common.hpp first.
#pragma once

#include <memory>
#include <utility>

#include "bindings/common.hpp"
#include "engine/linux/mapping.hpp"

namespace uffd::bindings {

// A mapping and how many arrays view it. Arrays keep it mapped, whatever becomes of the handle.
struct SharedMapping {
  Mapping mapping;
  size_t views = 0;  // under the GIL
};

class MappingHandle {
 public:
  explicit MappingHandle(Mapping mapping)
      : shared_(std::make_shared<SharedMapping>(SharedMapping{std::move(mapping)})) {}

  const Mapping& use() const {
    if (!shared_) throw std::invalid_argument("this mapping is closed");
    return shared_->mapping;
  }
  bool closed() const { return !shared_; }

  py::array array() {
    const Mapping& mapping = use();
    auto owner = std::make_unique<std::shared_ptr<SharedMapping>>(shared_);
    const py::capsule view(owner.get(), [](void* pointer) {
      const std::unique_ptr<std::shared_ptr<SharedMapping>> last(
          static_cast<std::shared_ptr<SharedMapping>*>(pointer));
      --(*last)->views;
    });
    ++(*owner.release())->views;
    return py::array_t<uint8_t>({mapping.length()}, {1},
                                reinterpret_cast<uint8_t*>(mapping.address()), view);
  }

  void close() {
    if (!shared_) return;
    if (shared_->views > 0) {
      PyErr_Format(PyExc_BufferError,
                   "%zu arrays still view this mapping: delete them before you close it",
                   shared_->views);
      throw py::error_already_set();
    }
    const auto last = std::exchange(shared_, nullptr);
    without_gil([&] { last->mapping.unmap(); });
  }

 private:
  std::shared_ptr<SharedMapping> shared_;
};

// Throws std::invalid_argument.
MemoryKind kind_of(const std::string& kind);

}  // namespace uffd::bindings
