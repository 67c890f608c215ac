// Forks of this process: every lock of the engine is right in the child, and managed memory is a
// hole there that nothing comes to lie in.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <fstream>
#include <optional>

#include "engine/linux/at_fork.hpp"
#include "engine/linux/blank.hpp"
#include "engine/linux/fork_hole.hpp"
#include "engine/linux/task_state.hpp"
#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/inline/inline_targets.hpp"
#include "engine/source/shared_image.hpp"
#include "sigaction_hook.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

// Calls a function in the middle of the next fork of this process, when all locks of the levels
// before are held, and again in the parent's end of it.
class MidFork {
 public:
  MidFork(AtFork::Level level, std::function<void()> function) : function_(std::move(function)) {
    at_fork_.emplace(level, this, AtFork::Hooks{.prepare = [](void* self) noexcept {
                       static_cast<MidFork*>(self)->function_();
                     }});
  }

 private:
  std::function<void()> function_;
  std::optional<AtFork> at_fork_;
};

// On the heap: the next test's mutexes may lie where this one's lay on the stack, and TSan, which
// is not told of the end of a std::mutex, would take the two for one.
std::unique_ptr<ForkHole> hole_of(std::vector<Range> ranges) {
  return std::make_unique<ForkHole>(std::move(ranges));
}

// Like in_child, but for children that may hang or die where something is wrong: -1 then.
int in_doomed_child(const std::function<int()>& check) {
  return in_child([&] {
    for (const int number : {SIGSEGV, SIGBUS, SIGALRM}) ::signal(number, SIG_DFL);
    ::alarm(20);
    return check();
  });
}

bool is_mapped(uint64_t address) {
  return ::madvise(reinterpret_cast<void*>(address), page(), MADV_NORMAL) == 0;
}

// Whether some access to it is possible.
bool is_accessible(uint64_t address) {
  return readable(address);
}

void* map_at(uint64_t address, uint64_t length) {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | 0x100000;  // MAP_FIXED_NOREPLACE
  void* const place =
      ::mmap(reinterpret_cast<void*>(address), length, PROT_READ | PROT_WRITE, flags, -1, 0);
  return place == MAP_FAILED ? nullptr : place;
}

std::string order;

AtFork named(AtFork::Level level, const char* name) {
  return AtFork(level, const_cast<char*>(name),
                {.prepare = [](void* self) noexcept { order += static_cast<char*>(self); },
                 .in_parent = [](void* self) noexcept { order += static_cast<char*>(self); },
                 .in_child = [](void* self) noexcept { order += static_cast<char*>(self); }});
}

// An inline target without a manager: it must not become complete, which it would tell its handler.
struct InlineByHand {
  explicit InlineByHand(const Region& region)
      : served(RegionTable({region}), 0, TargetSettings{.fault_around = 1u, .verify = false}) {
    served.inline_faults = std::make_shared<InlineFaults>(served);
    inline_targets::add(served);
    served.target.take(open_uffd(UFFD_FEATURE_SIGBUS));
    register_regions(served.target.uffd(), served.target.regions());
    served.inline_faults->open();
  }
  ~InlineByHand() { inline_targets::remove(served); }

  ServedTarget served;
};

// A late source whose readers stay in it, and in the question for its deadline, until it is opened.
class ParkingSource final : public Source {
 public:
  explicit ParkingSource(uint64_t pages) : memory_(pages) {}

  uint64_t length() const noexcept override { return memory_.image.length(); }
  bool late() const noexcept override { return true; }
  std::optional<std::chrono::nanoseconds> deadline() const noexcept override {
    asked_ = true;
    until([&] { return open_.load(); });
    return std::nullopt;
  }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    reading_ = true;
    until([&] { return open_.load(); });
    std::memcpy(into.data(), reinterpret_cast<const std::byte*>(memory_.image.address()) + offset,
                into.size());
  }

  void open() const { open_ = true; }
  bool reading() const { return reading_; }
  bool asked_for_its_deadline() const { return asked_; }
  bool equals(uint64_t offset, std::span<const std::byte> bytes) const {
    return std::memcmp(bytes.data(),
                       reinterpret_cast<const std::byte*>(memory_.image.address()) + offset,
                       bytes.size()) == 0;
  }

 private:
  Memory memory_;
  mutable std::atomic<bool> open_{false}, reading_{false}, asked_{false};
};

