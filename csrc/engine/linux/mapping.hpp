// Owned memory ranges of this process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

enum class MemoryKind { anonymous, memfd, hugetlb };

// One mmap of zeroed, readable and writable memory. Move-only; unmapped by the destructor, in the
// process that made it: a fork child may not have inherited it (MADV_DONTFORK), and what lies there
// then is not ours to unmap.
class Mapping {
 public:
  Mapping() = default;
  // length is rounded up to page_size; page_size is the base page size, or that of the default
  // hugetlb pool. Throws SystemError, for hugetlb with how to reserve pages.
  Mapping(uint64_t length, MemoryKind kind, bool shared);
  // Part of a memfd of this kind, which the caller keeps; offset and length are whole pages of it.
  Mapping(int memfd, uint64_t offset, uint64_t length, MemoryKind kind, bool shared);
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, 0)),
        length_(std::exchange(other.length_, 0)),
        page_size_(other.page_size_),
        owner_(other.owner_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(length_, other.length_);
    std::swap(page_size_, other.page_size_);
    std::swap(owner_, other.owner_);
    return *this;
  }
  ~Mapping() { unmap(); }

  uint64_t address() const noexcept { return address_; }
  uint64_t length() const noexcept { return length_; }
  uint64_t page_size() const noexcept { return page_size_; }

  // Idempotent. Never called by a thread that serves this memory's events: it would wait for
  // itself.
  void unmap() noexcept;

 private:
  uint64_t address_ = 0;
  uint64_t length_ = 0;
  uint64_t page_size_ = 0;
  pid_t owner_ = 0;
};

// The mappings that live in this process, without those of a given memfd. Any thread.
std::vector<Range> all_mappings();

// Throws UnsupportedError where this kernel has no such memory.
uint64_t page_size_of(MemoryKind kind);

// The page size of the default hugetlb pool, in bytes; 0 where the kernel has none.
uint64_t hugetlb_page_size();

}  // namespace uffd
