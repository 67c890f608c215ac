// A mapping as Python has it. Include bindings/common.hpp first.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "bindings/choice.hpp"
#include "bindings/common.hpp"
#include "engine/linux/mapping.hpp"

namespace uffd {
struct ServedTarget;
}

namespace uffd::bindings {

// A mapping, how many arrays view it, and who serves it. Arrays and regions keep it mapped,
// whatever becomes of the handle. All but the mapping itself is used with the GIL.
struct SharedMapping {
  Mapping mapping;
  size_t views = 0;
  std::vector<std::weak_ptr<ServedTarget>> served_by;
};

class MappingHandle {
 public:
  explicit MappingHandle(Mapping mapping);

  const Mapping& use() const {
    if (!shared_) throw std::invalid_argument("this mapping is closed: make a new one");
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

  const std::shared_ptr<SharedMapping>& shared() const { return shared_; }

  // Refuses while arrays view it, and while it is served.
  void close();

 private:
  static void refuse_if_served(const std::weak_ptr<ServedTarget>& served);

  std::shared_ptr<SharedMapping> shared_;
};

// The mapping of Python's that has all of a range; empty where none has. With the GIL.
std::shared_ptr<SharedMapping> mapping_at(const Range& range);

// The target serves this range of this process. With the GIL.
void note_served(const Range& range, const std::shared_ptr<ServedTarget>& served);

// Its kinds, by name.
extern const Choices<MemoryKind> kMemoryKinds;

}  // namespace uffd::bindings
