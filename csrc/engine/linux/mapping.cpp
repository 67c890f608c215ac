#include "engine/linux/mapping.hpp"

#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "engine/linux/at_fork.hpp"
#include "engine/linux/fd.hpp"

namespace uffd {
namespace {

std::string refusal(MemoryKind kind, uint64_t length, uint64_t page_size) {
  std::string text = "cannot map " + std::to_string(length) + " bytes";
  if (kind == MemoryKind::hugetlb) {
    text += " of hugetlb memory: reserve " + std::to_string(length / page_size) +
            " pages with the sysctl vm.nr_hugepages";
  } else {
    text +=
        ": it may be more than RLIMIT_AS (ulimit -v) or the sysctl vm.overcommit_memory=2 permits";
  }
  return text;
}

// The mappings that live, by address.
struct OwnMappings {
  std::mutex mutex;
  std::map<uint64_t, uint64_t> lengths;
  // A fork child owns none of its parent's mappings.
  const AtFork at_fork{AtFork::Level::mappings,
                       this,
                       {.prepare = [](void* self) noexcept { of(self).mutex.lock(); },
                        .in_parent = [](void* self) noexcept { of(self).mutex.unlock(); },
                        .in_child =
                            [](void* self) noexcept {
                              of(self).lengths.clear();
                              of(self).mutex.unlock();
                            }}};

  static OwnMappings& of(void* self) noexcept { return *static_cast<OwnMappings*>(self); }
};

// Never destroyed: a mapping may end as late as exit.
OwnMappings& own_mappings = *new OwnMappings;

void note(uint64_t address, uint64_t length) {
  const std::lock_guard lock(own_mappings.mutex);
  own_mappings.lengths[address] = length;
}

void forget(uint64_t address) noexcept {
  const std::lock_guard lock(own_mappings.mutex);
  own_mappings.lengths.erase(address);
}

}  // namespace

std::vector<Range> all_mappings() {
  const std::lock_guard lock(own_mappings.mutex);
  std::vector<Range> all;
  for (const auto& [address, length] : own_mappings.lengths) all.push_back({address, length});
  return all;
}

uint64_t hugetlb_page_size() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "Hugepagesize: %llu kB", &kib) == 1) return kib * 1024;
  }
  return 0;
}

uint64_t page_size_of(MemoryKind kind) {
  if (kind != MemoryKind::hugetlb) return sys::page_size();
  const uint64_t size = hugetlb_page_size();
  if (size == 0)
    throw UnsupportedError(EOPNOTSUPP,
                           "this kernel has no hugetlb pages (CONFIG_HUGETLBFS): give another kind",
                           {"CONFIG_HUGETLBFS"});
  return size;
}

Mapping::Mapping(uint64_t length, MemoryKind kind, bool shared)
    : page_size_(page_size_of(kind)), owner_(::getpid()) {
  if (length == 0) throw std::invalid_argument("length is 0; a mapping has at least one byte");
  if (length > INT64_MAX - page_size_) {
    throw std::invalid_argument("length is " + std::to_string(length) +
                                ", which is too large for a mapping");
  }
  length_ = (length + page_size_ - 1) / page_size_ * page_size_;
  // Memory that loads when it is touched may be larger than what the machine has: without
  // MAP_NORESERVE the kernel's heuristic refuses that (vm.overcommit_memory, proc_sys_vm(5)). Huge
  // pages are reserved, since a page that is not there in the end is a SIGBUS.
  int flags =
      (shared ? MAP_SHARED : MAP_PRIVATE) | (kind == MemoryKind::hugetlb ? 0 : MAP_NORESERVE);
  Fd file;
  if (kind == MemoryKind::memfd) {
    file = Fd(or_throw(::memfd_create("pyuffd", MFD_CLOEXEC), "memfd_create"));
    or_throw(::ftruncate(file.get(), static_cast<off_t>(length_)), "ftruncate of a memfd");
  } else {
    flags |= MAP_ANONYMOUS | (kind == MemoryKind::hugetlb ? MAP_HUGETLB : 0);
  }
  void* address = ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, flags, file.get(), 0);
  if (address == MAP_FAILED) throw SystemError(errno, refusal(kind, length_, page_size_));
  address_ = reinterpret_cast<uint64_t>(address);
  note(address_, length_);
}

Mapping::Mapping(int memfd, uint64_t offset, uint64_t length, MemoryKind kind, bool shared)
    : length_(length), page_size_(page_size_of(kind)), owner_(::getpid()) {
  void* const address =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, memfd,
             static_cast<off_t>(offset));
  if (address == MAP_FAILED) throw SystemError(errno, refusal(kind, length, page_size_));
  address_ = reinterpret_cast<uint64_t>(address);
}

void Mapping::unmap() noexcept {
  if (address_ != 0 && owner_ == ::getpid()) {
    forget(address_);
    ::munmap(reinterpret_cast<void*>(address_), length_);
  }
  address_ = 0;
}

}  // namespace uffd
