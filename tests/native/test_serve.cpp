// Handlers, fillers and the manager over them: every byte right, nobody left asleep.
#include <random>

#include "engine/linux/smaps.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

// Threads that touch every page of memories in orders of their own and count the wrong ones.
uint64_t touch_all(const std::vector<const Memory*>& memories, unsigned threads, uint64_t pages) {
  std::atomic<uint64_t> wrong{0};
  std::vector<std::thread> crew;
  for (unsigned i = 0; i < threads; ++i) {
    crew.emplace_back([&, i] {
      std::mt19937_64 random(i);
      std::vector<uint64_t> order(pages * memories.size());
      for (uint64_t j = 0; j < order.size(); ++j) order[j] = j;
      std::shuffle(order.begin(), order.end(), random);
      for (const uint64_t j : order) {
        if (!memories[j / pages]->right(j % pages)) ++wrong;
      }
    });
  }
  for (auto& thread : crew) thread.join();
  return wrong;
}

// A target without a handler, whose commands nobody takes but the test.
struct HandServed {
  explicit HandServed(const Memory& memory, SourcePtr from = nullptr)
      : served(std::make_shared<ServedTarget>(RegionTable({memory.region(std::move(from))}), 0,
                                              TargetSettings{.fault_around = 1, .verify = false})) {
    served->mailbox = std::make_shared<Mailbox>();
    served->target.take(open_uffd());
    register_regions(served->target.uffd(), served->target.regions());
  }
  ~HandServed() { served->mailbox->close(); }
  ServedTarget* operator->() const { return served.get(); }
  ServedTarget& operator*() const { return *served; }

  const std::shared_ptr<ServedTarget> served;
};

}  // namespace

