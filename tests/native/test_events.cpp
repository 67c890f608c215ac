// Living targets: what they do to their memory, and the races of that with those who fill it. The
// interleavings are drawn; a thread is parked where a race needs it, never asleep for a time.
#include <poll.h>
#include <sys/mman.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "engine/source/shared_image.hpp"
#include "engine/target/move_log.hpp"
#include "ioctl_hook.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

constexpr uint64_t kEventsHere =
    UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

std::shared_ptr<ServedTarget> add_living(Manager& manager, std::vector<Region> regions,
                                         TargetOptions options = {.fault_around = 1}) {
  Userfaultfd uffd = open_uffd(kEventsHere);
  return manager.add(uffd, std::move(regions), options);
}

bool has_message(const Userfaultfd& uffd) {
  pollfd descriptor{uffd.fd(), POLLIN, 0};
  return ::poll(&descriptor, 1, 0) == 1;
}

// Whether the one handler of a manager waits for a lock: for its target's gate, that is.
bool handler_waits_for_a_lock() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name, call;
    std::getline(std::ifstream(task.path() / "comm"), name);
    std::ifstream(task.path() / "syscall") >> call;
    if (name == "uffd-handle-0" && call == std::to_string(SYS_futex)) return true;
  }
  return false;
}

void drop(uint64_t address, uint64_t pages) {
  REQUIRE(sys::madvise(address, pages * page(), MADV_DONTNEED) == 0);
}

// Where memory was unmapped nothing else may come to lie: its Mapping unmaps it once more.
void reserve(uint64_t address, uint64_t length) {
  void* place = ::mmap(reinterpret_cast<void*>(address), length, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(place == reinterpret_cast<void*>(address));
}

void unmap(uint64_t address, uint64_t length) {
  REQUIRE(::munmap(reinterpret_cast<void*>(address), length) == 0);
  reserve(address, length);
}

constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP, Linux 5.7

uint64_t remap(uint64_t from, uint64_t length, uint64_t new_length, int flags = MREMAP_MAYMOVE,
               uint64_t to = 0) {
  void* moved = ::mremap(reinterpret_cast<void*>(from), length, new_length, flags,
                         reinterpret_cast<void*>(to));
  REQUIRE(moved != MAP_FAILED);
  if (!(flags & kDontUnmap)) reserve(from, length);
  return reinterpret_cast<uint64_t>(moved);
}

bool equal(uint64_t address, const Memory& memory, uint64_t number) {
  return std::memcmp(reinterpret_cast<const void*>(address),
                     reinterpret_cast<const void*>(memory.image.address() + number * page()),
                     page()) == 0;
}

bool is_zero(uint64_t address) {
  const auto* bytes = reinterpret_cast<const char*>(address);
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, page() - 1) == 0;
}

// Parks whoever copies to an address, once.
class ParkedCopy {
 public:
  explicit ParkedCopy(uint64_t address)
      : address_(address), hook_([this](int, unsigned long request, void* argument) {
          const auto* copy = static_cast<uffdio_copy*>(argument);
          if (request == UFFDIO_COPY && copy->dst == address_ && !parked_.exchange(true)) {
            arrived_ = true;
            gate_.wait();
          }
          return std::optional<int>();
        }) {}

  void wait() const {
    until([this] { return arrived_.load(); });
  }
  void release() { gate_.count_down(); }

 private:
  uint64_t address_;
  std::atomic<bool> parked_{false}, arrived_{false};
  std::latch gate_{1};
  IoctlHook hook_;
};

}  // namespace

