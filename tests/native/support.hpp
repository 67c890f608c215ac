// What the tests share: memory with known bytes, threads that fault, sources that wait, children.
//
// Nothing here sleeps to synchronise: until() looks again and again for a state. What never comes
// about hangs, and ctest ends it.
#pragma once

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/linux/fdinfo.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/userfaultfd.hpp"
#include "engine/serve/manager/manager.hpp"
#include "engine/serve/served/statistics.hpp"
#include "engine/source/memory_source.hpp"
#include "engine/source/zero_source.hpp"
#include "engine/target/registration.hpp"
#include "engine/target/target.hpp"
#include "workload/pattern.hpp"

namespace uffd::test {

inline uint64_t page() {
  return sys::page_size();
}

template <typename Predicate>
void until(Predicate predicate) {
  while (!predicate()) ::sched_yield();
}

inline Userfaultfd open_uffd(uint64_t features = 0) {
  return Userfaultfd::open(Access::best, features);
}

inline bool kernel_poisons() {
  const bool offered = (offered_features() & UFFD_FEATURE_POISON) != 0;
  if (!offered) MESSAGE("skipped: UFFDIO_POISON came with Linux 6.6");
  return offered;
}

// How many threads sleep for a page of it.
inline uint64_t sleepers(const Userfaultfd& uffd) {
  return read_fdinfo(uffd.fd())->total;
}

// Memory to be managed, and another whose bytes it shall have; no two pages of it are equal.
struct Memory {
  explicit Memory(uint64_t pages, uint64_t seed = 1, MemoryKind kind = MemoryKind::anonymous,
                  uint64_t page_size = page())
      : memory(pages * page_size, kind, false),
        image(pages * page_size, MemoryKind::anonymous, false),
        size(page_size) {
    workload::fill_pattern(image.address(), image.length(), seed);
  }

  uint64_t at(uint64_t number) const { return memory.address() + number * size; }
  SourcePtr source() const {
    return std::make_shared<MemorySource>(
        std::span(reinterpret_cast<const std::byte*>(image.address()), image.length()), nullptr);
  }
  Region region(SourcePtr from = nullptr) const {
    return Region({memory.address(), memory.length()}, from ? from : source(), 0, size);
  }
  // Touches the page.
  bool right(uint64_t number) const {
    return std::memcmp(reinterpret_cast<const void*>(at(number)),
                       reinterpret_cast<const void*>(image.address() + number * size), size) == 0;
  }
  bool all_right() const {
    for (uint64_t i = 0; i < memory.length() / size; ++i) {
      if (!right(i)) return false;
    }
    return true;
  }
  bool zero(uint64_t number) const {
    const auto* bytes = reinterpret_cast<const char*>(at(number));
    return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size - 1) == 0;
  }

  Mapping memory;
  Mapping image;
  uint64_t size;
};

// A kernel access to memory: false where it is poisoned. Never for a page that is missing.
inline bool readable(uint64_t address) {
  char byte;
  const iovec into{&byte, 1}, from{reinterpret_cast<void*>(address), 1};
  return ::process_vm_readv(::getpid(), &into, 1, &from, 1, 0) == 1;
}

// A thread that touches one page; its word is known after join().
class Toucher {
 public:
  explicit Toucher(uint64_t address)
      : thread_([this, address] {
          word_ = __atomic_load_n(reinterpret_cast<const uint64_t*>(address), __ATOMIC_RELAXED);
          done_ = true;
        }) {}
  bool done() const { return done_; }
  uint64_t join() {
    thread_.join();
    return word_;
  }

 private:
  std::atomic<bool> done_{false};
  uint64_t word_ = 0;
  std::thread thread_;
};

// Supplies what another does, but the thread that asks waits at a gate before.
class GatedSource final : public Source {
 public:
  explicit GatedSource(SourcePtr from) : from_(std::move(from)) {}

  uint64_t length() const noexcept override { return from_->length(); }
  Supply supply(uint64_t offset, uint64_t length) const noexcept override {
    ++asked_;
    gate_.wait();
    return from_->supply(offset, length);
  }
  Range memory() const noexcept override { return from_->memory(); }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    from_->read(offset, into);
  }

  // How many times a thread came to the gate.
  unsigned asked() const { return asked_; }
  void open() const { gate_.count_down(); }

 private:
  SourcePtr from_;
  mutable std::atomic<unsigned> asked_{0};
  mutable std::latch gate_{1};
};

// A target by hand, with one region and no manager.
struct HandTarget {
  explicit HandTarget(const Memory& memory, SourcePtr from = nullptr)
      : target(RegionTable({memory.region(std::move(from))}), 0) {
    target.take(open_uffd());
    register_regions(target.uffd(), target.regions());
  }
  const Region& region() const { return target.regions().all().front(); }
  uint64_t count(Count which) const {
    CountValues sum{};
    counters.add_to(sum);
    return sum[static_cast<size_t>(which)];
  }

  Target target;
  Counters counters;
  Installer installer{target, counters};
};

inline std::shared_ptr<ServedTarget> add(Manager& manager, std::vector<Region> regions,
                                         TargetOptions options = {}) {
  Userfaultfd uffd = open_uffd();
  auto served = manager.add(uffd, std::move(regions), options);
  CHECK(!uffd.is_open());
  return served;
}

inline EndingReport close(Manager& manager, ServedTarget& served, Missing missing) {
  manager.begin_close(served, missing);
  for (;;) {
    if (auto report = manager.wait_closed(served, missing, std::chrono::milliseconds(50)))
      return *report;
  }
}

inline void wait(ServedTarget& served) {
  while (!Manager::wait(served, std::chrono::milliseconds(50))) {
  }
}

// Runs check in a fork child, which must start no thread; its number of the first failed check, or
// 0. -1: a signal ended it.
inline int in_child(const std::function<int()>& check) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(check());
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace uffd::test