TEST_SUITE("serve") {
  TEST_CASE("eight threads in random order read every byte right, whatever the window") {
    for (const uint32_t window : {1u, 3u, 16u, 64u, 100000u}) {
      CAPTURE(window);
      const Memory memory(257, window);
      Manager manager({});
      auto served = add(manager, {memory.region()}, {.fault_around = window});
      CHECK(touch_all({&memory}, 8, 257) == 0);
      wait(*served);
      const Stats stats = collect_stats(*served);
      CHECK(count(*served, Count::pages) == 257);
      CHECK(count(*served, Count::bytes) == 257 * page());
      uint64_t timed = 0;
      for (const uint64_t bucket : stats.latency) timed += bucket;
      CHECK(timed <= count(*served, Count::faults));
      CHECK(served->life.report()->missing_pages == 0);
      CHECK(served->life.report()->verified == true);
    }
  }

  TEST_CASE("fault-around installs the aligned window and no more") {
    Memory memory(64);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 8});
    const uint64_t aligned = 8 * page();
    const uint64_t skew = (memory.at(0) % aligned) / page();  // windows are aligned to addresses
    CHECK(memory.right(20));
    const uint64_t first = (20 + skew) / 8 * 8 - skew;
    until([&] { return served->target.residency().missing() == 64 - 8; });
    for (uint64_t i = 0; i < 64; ++i) {
      CHECK(served->target.residency().resident(i) == (i >= first && i < first + 8));
    }
    CHECK(close(manager, *served, Missing::zero).missing_pages == 56);
    CHECK(memory.right(20));
    CHECK(memory.zero(0));
  }

  TEST_CASE("several targets on one handler, and on two") {
    for (const size_t handlers : {1, 2}) {
      std::vector<std::unique_ptr<Memory>> memories;
      std::vector<const Memory*> all;
      Manager manager({.handlers = handlers, .fillers = 1});
      std::vector<std::shared_ptr<ServedTarget>> targets;
      for (uint64_t i = 0; i < 5; ++i) {
        memories.push_back(std::make_unique<Memory>(40, i));
        all.push_back(memories.back().get());
        targets.push_back(add(manager, {memories.back()->region()}));
      }
      CHECK(touch_all(all, 6, 40) == 0);
      for (auto& served : targets) wait(*served);
    }
  }

  TEST_CASE("several regions, apart and adjoining, with sources and offsets of their own") {
    const Memory memory(30);
    const auto region = [&](uint64_t first, uint64_t pages, uint64_t offset) {
      return Region({memory.at(first), pages * page()}, memory.source(), offset * page(), page());
    };
    Manager manager({});
    auto served = add(manager, {region(20, 10, 5), region(0, 7, 0), region(7, 3, 7)});
    for (uint64_t i = 0; i < 10; ++i) CHECK(memory.right(i));
    const auto moved = [&](uint64_t i) {
      return std::memcmp(reinterpret_cast<const void*>(memory.at(i)),
                         reinterpret_cast<const void*>(memory.image.address() + (i - 15) * page()),
                         page()) == 0;
    };
    for (uint64_t i = 20; i < 30; ++i) CHECK(moved(i));
    wait(*served);
    CHECK(served->life.report()->regions == 3);
    CHECK(memory.zero(15));
  }

  TEST_CASE("a page that the target drops while it is served comes back as zeros") {
    const Memory memory(4);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 1});
    CHECK(memory.right(2));
    REQUIRE(sys::madvise(memory.at(2), page(), MADV_DONTNEED) == 0);
    CHECK(memory.zero(2));
    until([&] { return count(*served, Count::dropped) == 1; });  // counted after the wake
    CHECK(served->target.residency().missing() == 3);
    close(manager, *served, Missing::fill);
    CHECK(memory.zero(2));
    CHECK(memory.right(3));
  }

  TEST_CASE("a fill supplies everything, with one filler and with two") {
    for (const size_t fillers : {1, 2}) {
      const Memory memory(1000);
      Manager manager({.handlers = 1, .fillers = fillers});
      auto served = add(manager, {memory.region()});
      manager.fill(*served);
      manager.fill(*served);  // again, while it is under way
      wait(*served);
      CHECK(count(*served, Count::pages) == 1000);
      CHECK(count(*served, Count::faults) == 0);
      CHECK(memory.all_right());
    }
  }

  TEST_CASE("a fill and touches meet, and every byte is right") {
    const Memory memory(2000);
    Manager manager({.handlers = 1, .fillers = 2});
    auto served = add(manager, {memory.region()});
    manager.fill(*served);
    CHECK(touch_all({&memory}, 4, 2000) == 0);
    wait(*served);
    CHECK(count(*served, Count::pages) == 2000);
  }

  TEST_CASE("two targets fill in turn") {
    const Memory one(500, 1), two(500, 2);
    Manager manager({});
    auto first = add(manager, {one.region()}), second = add(manager, {two.region()});
    manager.fill(*first);
    manager.fill(*second);
    wait(*first);
    wait(*second);
    CHECK(one.all_right());
    CHECK(two.all_right());
  }

  TEST_CASE("a fill pool passes over a target that has nothing missing") {
    const Memory memory(3);
    const std::optional<Cpu> places[2];
    FetchPool fetchers;
    FillPool pool(places, fetchers);
    const HandServed served(memory);
    served->target.residency().mark(0, 3);
    CHECK(pool.start(*served, FillJob::Kind::install));
    until([&] { return served->life.tried_all(); });
    CHECK(served->leases.revoke());
    served->target.uffd().close();
    CHECK(memory.zero(0));
  }

  TEST_CASE("a fill pool tells the handler when the last page is settled") {
    const Memory memory(300);
    const std::optional<Cpu> places[2];
    FetchPool fetchers;
    FillPool pool(places, fetchers);
    const HandServed served(memory);
    pool.start(*served, FillJob::Kind::install);
    until([&] { return served->life.tried_all(); });
    unsigned told = 0;
    served->mailbox->take([&](ServedTarget& other, unsigned commands) {
      CHECK(&other == served.served.get());
      CHECK(commands == command::look);
      ++told;
    });
    CHECK(told == 1);
    CHECK(served->target.residency().missing() == 0);
    CHECK(memory.all_right());
  }

  // When the last lease is back no filler touches the target any more.
  TEST_CASE("leases are revoked while a target fills") {
    const Memory memory(1000);
    const std::optional<Cpu> places[2];
    FetchPool fetchers;
    FillPool pool(places, fetchers);
    auto gate = std::make_shared<GatedSource>(memory.source());
    const HandServed served(memory, gate);
    pool.start(*served, FillJob::Kind::install);
    until([&] { return gate->asked() == 2; });
    CHECK(!served->leases.revoke());
    CHECK(!Lease(*served));
    gate->open();
    until([&] { return served->leases.revoked_and_back(); });
    const uint64_t missing = served->target.residency().missing();
    CHECK(missing < 1000);  // what was under way was done
    served->target.uffd().close();
    for (uint64_t i = 0; i < 1000; ++i) {
      REQUIRE(served->target.residency().resident(i) ? memory.right(i) : memory.zero(i));
    }
    CHECK(served->target.residency().missing() == missing);
  }

  // A user's fill() may come when an ending was decided already.
  TEST_CASE("a fill that comes after the leases were revoked installs nothing") {
    const Memory memory(8), busy(8);
    const std::optional<Cpu> places[1];
    FetchPool fetchers;
    FillPool pool(places, fetchers);
    auto gate = std::make_shared<GatedSource>(busy.source());
    const HandServed first(busy, gate);
    pool.start(*first, FillJob::Kind::install);
    until([&] { return gate->asked() == 1; });  // the only filler is held here
    {
      const HandServed served(memory);
      CHECK(served->leases.revoke());
      pool.start(*served, FillJob::Kind::install);
      served->target.uffd().close();
    }
    gate->open();
    until([&] { return first->life.tried_all(); });
    CHECK(busy.all_right());
    CHECK(memory.zero(0));
  }

  // Whoever waits for those that are out is not kept by those that come later.
  TEST_CASE("leases: all that are out are awaited, and no others") {
    Leases leases;
    unsigned first = 0, second = 0;
    REQUIRE(leases.take(first));
    std::atomic<bool> waited{false};
    std::thread waiter([&] {
      leases.await_present();
      waited = true;
    });
    until([&] {
      unsigned turn = 0;
      REQUIRE(leases.take(turn));
      leases.give_back(turn);
      return turn != first;  // it waits
    });
    REQUIRE(leases.take(second));
    CHECK(!waited);
    CHECK(!leases.give_back(first));
    waiter.join();
    CHECK(!leases.revoke());
    CHECK(leases.give_back(second));
    CHECK(!leases.take(first));
  }

  TEST_CASE("fills that race with endings") {
    Manager manager({.handlers = 1, .fillers = 2});
    for (int round = 0; round < 100; ++round) {
      const Memory memory(200);
      auto served = add(manager, {memory.region()}, {.verify = false});
      std::latch start{2};
      std::thread filler([&] {
        start.arrive_and_wait();
        for (int i = 0; i < 20; ++i) manager.fill(*served);
      });
      start.arrive_and_wait();
      manager.discard(*served);
      filler.join();
      CHECK(served->life.stage() == Stage::ended);
    }
  }

  TEST_CASE("bad options are refused and register nothing") {
    const Memory memory(2);
    Manager manager({});
    Userfaultfd uffd = open_uffd();
    CHECK_THROWS_WITH_AS(manager.add(uffd, {memory.region()}, {.fault_around = 0}),
                         doctest::Contains("fault_around is 0"), std::invalid_argument);
    CHECK_THROWS_AS(manager.add(uffd, {}, {}), std::invalid_argument);
    CHECK_THROWS_AS(manager.add(uffd, {memory.region(), memory.region()}, {}),
                    std::invalid_argument);
    CHECK(uffd.is_open());
    Userfaultfd sigbus = open_uffd(UFFD_FEATURE_SIGBUS);
    CHECK_THROWS_WITH_AS(manager.add(sigbus, {memory.region()}, {}), doctest::Contains("SIGBUS"),
                         std::invalid_argument);
    CHECK_THROWS_AS(Manager({.handlers = 0, .fillers = 1}), std::invalid_argument);
    CHECK_THROWS_AS(Manager({.handlers = 1, .fillers = 0}), std::invalid_argument);
    CHECK_THROWS_AS(
        Manager({.handlers = 1, .fillers = 1, .placement = {Placement::automatic, {CPU_SETSIZE}}}),
        std::invalid_argument);
    const Range range{memory.at(0), 2 * page()};
    CHECK(any_registered(0, std::span(&range, 1)) == false);
    auto served = manager.add(uffd, {memory.region()}, {});
    CHECK(memory.all_right());
    wait(*served);
  }

  // A fault that somebody has read is told to nobody else: whoever serves next wakes all regions
  // first, and the threads fault again.
  TEST_CASE("a fault that was read before the manager came is served") {
    const Memory memory(4);
    Userfaultfd uffd = open_uffd();
    uint64_t ioctls = 0;
    REQUIRE(uffd.register_range(memory.at(0), 4 * page(), UFFDIO_REGISTER_MODE_MISSING, &ioctls) ==
            0);
    Toucher read(memory.at(1)), queued(memory.at(3));
    until([&] { return sleepers(uffd) == 2; });
    uffd_msg message;
    REQUIRE(uffd.read(std::span(&message, 1)) == 1);
    Manager manager({});
    auto served = manager.add(uffd, {memory.region()}, {.fault_around = 1, .received = true});
    CHECK(read.join() != 0);
    CHECK(queued.join() != 0);
    CHECK(memory.all_right());
    wait(*served);
  }

  // Not at the handler's next look, which comes once a second.
  TEST_CASE("a sole target ends as soon as its last page is there") {
    Manager manager({});
    const uint64_t began = sys::monotonic_ns();
    constexpr unsigned rounds = 10;
    for (unsigned round = 0; round < rounds; ++round) {
      const Memory memory(300);
      auto served = add(manager, {memory.region()}, {.fault_around = 1, .verify = false});
      CHECK(memory.all_right());
      wait(*served);
    }
    CHECK(sys::monotonic_ns() - began < rounds * 500'000'000u);
  }

  TEST_CASE("a region may be shorter than its window") {
    const Memory memory(64 + 3);
    // Windows lie at multiples of their size; wherever the memory is, one begins in it.
    const uint64_t window = 64 * page();
    const uint64_t start = (memory.at(0) + window - 1) / window * window;
    const uint64_t number = (start - memory.at(0)) / page();
    Manager manager({});
    auto served =
        add(manager, {Region({start, 3 * page()}, memory.source(), number * page(), page())},
            {.fault_around = 64});
    CHECK(memory.right(number + 1));
    wait(*served);
    CHECK(count(*served, Count::copies) == 1);
  }

  // Whoever holds another descriptor can read a fault, and then nobody else is told of it.
  TEST_CASE("a thread that sleeps unseen is woken and counted") {
    const Memory memory(4);
    auto source = std::make_shared<GatedSource>(memory.source());
    Userfaultfd uffd = open_uffd();
    const Fd thief(::dup(uffd.fd()));
    Manager manager({});
    auto served = manager.add(uffd, {memory.region(source)},
                              {.ending = Ending::unregister, .fault_around = 1});
    Toucher first(memory.at(0));
    until([&] { return source->asked() == 1; });  // the handler itself waits
    Toucher second(memory.at(2));
    uffd_msg message;
    until([&] { return ::read(thief.get(), &message, sizeof message) == sizeof message; });
    source->open();
    CHECK(first.join() != 0);
    CHECK(second.join() != 0);
    CHECK(count(*served, Count::lost_wakes) == 1);
    CHECK(memory.all_right());
    wait(*served);
  }
}

}  // namespace uffd::test