volatile sig_atomic_t first_ran = 0, second_ran = 0;

struct sigaction plain(void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  return action;
}

}  // namespace

TEST_SUITE("fork") {
  TEST_CASE("hooks are called by their levels, and after the fork the other way round") {
    const AtFork late = named(AtFork::Level::holes, "c");
    const AtFork first = named(AtFork::Level::descriptors, "a");
    {
      const AtFork between = named(AtFork::Level::local_memory, "b");
      const AtFork without(AtFork::Level::image, nullptr, {});
      order.clear();
      CHECK(in_child([] { return order == "abccba" ? 0 : 1; }) == 0);
      CHECK(order == "abccba");
    }
    order.clear();
    CHECK(in_child([] { return order == "acca" ? 0 : 1; }) == 0);
    CHECK(order == "acca");
  }

  TEST_CASE("a thread that must not wait for a fork finds forks held, and comes back") {
    ForkClosedFd fd([] { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); });
    std::optional<bool> held, closed;
    {
      const MidFork fork(AtFork::Level::holes, [&] {
        std::thread([&] {
          held = ForkClosedFd::try_hold_forks().owns_lock();
          closed = fd.try_close();
        }).join();
      });
      CHECK(in_child([] { return 0; }) == 0);
    }
    CHECK(held == false);
    CHECK(closed == false);
    CHECK(static_cast<bool>(fd));
    {
      const HeldForks now = ForkClosedFd::try_hold_forks();
      CHECK(now.owns_lock());
      CHECK(!fd.try_close());
      CHECK(static_cast<bool>(fd));  // this asks without a lock
      fd.close(now);
    }
    CHECK(!fd);
    CHECK(fd.try_close());
    // Right in a child, too, which was forked with the lock held.
    CHECK(in_doomed_child([] { return ForkClosedFd::hold_forks().owns_lock() ? 0 : 1; }) == 0);
  }

  TEST_CASE("address space that is short is an exception before the first fault, not an end") {
    CHECK(in_doomed_child([] {
            std::ifstream statm("/proc/self/statm");
            uint64_t pages = 0;
            statm >> pages;
            const rlimit limit{pages * page() + kBlankLength / 2, RLIM_INFINITY};
            ::setrlimit(RLIMIT_AS, &limit);
            try {
              map_blanks();
            } catch (const SystemError& error) {
              return error.code().value() == ENOMEM && zeros_address() == 0 ? 0 : 1;
            }
            return zeros_address() != 0 && unreadable_address() != 0 ? 0 : 2;
          }) == 0);
    map_blanks();
    const uint64_t zeros = zeros_address(), unreadable = unreadable_address();
    map_blanks();
    CHECK(zeros_address() == zeros);
    CHECK(unreadable_address() == unreadable);
    CHECK(readable(zeros + kBlankLength - 1));
    CHECK(!readable(unreadable));
  }

  TEST_CASE("a fork child has a plug where the hole is, and no mapping comes to lie there") {
    std::optional<Mapping> memory(std::in_place, 8 * page(), MemoryKind::anonymous, false);
    const auto at = [start = memory->address()](uint64_t number) {
      return start + number * page();
    };
    auto hole = hole_of({{at(2), 2 * page()}, {at(6), page()}, {at(4), page()}, {at(1), page()}});
    const auto joined = hole->ranges();
    REQUIRE(joined.size() == 2);
    CHECK((joined[0].start == at(1) && joined[0].length == 4 * page()));
    CHECK((joined[1].start == at(6) && joined[1].length == page()));
    const auto child = [&] {
      for (const uint64_t number : {0, 5, 7}) {
        if (!is_accessible(at(number))) return 1;
      }
      for (const uint64_t number : {1, 2, 3, 4, 6}) {
        if (is_accessible(at(number)) || !is_mapped(at(number))) return 2;
        if (map_at(at(number), page())) return 3;
      }
      // The destructor of the inherited object leaves the plug alone, and so does that of the
      // memory.
      hole.reset();
      memory.reset();
      if (is_accessible(at(1)) || !is_mapped(at(1)) || !is_accessible(at(0))) return 4;
      // So does its own child.
      return in_child([&] { return !is_accessible(at(6)) && is_mapped(at(6)) ? 0 : 1; }) == 0 ? 0
                                                                                              : 5;
    };
    CHECK(in_doomed_child(child) == 0);
    CHECK(in_doomed_child([&] { return *reinterpret_cast<volatile char*>(at(3)); }) == -1);
    hole->lift();
    hole->lift();
    CHECK(in_doomed_child([&] {
            for (uint64_t i = 0; i < 8; ++i) {
              if (!is_accessible(at(i))) return 1;
            }
            return 0;
          }) == 0);
  }

  TEST_CASE("what lies in a hole before the child plugs it is left, and plugged around") {
    const Mapping memory(64 * page(), MemoryKind::anonymous, false);
    const auto at = [&](uint64_t number) { return memory.address() + number * page(); };
    const auto hole = hole_of({{memory.address(), memory.length()}});
    // Called in the child before that of the holes: this one is later in the list.
    static uint64_t place;
    place = at(21);
    const AtFork other(AtFork::Level::holes, nullptr, {.in_child = [](void*) noexcept {
                         *static_cast<char*>(map_at(place, page())) = 7;
                       }});
    CHECK(in_doomed_child([&] {
            for (uint64_t i = 0; i < 64; ++i) {
              if (!is_mapped(at(i)) || is_accessible(at(i)) != (i == 21)) return 1;
            }
            return *reinterpret_cast<char*>(at(21)) == 7 ? 0 : 2;
          }) == 0);
  }

  TEST_CASE("a hole of memory that is not mapped is refused, and changes nothing") {
    // Low addresses, which the kernel gives to nobody who does not ask for them.
    constexpr uint64_t start = 0x10000000;
    const auto at = [](uint64_t number) { return start + number * page(); };
    REQUIRE(map_at(start, 4 * page()));
    ::munmap(reinterpret_cast<void*>(at(2)), page());
    const auto other = hole_of({{at(1), page()}});
    CHECK_THROWS_AS(ForkHole({{at(0), 4 * page()}}), SystemError);
    CHECK_THROWS_AS(ForkHole({{at(0), page()}, {at(2), page()}}), SystemError);
    CHECK(in_doomed_child([&] {
            if (!is_accessible(at(0)) || !is_accessible(at(3))) return 1;
            return !is_accessible(at(1)) && is_mapped(at(1)) && !is_mapped(at(2)) ? 0 : 2;
          }) == 0);
    ::munmap(reinterpret_cast<void*>(start), 4 * page());
  }

  TEST_CASE("memory of two holes stays out of fork children until both are lifted") {
    const Mapping memory(6 * page(), MemoryKind::anonymous, false);
    const auto at = [&](uint64_t number) { return memory.address() + number * page(); };
    const auto inherited = [&] {
      std::string found;
      for (uint64_t i = 0; i < 6; ++i)
        found += in_child([&] { return is_accessible(at(i)) ? 1 : 0; }) == 1 ? 'x' : '.';
      return found;
    };
    const auto whole = hole_of({{at(0), 6 * page()}});
    const auto parts = hole_of({{at(1), page()}, {at(3), page()}});
    CHECK(inherited() == "......");
    whole->lift();
    CHECK(inherited() == "x.x.xx");
    parts->leave();
    parts->lift();
    CHECK(inherited() == "x.x.xx");
    // A later hole takes over what was left.
    const auto later = hole_of({{at(0), 3 * page()}});
    CHECK(inherited() == "....xx" + std::string());
    later->lift();
    CHECK(inherited() == "xxx.xx");
    hole_of({{at(3), page()}})->lift();
    CHECK(inherited() == "xxxxxx");
  }

  TEST_CASE("a hole goes with its memory, though a fork is under way when that is told") {
    const Mapping memory(4 * page(), MemoryKind::anonymous, false);
    Mapping target(4 * page(), MemoryKind::anonymous, false);
    const Range from{memory.address(), 2 * page()};
    const auto hole = hole_of({{memory.address(), 4 * page()}});
    void* const to = reinterpret_cast<void*>(target.address());
    REQUIRE(::mremap(reinterpret_cast<void*>(from.start), from.length, from.length,
                     MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    std::optional<bool> moved, unmapped;
    {
      const MidFork fork(AtFork::Level::holes, [&] {
        std::thread([&] {
          moved = hole->moved(from, target.address());
          unmapped = hole->unmapped(from);
        }).join();
      });
      CHECK(in_child([] { return 0; }) == 0);
    }
    CHECK(moved == false);
    CHECK(unmapped == false);
    const auto child = [&] {
      if (is_mapped(memory.address())) return 1;
      if (!is_mapped(target.address()) || is_accessible(target.address())) return 2;
      if (!is_accessible(target.address() + 2 * page())) return 3;
      return is_mapped(memory.address() + 3 * page()) ? 0 : 4;
    };
    // By the next fork.
    CHECK(in_doomed_child(child) == 0);
    CHECK(hole->unmapped({memory.address() + 2 * page(), page()}));
    CHECK(hole->moved({target.address(), page()}, target.address() + 3 * page()));
    const auto ranges = hole->ranges();
    REQUIRE(ranges.size() == 3);
    hole->lift();
    CHECK(in_doomed_child([&] { return is_accessible(target.address()) ? 0 : 1; }) == 0);
  }

  TEST_CASE("memory of a target that tells of forks stays a hole until the target has ended") {
    for (const uint64_t features : {uint64_t{0}, uint64_t{UFFD_FEATURE_EVENT_FORK}}) {
      Userfaultfd uffd;
      try {
        uffd = open_uffd(features);
      } catch (const UnsupportedError&) {
        MESSAGE("skipped: EVENT_FORK is not permitted");
        continue;
      }
      const Memory memory(4);
      Manager manager({});
      auto served = manager.add(uffd, {memory.region()}, {.ending = Ending::keep_open});
      manager.fill(*served);
      wait(*served);
      // Complete; and the fork does not wait for an event to be read.
      served->mailbox->call([] {});
      const auto inherited = [&] {
        return in_doomed_child([&] { return is_accessible(memory.at(0)) ? 1 : 0; });
      };
      if (features == 0) {
        until([&] { return served->fork_hole->ranges().empty(); });
        CHECK(inherited() == 1);
      } else {
        CHECK(inherited() == 0);
      }
      CHECK(count(*served, Count::forks) == 0);
    }
  }

  TEST_CASE("a fork child finds nothing of its parent's inline targets, and serves its own") {
    const Memory memory(20), other(20, 2);
    Manager manager({});
    Userfaultfd uffd = open_uffd(UFFD_FEATURE_SIGBUS);
    auto served = manager.add(uffd, {memory.region()}, {.fault_around = 1u, .inline_faults = true});
    CHECK(memory.right(3));
    // In a child's hole lies memory of its own, with other bytes.
    const auto own = [&] {
      if (inline_targets::regain_signal()) return 1;  // nothing in it, so nothing to regain
      void* const place = reinterpret_cast<void*>(memory.at(0));
      constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
      if (::mmap(place, 20 * page(), PROT_READ | PROT_WRITE, flags, -1, 0) != place) return 2;
      if (!inline_targets::install({memory.at(0), 20 * page()})) return 3;
      {
        const InlineByHand target(Region({memory.at(0), 20 * page()}, other.source(), 0, page()));
        for (const uint64_t i : {0, 3, 19}) {
          if (std::memcmp(reinterpret_cast<const void*>(memory.at(i)),
                          reinterpret_cast<const void*>(other.image.address() + i * page()),
                          page()) != 0)
            return 4;
        }
        if (!inline_targets::install({memory.at(7), page()}) || !readable(memory.at(7))) return 5;
        if (count(target.served, Count::faults) != 3) return 6;
      }
      return 0;
    };
    CHECK(in_doomed_child(own) == 0);
    CHECK(in_doomed_child([&] { return memory.right(4) ? 0 : 1; }) == -1);
    close(manager, *served, Missing::fill);
    CHECK(memory.all_right());
  }

  TEST_CASE("the lock of the inline table is right in a fork child") {
    const Memory memory(2);
    const InlineByHand target(memory.region());
    // While a fork is under way another thread comes for the lock. With it in hand it would stay
    // there until the fork is over; without, it sleeps.
    std::atomic<pid_t> id{0};
    std::atomic<bool> inside{false}, forked{false};
    std::optional<std::thread> thread;
    int end = 0;
    {
      const HookedSigaction hook([&](int number, const struct sigaction*) {
        if (number != SIGBUS || ::gettid() != id) return;
        inside = true;
        until([&] { return forked.load(); });
      });
      const MidFork fork(AtFork::Level::holes, [&] {
        thread.emplace([&] {
          id = ::gettid();
          inline_targets::regain_signal();
        });
        until([&] { return inside || (id != 0 && task_state(id) == 'S'); });
      });
      end = in_doomed_child([] { return inline_targets::regain_signal() ? 1 : 0; });
      forked = true;
      thread->join();
    }
    CHECK(end == 0);
  }

  TEST_CASE("a SIGBUS that comes while ours takes over finds a whole handler of theirs") {
    const auto check = [&] {
      const struct sigaction first = plain([](int) { first_ran = first_ran + 1; });
      const struct sigaction second = plain([](int) { second_ran = second_ran + 1; });
      kernel_sigaction(SIGBUS, &first, nullptr);
      const Memory memory(2);
      {
        const HookedSigaction hook([](int number, const struct sigaction* set) {
          if (number == SIGBUS && set) ::raise(SIGBUS);
        });
        const InlineByHand target(memory.region());
        if (first_ran != 1) return 1;
      }
      // Now somebody takes over in between.
      const Memory more(2);
      bool taken = false;
      const InlineByHand target(more.region());
      kernel_sigaction(SIGBUS, &first, nullptr);
      {
        const HookedSigaction hook([&](int number, const struct sigaction* set) {
          if (number != SIGBUS || set) return;
          // The last question before the change: the first is whether SIGBUS is ours.
          if (std::exchange(taken, true)) kernel_sigaction(SIGBUS, &second, nullptr);
        });
        if (!inline_targets::regain_signal()) return 2;
      }
      ::raise(SIGBUS);
      if (first_ran != 1 || second_ran != 1) return 3;
      // Many in a row.
      for (int i = 0; i < 20; ++i) {
        kernel_sigaction(SIGBUS, i % 2 == 0 ? &first : &second, nullptr);
        if (!inline_targets::regain_signal()) return 4;
        ::raise(SIGBUS);
      }
      return first_ran == 11 && second_ran == 11 && more.right(0) ? 0 : 5;
    };
    CHECK(in_doomed_child(check) == 0);
  }

  TEST_CASE("an image goes on in a fork child, whatever its threads were doing") {
    const auto source = std::make_shared<ParkingSource>(6);
    auto image = std::make_unique<SharedImage>(source, MemoryKind::memfd);
    // One thread fills the first page, and another waits for it with the image's lock in hand.
    std::vector<std::byte> first(page()), second(page());
    std::thread filler([&] { image->read(0, first); });
    until([&] { return source->reading(); });
    std::thread waiter([&] { image->read(0, second); });
    until([&] { return source->asked_for_its_deadline(); });
    const auto child = [&] {
      source->open();
      std::vector<std::byte> bytes(6 * page());
      image->read(0, bytes);
      if (!source->equals(0, bytes) || image->missing_pages() != 0) return 1;
      using namespace std::chrono_literals;
      if (image->wait_filled(0ms) != SharedImage::Filled::all) return 2;
      image.reset();
      return 0;
    };
    CHECK(in_doomed_child(child) == 0);
    CHECK(image->missing_pages() == 6);
    source->open();
    filler.join();
    waiter.join();
    CHECK(source->equals(0, first));
    CHECK(source->equals(0, second));
    CHECK(image->missing_pages() == 5);
  }

  TEST_CASE("an image's background fill ends with a fork, and may begin again in the child") {
    const Memory memory(6);
    const auto source = std::make_shared<GatedSource>(memory.source());
    auto image = std::make_unique<SharedImage>(source, MemoryKind::memfd);
    image->start_filling();
    until([&] { return source->asked() > 0; });
    const auto child = [&] {
      source->open();
      using namespace std::chrono_literals;
      if (image->wait_filled(0ms) != SharedImage::Filled::not_all) return 1;
      if (image->fill(0, page()) != static_cast<int64_t>(page())) return 2;
      if (image->missing_pages() != 5) return 3;
#ifndef __SANITIZE_THREAD__  // which permits no threads in the child of a process with several
      image->start_filling();
      while (image->wait_filled(50ms) == SharedImage::Filled::not_yet) {
      }
      if (image->missing_pages() != 0) return 4;
#endif
      image.reset();
      return 0;
    };
    CHECK(in_doomed_child(child) == 0);
    source->open();
    while (image->wait_filled(std::chrono::milliseconds(50)) == SharedImage::Filled::not_yet) {
    }
    CHECK(image->missing_pages() == 0);
  }
}

}  // namespace uffd::test
