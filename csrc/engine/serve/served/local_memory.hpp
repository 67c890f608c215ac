// All memory of this process that is managed now, and all memory that sources read: the two must
// not overlap, or a handler would wait for a page that only this handler can install.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/target/region_table.hpp"

namespace uffd {

// For as long as the object lives, the process's table has the memory of the regions' sources, and
// the regions themselves when they lie in this process. Any thread may make and destroy one.
class LocalMemory {
 public:
  LocalMemory() = default;
  // Throws std::invalid_argument where a source lies in managed memory.
  LocalMemory(const RegionTable& regions, bool this_process);
  LocalMemory(LocalMemory&& other) noexcept : id_(std::exchange(other.id_, 0)) {}
  LocalMemory& operator=(LocalMemory&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~LocalMemory() { forget(); }

  void forget() noexcept;  // idempotent

 private:
  uint64_t id_ = 0;
};

}  // namespace uffd
