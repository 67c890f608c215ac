// Where a page's bytes come from.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>

#include "engine/linux/range.hpp"
#include "engine/source/retry.hpp"

namespace uffd {

class SharedImage;

// What a source answers for a range: bytes that stay readable until the source dies, or zeros
// (bytes == nullptr). The address may turn out to be unreadable, as behind the end of a file that
// shrank: COPY then says EFAULT.
struct Supply {
  const std::byte* bytes = nullptr;
};

// A source answers at once, by supply(), or it is late, and its bytes are fetched by read() on a
// thread that may wait.
//
// supply() and prepare() are asked by handlers and fillers, from any thread: they neither lock,
// allocate nor throw.
class Source {
 public:
  virtual ~Source() = default;

  virtual uint64_t length() const noexcept = 0;

  // Not called on a late source.
  virtual Supply supply(uint64_t /*offset*/, uint64_t /*length*/) const noexcept { return {}; }

  virtual bool late() const noexcept { return false; }
  // This object if it is a SharedImage, whose bytes are the page cache of its regions; else
  // nullptr.
  virtual const SharedImage* image() const noexcept { return nullptr; }
  // Whether read() of a late source calls code of the user, which may wait for a lock whose holder
  // sleeps for a page.
  virtual bool calls_user() const noexcept { return false; }
  // Of a late source: how many bytes are best read at once, from a multiple of that number on; 0:
  // any number.
  virtual uint64_t best_read() const noexcept { return 0; }
  // Whether that is a multiple of addresses, and not of offsets: so huge pages can be moved whole.
  virtual bool best_by_address() const noexcept { return false; }
  // How long a fault waits for a late source before its page is poisoned; empty: without end.
  virtual std::optional<std::chrono::nanoseconds> deadline() const noexcept { return {}; }

  // What to do after a failed read of a late source.
  virtual Retry retry() const noexcept { return {}; }
  // Told by a fetcher what read() threw at last, before the pages are poisoned. May wait.
  virtual void failed(const std::exception_ptr& /*error*/) const {}

  // Told by a filler before it asks for this range: time to map or fetch ahead.
  virtual void prepare(uint64_t /*offset*/, uint64_t /*length*/) const noexcept {}

  // The memory of this process that supply() points into; it must not be managed memory.
  virtual Range memory() const noexcept { return {}; }

  // Copies the bytes at offset; may wait. Throws SystemError, std::out_of_range, or what a late
  // source's function throws.
  virtual void read(uint64_t offset, std::span<std::byte> into) const = 0;

 protected:
  void check_range(uint64_t offset, uint64_t length) const;
};

using SourcePtr = std::shared_ptr<const Source>;

}  // namespace uffd
