// Where a page's bytes come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/linux/range.hpp"

namespace uffd {

// What a source answers for a range: bytes that stay readable until the source dies, or zeros
// (bytes == nullptr). The address may turn out to be unreadable, as behind the end of a file that
// shrank: COPY then says EFAULT.
struct Supply {
  const std::byte* bytes = nullptr;
};

// Asked by handlers and fillers, at once and from any thread: supply() and prepare() neither lock,
// allocate nor throw.
class Source {
 public:
  virtual ~Source() = default;

  virtual uint64_t length() const noexcept = 0;
  virtual Supply supply(uint64_t offset, uint64_t length) const noexcept = 0;

  // Told by a filler before it asks for this range: time to map or fetch ahead.
  virtual void prepare(uint64_t /*offset*/, uint64_t /*length*/) const noexcept {}

  // The memory of this process that supply() points into; it must not be managed memory.
  virtual Range memory() const noexcept { return {}; }

  // For users, not for faults: copies the bytes at offset. Throws SystemError, or
  // std::out_of_range.
  virtual void read(uint64_t offset, std::span<std::byte> into) const = 0;

 protected:
  void check_range(uint64_t offset, uint64_t length) const;
};

using SourcePtr = std::shared_ptr<const Source>;

}  // namespace uffd