TEST_SUITE("events") {
  TEST_CASE("dropped pages are zeros, missing or not, and count as not missing") {
    const Memory memory(8);
    Manager manager({});
    auto served = add_living(manager, {memory.region()});
    CHECK(memory.right(1));
    until([&] { return served->target.residency().missing() == 7; });  // counted after the wake
    drop(memory.at(1), 3);
    until([&] { return served->target.residency().missing() == 5; });  // applied after it was read
    for (uint64_t i = 1; i < 4; ++i) CHECK(memory.zero(i));
    close(manager, *served, Missing::fill);
    CHECK(memory.right(0));
    CHECK(memory.right(4));
    CHECK(memory.zero(2));
    CHECK(count(*served, Count::removes) == 1);
  }

  // filler                                target
  // looks up page 4: missing
  // COPY is about to begin
  //                                       madvise(MADV_DONTNEED): REMOVE is queued
  // (handler must not read it now)
  // COPY: EAGAIN, the page is dropped
  //                                       goes on; page 4 must be zeros
  TEST_CASE("a COPY in flight meets a REMOVE") {
    const Memory memory(8);
    ParkedCopy parked(memory.at(0));
    Manager manager({});
    auto served = add_living(manager, {memory.region()});
    manager.fill(*served);  // one chunk: all pages
    parked.wait();
    std::atomic<bool> dropped{false};
    std::thread dropper([&] {
      drop(memory.at(4), 1);
      dropped = true;
    });
    // Read and applied now, the filler would copy old bytes over the drop.
    until([&] { return dropped || handler_waits_for_a_lock(); });
    CHECK(!dropped);
    parked.release();
    dropper.join();
    wait(*served);
    for (uint64_t i = 0; i < 8; ++i) CHECK((i == 4 ? memory.zero(i) : memory.right(i)));
  }

  // toucher                handler                          target
  // touches page 2
  //                        COPY is about to begin
  //                                                         mremap to elsewhere: REMAP is queued
  //                        COPY: EAGAIN; reads REMAP
  //                        old place: gone, wakes
  // touches the new place
  TEST_CASE("a fault in flight meets a REMAP, and its thread wakes where nothing is") {
    const Memory memory(4), elsewhere(4);
    ParkedCopy parked(memory.at(2));
    Manager manager({});
    auto served = add_living(manager, {memory.region()});
    // A kernel access, which fails where a plain touch would be SIGSEGV.
    std::atomic<int> first{-1};
    std::thread toucher([&] { first = readable(memory.at(2)); });
    parked.wait();
    std::thread mover([&] {
      remap(memory.at(0), 4 * page(), 4 * page(), MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.at(0));
    });
    until([&] { return has_message(served->target.uffd()); });
    parked.release();
    mover.join();
    toucher.join();
    CHECK(first >= 0);
    for (uint64_t i = 0; i < 4; ++i) CHECK(equal(elsewhere.at(i), memory, i));
    wait(*served);
    CHECK(served->life.report()->absent_pages == 0);
    CHECK(served->life.report()->missing_pages == 0);
  }

  TEST_CASE("a part of a region moves, and both parts have their bytes") {
    const Memory memory(8), elsewhere(8);
    Manager manager({});
    auto served = add_living(manager, {memory.region()}, {.fault_around = 16});
    remap(memory.at(2), 3 * page(), 3 * page(), MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.at(1));
    {
      const auto shared = served->installing();
      CHECK(served->target.regions().size() == 3);
    }
    for (uint64_t i = 0; i < 3; ++i) CHECK(equal(elsewhere.at(1 + i), memory, 2 + i));
    for (const uint64_t i : {0, 1, 5, 6, 7}) CHECK(memory.right(i));
    wait(*served);
    CHECK(served->life.report()->verified == true);
  }

  TEST_CASE("memory that grew, and a place that was vacated, read as zeros") {
    const Memory memory(4);
    const Memory elsewhere(16);
    Manager manager({});
    auto served = add_living(manager, {memory.region()});
    const uint64_t grown =
        remap(memory.at(0), 4 * page(), 9 * page(), MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.at(0));
    CHECK(is_zero(grown + 8 * page()));
    CHECK(is_zero(grown + 4 * page()));
    const uint64_t moved = remap(grown, 4 * page(), 4 * page(), MREMAP_MAYMOVE | kDontUnmap);
    CHECK(is_zero(grown + page()));
    for (uint64_t i = 0; i < 4; ++i) CHECK(equal(moved + i * page(), memory, i));
    CHECK(count(*served, Count::blank) == 3);
    wait(*served);
    CHECK(::munmap(reinterpret_cast<void*>(moved), 4 * page()) == 0);
  }

  TEST_CASE("unmapped pages are settled, and a target of which nothing is left ends") {
    const Memory memory(6);
    Manager manager({});
    auto served = add_living(manager, {memory.region()});
    CHECK(memory.right(3));
    until([&] { return served->target.residency().missing() == 5; });  // counted after the wake
    unmap(memory.at(4), 2 * page());
    until([&] { return served->target.residency().missing() == 3; });  // applied after it was read
    unmap(memory.at(0), 4 * page());
    wait(*served);
    CHECK(served->life.report()->regions == 0);
    CHECK(served->life.report()->missing_pages == 0);
    CHECK(count(*served, Count::unmaps) == 2);
  }

  TEST_CASE("an UNMAP that a REMAP to the same place overtook unmaps nothing") {
    const Memory memory(4), other(4);
    Target target(RegionTable({memory.region(), other.region()}), 0);
    target.take(open_uffd(kEventsHere));
    target.regions().for_each([](Region& region) { region.shared = false; });
    // Told as: other is moved to memory's place; then: memory was unmapped.
    target.moved({other.at(0), 4 * page()}, memory.at(0));
    CHECK(target.residency().missing() == 4);
    target.unmapped({memory.at(0), 4 * page()});
    REQUIRE(target.regions().find(memory.at(1)) != nullptr);
    CHECK(target.residency().missing() == 4);
    target.unmapped({memory.at(0), 4 * page()});  // this one means what lies there now
    CHECK(target.regions().find(memory.at(1)) == nullptr);
    CHECK(target.residency().missing() == 0);
  }

  TEST_CASE("a fork child catches up with moves that its parent told of too late") {
    const Memory memory(4);
    const uint64_t first = 0x10000000, second = 0x20000000;
    Target parent(RegionTable({memory.region()}), 0);
    parent.take(open_uffd(kEventsHere));
    Target child(parent, open_uffd(kEventsHere));
    CHECK(!child.catch_up(second));
    parent.moved({memory.at(0), 4 * page()}, first);
    parent.moved({first, 4 * page()}, second);
    parent.moved({second, page()}, 0x30000000);
    Target later(parent, open_uffd(kEventsHere));
    CHECK(!later.catch_up(first));
    CHECK(child.catch_up(second + 2 * page()));
    REQUIRE(child.regions().find(second + 2 * page()) != nullptr);
    CHECK(child.regions().find(second + 2 * page())->page_at(second + 2 * page()) == 2);
    CHECK(child.regions().find(memory.at(2)) == nullptr);
    CHECK(child.residency().missing() == 4);
  }

  TEST_CASE("threads that touch, drop and move meet a fill: every byte right") {
    constexpr uint64_t kPages = 64, kThreads = 4, kOwn = kPages / kThreads;
    for (unsigned seed = 0; seed < 10; ++seed) {
      const Memory memory(kPages, seed);
      const Memory room(2 * kPages);
      Manager manager({.handlers = 1, .fillers = 2});
      auto served = add_living(manager, {memory.region()}, {.fault_around = 1 + seed});
      std::atomic<unsigned> wrong{0};
      std::vector<std::thread> crew;
      for (uint64_t thread = 0; thread < kThreads; ++thread) {
        crew.emplace_back([&, thread] {
          std::mt19937_64 random(seed * kThreads + thread);
          uint64_t at[kOwn];
          bool dropped[kOwn] = {};
          for (uint64_t i = 0; i < kOwn; ++i) at[i] = memory.at(thread * kOwn + i);
          uint64_t next_place = room.at(2 * thread * kOwn);
          uint64_t moves_left = 2 * kOwn;
          for (int step = 0; step < 150; ++step) {
            const uint64_t i = random() % kOwn;
            switch (random() % 4) {
              case 0:
                ::madvise(reinterpret_cast<void*>(at[i]), page(), MADV_DONTNEED);
                dropped[i] = true;
                break;
              case 1:
                if (moves_left == 0) break;
                --moves_left;
                at[i] = remap(at[i], page(), page(), MREMAP_MAYMOVE | MREMAP_FIXED, next_place);
                next_place += page();
                break;
              default:
                wrong += !(dropped[i] ? is_zero(at[i]) : equal(at[i], memory, thread * kOwn + i));
            }
          }
          for (uint64_t i = 0; i < kOwn; ++i) {
            wrong += !(dropped[i] ? is_zero(at[i]) : equal(at[i], memory, thread * kOwn + i));
          }
        });
      }
      manager.fill(*served);
      for (auto& thread : crew) thread.join();
      CHECK(wrong == 0);
      wait(*served);
      CHECK(served->life.report()->poisoned.empty());
    }
  }

  TEST_CASE("a storm of removals does not starve a fill") {
    const Memory memory(4096), dropped(64);
    Manager manager({});
    auto served = add_living(manager, {memory.region(), dropped.region()});
    std::atomic<bool> stop{false};
    std::thread storm([&] {
      for (uint64_t i = 0; !stop; i = (i + 1) % 64) drop(dropped.at(i), 1);
    });
    until([&] { return count(*served, Count::removes) > 100; });
    manager.fill(*served);
    until([&] { return served->target.residency().missing() == 0; });
    stop = true;
    storm.join();
    wait(*served);
    CHECK(memory.all_right());
    CHECK(dropped.zero(5));
  }

  TEST_CASE("an image's pages are mapped at another place of theirs, too") {
    const Memory memory(4);
    const auto image = std::make_shared<SharedImage>(memory.source(), MemoryKind::memfd);
    void* const mapped =
        ::mmap(nullptr, 4 * page(), PROT_READ | PROT_WRITE, MAP_SHARED, image->fd(), 0);
    REQUIRE(mapped != MAP_FAILED);
    const auto start = reinterpret_cast<uint64_t>(mapped);
    Userfaultfd uffd = open_uffd(UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_MINOR_SHMEM);
    Manager manager({});
    auto served = manager.add(uffd,
                              {Region({start, 4 * page()}, image, 0, page(),
                                      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR)},
                              {.ending = Ending::keep_open, .fault_around = 1});
    CHECK(equal(start, memory, 0));
    const uint64_t moved = remap(start, 4 * page(), 4 * page(), MREMAP_MAYMOVE | kDontUnmap);
    for (const uint64_t i : {0, 3}) {
      CHECK(equal(start + i * page(), memory, i));
      CHECK(equal(moved + i * page(), memory, i));
    }
    manager.discard(*served);
    for (const uint64_t place : {start, moved})
      ::munmap(reinterpret_cast<void*>(place), 4 * page());
  }
}

}  // namespace uffd::test
