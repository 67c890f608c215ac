#include "bindings/mapping_handle.hpp"

#include <iterator>
#include <map>

#include "engine/serve/served/served_target.hpp"

namespace uffd::bindings {
namespace {

// Python's mappings, by their addresses. With the GIL.
class LiveMappings {
 public:
  void add(const std::shared_ptr<SharedMapping>& mapping) {
    if (by_address_.size() >= crowded_) forget_those_gone();
    by_address_[mapping->mapping.address()] = mapping;
  }

  std::shared_ptr<SharedMapping> at(const Range& range) const {
    auto next = by_address_.upper_bound(range.start);
    if (next == by_address_.begin()) return nullptr;
    auto mapping = std::prev(next)->second.lock();
    if (!mapping) return nullptr;
    const Range whole{mapping->mapping.address(), mapping->mapping.length()};
    const bool inside = whole.contains(range.start) && range.length <= whole.end() - range.start;
    return inside ? mapping : nullptr;
  }

 private:
  void forget_those_gone() {
    std::erase_if(by_address_, [](const auto& entry) { return entry.second.expired(); });
    crowded_ = 2 * by_address_.size() + 64;
  }

  std::map<uint64_t, std::weak_ptr<SharedMapping>> by_address_;
  size_t crowded_ = 64;
};

LiveMappings& live_mappings() {
  static auto* const mappings = new LiveMappings;  // for ever: mappings may be made at exit
  return *mappings;
}

bool is_over(const ServedTarget& served) {
  const Stage stage = served.life.stage();
  return stage == Stage::ended || stage == Stage::stopped;
}

}  // namespace

MappingHandle::MappingHandle(Mapping mapping)
    : shared_(std::make_shared<SharedMapping>(SharedMapping{std::move(mapping), 0, {}})) {
  live_mappings().add(shared_);
}

void MappingHandle::close() {
  const auto shared = shared_;
  if (!shared) return;
  if (shared->views > 0) {
    PyErr_Format(PyExc_BufferError,
                 "%zu arrays still view this mapping: delete them before you close it",
                 shared->views);
    throw py::error_already_set();
  }
  const auto served_by = shared->served_by;  // another thread may add to it while the GIL is away
  for (const auto& served : served_by) refuse_if_served(served);
  if (!std::exchange(shared_, nullptr)) return;
  without_gil([&] { shared->mapping.unmap(); });
}

void MappingHandle::refuse_if_served(const std::weak_ptr<ServedTarget>& served) {
  auto target = served.lock();
  const bool serving = target && !is_over(*target);
  const uint64_t missing = serving ? target->target.residency().missing() : 0;
  without_gil([&] { target.reset(); });
  if (!serving) return;
  throw std::runtime_error("this mapping is served, and its target misses " +
                           std::to_string(missing) + " pages: close the target first");
}

std::shared_ptr<SharedMapping> mapping_at(const Range& range) {
  return live_mappings().at(range);
}

void note_served(const Range& range, const std::shared_ptr<ServedTarget>& served) {
  const auto mapping = mapping_at(range);
  if (!mapping) return;
  std::erase_if(mapping->served_by, [](const auto& target) { return target.expired(); });
  mapping->served_by.push_back(served);
}

}  // namespace uffd::bindings
