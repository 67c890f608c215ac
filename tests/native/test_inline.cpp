// Faults that are resolved in signal handlers: by many threads, beside fillers and endings.
#include <csignal>
#include <latch>

#include "engine/linux/sigbus.hpp"
#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/inline/inline_targets.hpp"
#include "support.hpp"
#include "workload/toucher.hpp"

namespace uffd::test {
namespace {

std::shared_ptr<ServedTarget> add_inline(Manager& manager, const Memory& memory,
                                         std::optional<uint32_t> fault_around = {}) {
  Userfaultfd uffd = open_uffd(UFFD_FEATURE_SIGBUS);
  TargetOptions options;
  options.inline_faults = true;
  options.fault_around = fault_around;
  options.verify = false;
  return manager.add(uffd, {memory.region()}, options);
}

workload::TouchPlan touches(const Memory& memory, size_t threads) {
  workload::TouchPlan plan;
  plan.ranges = {{memory.memory.address(), memory.memory.length()}};
  plan.threads = threads;
  plan.visits.partition = workload::Partition::all;
  plan.visits.order = workload::Order::random;
  return plan;
}

}  // namespace

TEST_SUITE("inline") {
  TEST_CASE("threads that fault on the same pages, beside fillers") {
    Manager manager({.fillers = 2});
    for (int round = 0; round < 4; ++round) {
      const Memory memory(600);
      auto served = add_inline(manager, memory, round % 2 == 0 ? std::optional(1u) : std::nullopt);
      workload::Toucher toucher(touches(memory, 4));
      toucher.start();
      if (round % 3 == 0) manager.fill(*served);
      toucher.join();
      wait(*served);
      CHECK(served->life.report()->ending == Ending::unregister);
      // None is lost though several threads count into the same counters.
      CHECK(count(*served, Count::pages) == 600);
      CHECK(memory.all_right());
    }
  }

  TEST_CASE("threads that add to the same counters lose nothing") {
    constexpr uint64_t times = 5'000'000;  // enough for both to be interrupted in between
    SharedCounters shared;
    std::latch start(2);
    const auto add_often = [&] {
      Counters counted;
      counted.add(Count::faults, 2);
      counted.add(Count::pages);
      start.arrive_and_wait();
      for (uint64_t i = 0; i < times; ++i) shared.add(counted);
    };
    std::thread first(add_often), second(add_often);
    first.join();
    second.join();
    CountValues sum{};
    shared.add_to(sum);
    CHECK(sum[static_cast<size_t>(Count::faults)] == 4 * times);
    CHECK(sum[static_cast<size_t>(Count::pages)] == 2 * times);
    CHECK(sum[static_cast<size_t>(Count::reads)] == 0);
  }

  TEST_CASE("an ending waits for the signal handlers that use the target") {
    Manager manager({});
    for (int round = 0; round < 8; ++round) {
      const Memory memory(100);
      auto served = add_inline(manager, memory, 1u);
      workload::Toucher toucher(touches(memory, 3));
      toucher.start();
      close(manager, *served, Missing::zero);
      toucher.join();
      for (uint64_t i = 0; i < 100; ++i) CHECK((memory.right(i) || memory.zero(i)));
    }
  }

  TEST_CASE("a range is installed before a kernel access") {
    Manager manager({});
    const Memory memory(100), other(4);
    auto served = add_inline(manager, memory, 1u);
    CHECK(!readable(memory.at(50)));
    CHECK(inline_targets::install({memory.at(50) + 1, 2 * page()}));
    for (const uint64_t i : {50, 51, 52}) CHECK(readable(memory.at(i)));
    CHECK(!readable(memory.at(53)));
    CHECK(inline_targets::install({other.at(0), 4 * page()}));
    close(manager, *served, Missing::fill);
    CHECK(memory.all_right());
  }

  TEST_CASE("whose handler recovers from a SIGBUS that is not ours finds inline memory served") {
    const SigbusCatcher catcher;
    Manager manager({});
    const Memory memory(10);
    auto served = add_inline(manager, memory, 1u);
    const Fd empty(::memfd_create("empty", MFD_CLOEXEC));
    void* const beyond = ::mmap(nullptr, page(), PROT_READ, MAP_SHARED, empty.get(), 0);
    for (uint64_t round = 0; round < 4; ++round) {
      CHECK(!survives([&] { (void)*static_cast<volatile char*>(beyond); }));
      CHECK(!inline_targets::regain_signal());
      CHECK(memory.right(round));
    }
    close(manager, *served, Missing::fill);
    ::munmap(beyond, page());
  }

  TEST_CASE("a SIGBUS of other memory that lies where a region lay is not ours") {
    const SigbusCatcher catcher;
    Manager manager({});
    const Memory memory(10);
    auto served = add_inline(manager, memory, 1u);
    CHECK(memory.right(0));
    const Fd empty(::memfd_create("empty", MFD_CLOEXEC));
    for (const uint64_t number : {0, 5}) {
      void* const place = reinterpret_cast<void*>(memory.at(number));
      ::mmap(place, page(), PROT_READ, MAP_SHARED | MAP_FIXED, empty.get(), 0);
      CHECK(!survives([&] { (void)*static_cast<volatile char*>(place); }));
    }
    CHECK(memory.right(7));
    close(manager, *served, Missing::fill);
  }

  TEST_CASE("who takes SIGBUS over meanwhile has what is not ours") {
    Manager manager({});
    const Memory memory(10);
    auto served = add_inline(manager, memory, 1u);
    CHECK(!inline_targets::regain_signal());
    struct sigaction theirs{};
    theirs.sa_handler = SIG_IGN;
    struct sigaction ours{};
    ::sigaction(SIGBUS, &theirs, &ours);
    CHECK(inline_targets::regain_signal());
    CHECK(memory.all_right());
    wait(*served);
    ::sigaction(SIGBUS, &theirs, nullptr);
    CHECK(!inline_targets::regain_signal());
    struct sigaction none{};
    ::sigaction(SIGBUS, &none, nullptr);
  }
}

}  // namespace uffd::test
