// One owner for every target: what other threads ask of it is done in turn, an ending is decided
// once, and nothing that was not installed by us counts as installed.
#include "engine/serve/fill/fetch_queue.hpp"
#include "engine/source/callable_source.hpp"
#include "ioctl_hook.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

void register_by_hand(const Userfaultfd& uffd, const Memory& memory) {
  uint64_t ioctls = 0;
  REQUIRE(uffd.register_range(memory.at(0), memory.memory.length(), UFFDIO_REGISTER_MODE_MISSING,
                              &ioctls) == 0);
}

Region write_protected(const Memory& memory) {
  return Region({memory.at(0), memory.memory.length()}, memory.source(), 0, page(),
                UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

void write_to(uint64_t address) {
  *reinterpret_cast<volatile char*>(address) = 1;
}

// A source of which nothing is read here, with a deadline in nanoseconds.
SourcePtr late_source(std::optional<int64_t> deadline) {
  std::optional<std::chrono::nanoseconds> wait;
  if (deadline) wait = std::chrono::nanoseconds(*deadline);
  return std::make_shared<CallableSource>([](uint64_t, std::span<std::byte>) {},
                                          [](const std::exception_ptr&) {}, 1 << 20, 0, wait,
                                          Retry{});
}

std::shared_ptr<ServedTarget> some_target() {
  return std::make_shared<ServedTarget>(RegionTable(), 0, TargetSettings{});
}

FetchQueue::RequestPtr request(const std::shared_ptr<ServedTarget>& served, const SourcePtr& source,
                               uint64_t first, bool of_fault = true) {
  auto made = std::make_shared<FetchRequest>(
      FetchRequest{served, source, 0, page(), first, first + 1, first * page()});
  made->of_fault = of_fault;
  return made;
}

}  // namespace

TEST_SUITE("owner") {
  TEST_CASE("what is not registered yet stays missing, and a fill is remembered") {
    const Memory memory(20);
    Manager manager({});
    Userfaultfd uffd = open_uffd();
    const int fd = uffd.fd();
    auto served = manager.add(uffd, {memory.region()}, {.received = true, .registered = false});
    manager.fill(*served);
    CHECK_THROWS_AS(manager.begin_close(*served, Missing::fill), std::logic_error);
    CHECK_THROWS_WITH_AS(manager.set_registered(*served), doctest::Contains("is not registered"),
                         std::invalid_argument);
    CHECK(served->target.residency().missing() == 20);
    uffdio_register asked{};
    asked.range = {memory.at(0), memory.memory.length()};
    asked.mode = UFFDIO_REGISTER_MODE_MISSING;
    REQUIRE(::ioctl(fd, UFFDIO_REGISTER, &asked) == 0);
    manager.set_registered(*served);
    CHECK_THROWS_AS(manager.set_registered(*served), std::logic_error);
    wait(*served);
    CHECK(memory.all_right());
    CHECK(served->life.report()->absent_pages == 0);
  }

  TEST_CASE("targets that are complete when they are added end, and nothing dangles") {
    Manager manager({});
    for (int round = 0; round < 200; ++round) {
      const Memory memory(2);
      for (const uint64_t i : {0, 1}) write_to(memory.at(i));
      auto served = add(manager, {memory.region()}, {.verify = false});
      wait(*served);
      CHECK(served->life.report()->found_present == 2);
    }
  }

  TEST_CASE(
      "pages of a whole mapping that hold zeros are dropped, and others are kept or refused") {
    const Memory memory(6);
    REQUIRE(sys::madvise(memory.at(0), memory.memory.length(), sys::kPopulateWrite) == 0);
    Manager manager({});
    SUBCASE("all are zeros") {
      auto served = add(manager, {memory.region()}, {.present = Present::refuse});
      CHECK(memory.all_right());
      wait(*served);
      CHECK(served->life.report()->found_present == 0);
    }
    SUBCASE("one is not") {
      write_to(memory.at(3));
      Userfaultfd uffd = open_uffd();
      CHECK_THROWS_WITH_AS(manager.add(uffd, {memory.region()}, {.present = Present::refuse}),
                           doctest::Contains("1 page present"), std::invalid_argument);
      auto served = manager.add(uffd, {memory.region()}, {});
      CHECK(memory.right(2));
      CHECK(*reinterpret_cast<const char*>(memory.at(3)) == 1);
      close(manager, *served, Missing::fill);
      CHECK(served->life.report()->found_present == 1);
    }
  }

  // filler                       handler
  // COPY of page 0 is done
  //                              fault on page 1: COPY of 0 and 1 (window of 2): 0 is EEXIST
  // marks page 0: it was ours
  TEST_CASE("a page that another thread of ours has just installed is not found present") {
    const Memory memory(2);
    std::atomic<bool> copied{false};
    std::latch gate{1};
    std::atomic<unsigned> calls{0};
    const IoctlHook hook([&](int fd, unsigned long what, void* argument) -> std::optional<int> {
      if (what != UFFDIO_COPY || calls++ != 0) return std::nullopt;
      auto& copy = *static_cast<uffdio_copy*>(argument);
      copy.len = page();
      REQUIRE(kernel_ioctl(fd, UFFDIO_COPY, &copy) == 0);
      copied = true;
      gate.wait();
      return copy.copy == static_cast<int64_t>(page()) ? 0 : -EINVAL;
    });
    Manager manager({});
    auto served =
        add(manager, {memory.region()}, {.ending = Ending::keep_open, .fault_around = 100000});
    manager.fill(*served);
    until([&] { return copied.load(); });
    CHECK(memory.right(1));
    until([&] { return count(*served, Count::eexist) == 1; });
    CHECK(count(*served, Count::found_present) == 1);  // as far as anybody knows
    gate.count_down();
    until([&] { return served->life.tried_all(); });
    CHECK(count(*served, Count::found_present) == 0);
    CHECK(memory.all_right());
  }

  TEST_CASE("a user who waits for a write-protection gives way to an ending") {
    const Memory memory(4);
    std::atomic<bool> refuses{false};
    std::atomic<unsigned> refused{0};
    const IoctlHook hook([&](int, unsigned long what, void*) -> std::optional<int> {
      if (what != UFFDIO_WRITEPROTECT || !refuses) return std::nullopt;
      ++refused;
      return -EAGAIN;
    });
    Manager manager({});
    auto served = add(manager, {write_protected(memory)}, {.fault_around = 1});
    write_to(memory.at(1));
    until([&] { return !Manager::written(*served, false).empty(); });
    refuses = true;
    std::thread user([&] { Manager::written(*served, true); });
    until([&] { return refused > 100; });
    CHECK(close(manager, *served, Missing::zero).missing_pages == 3);
    user.join();
  }

  TEST_CASE(
      "a target that dies between a write fault and its answer ends, though it was complete") {
    const Memory memory(2);
    std::atomic<bool> dead{false};
    const IoctlHook hook([&](int, unsigned long what, void*) -> std::optional<int> {
      if (what != UFFDIO_WRITEPROTECT || !dead) return std::nullopt;
      return -ESRCH;
    });
    Manager manager({});
    auto served = add(manager, {write_protected(memory)});
    manager.fill(*served);
    wait(*served);
    CHECK(served->life.stage() == Stage::serving);  // it notes writes until it is closed
    dead = true;
    std::thread writer([&] { write_to(memory.at(0)); });
    served->life.wait_until_over();
    CHECK(served->life.report()->reason == "the target's address space is gone");
    writer.join();
  }

  TEST_CASE("whose memory is not known any more is poisoned when it is touched, never zeros") {
    if (!kernel_poisons()) return;
    const Memory memory(4);
    Manager manager({});
    Userfaultfd uffd = open_uffd(UFFD_FEATURE_EVENT_REMAP);
    auto served = manager.add(uffd, {memory.region()}, {.fault_around = 1});
    CHECK(memory.right(0));
    served->mailbox->call([&] {
      const std::lock_guard alone(served->gate);
      served->target.lose_track();
    });
    CHECK(!readable(memory.at(2)));
    CHECK(close(manager, *served, Missing::fill).ending == Ending::keep_open);
    CHECK(memory.right(0));
    manager.discard(*served);
  }

  TEST_CASE("a target without regions: what is registered is zeros, or poison") {
    for (const Beyond beyond : {Beyond::zero, Beyond::poison}) {
      if (beyond == Beyond::poison && !kernel_poisons()) continue;
      const Memory memory(2);
      Manager manager({});
      Userfaultfd uffd = open_uffd();
      register_by_hand(uffd, memory);
      auto served = manager.add(uffd, {}, {.received = true, .beyond = beyond});
      CHECK(readable(memory.at(1)) == (beyond == Beyond::zero));
      CHECK(served->life.stage() == Stage::serving);
      close(manager, *served, Missing::zero);
    }
  }

  // The last reader of its events is not kept by them.
  TEST_CASE("a close beside threads that drop memory without end returns") {
    const Memory memory(65);  // of which one page stays missing
    Manager manager({});
    Userfaultfd uffd = open_uffd(UFFD_FEATURE_EVENT_REMOVE);
    auto served = manager.add(uffd, {memory.region()}, {.fault_around = 1});
    std::atomic<bool> stop{false};
    std::vector<std::thread> droppers;
    for (uint64_t i = 0; i < 4; ++i) {
      droppers.emplace_back([&, i] {
        while (!stop) sys::madvise(memory.at(16 * i), 16 * page(), MADV_DONTNEED);
      });
    }
    until([&] { return count(*served, Count::removes) > 100; });
    close(manager, *served, Missing::zero);
    stop = true;
    for (std::thread& dropper : droppers) dropper.join();
  }
}

TEST_SUITE("pure") {
  TEST_CASE("fetches: sources have a limit each, targets take turns, and faults go before fills") {
    FetchQueue queue(2);
    const SourcePtr hung = late_source({}), quick = late_source({});
    const auto one = some_target(), two = some_target();
    for (const uint64_t first : {1, 2, 3}) queue.push(request(one, hung, first), 0);
    queue.push(request(one, quick, 7, false), 0);
    queue.push(request(two, quick, 8), 0);
    std::vector<uint64_t> order;
    while (const auto begun = queue.begin(0)) order.push_back(begun->first);
    std::sort(order.begin(), order.begin() + 3);
    CHECK(order == std::vector<uint64_t>{1, 2, 8, 7});  // page 3 waits for its source
    CHECK(!queue.has_work());
    CHECK(one->outstanding_fetches == 4);
    uint64_t first = 0, end = 10;
    CHECK(queue.narrow(*one, 2, first, end)->first == 2);
    CHECK(!queue.narrow(*one, 5, first, end));
    CHECK(first == 4);
    CHECK(end == 7);
    queue.forget(*one);
    CHECK(one->outstanding_fetches == 3);
  }

  TEST_CASE("a deadline begins with its read, and a source that does not answer holds nobody up") {
    FetchQueue queue(2);
    const SourcePtr source = late_source(100);
    const auto served = some_target();
    for (const uint64_t first : {0, 1, 2, 3}) queue.push(request(served, source, first), 0);
    CHECK(queue.next_due() == FetchRequest::kNever);
    const auto hung = queue.begin(10), slow = queue.begin(20);
    CHECK(!queue.begin(30));
    CHECK(queue.next_due() == 110);
    CHECK(!queue.take_due(109));
    CHECK(queue.take_due(110) == hung);
    CHECK(!queue.take_due(110));
    queue.expired(hung, 110);
    const auto next = queue.begin(115);  // the overdue read does not count
    REQUIRE(next);
    CHECK(next->first == 2);
    queue.expired(queue.take_due(120), 120);  // the second: the source does not answer
    CHECK(!queue.begin(130));
    CHECK(queue.next_due() == 215);  // of the read that is under way
    CHECK(queue.take_due(220) == next);
    CHECK(queue.take_due(220)->first == 3);  // queued, since the source is silent
    queue.finish(hung);
    queue.finish(slow);
    CHECK(queue.has_work());
  }

  TEST_CASE("a request whose read failed rests, takes nobody's place, and keeps its deadline") {
    FetchQueue queue(1);
    const SourcePtr source = late_source(100);
    const auto served = some_target();
    for (const uint64_t first : {0, 1}) queue.push(request(served, source, first), 0);
    const auto sick = queue.begin(10);
    sick->failures = 1;
    queue.rest(sick, 50);
    CHECK(queue.has_work_of_idle_source());
    const auto other = queue.begin(11);
    REQUIRE(other);
    CHECK(other->first == 1);
    CHECK(!queue.has_work_of_idle_source());
    queue.finish(other);
    CHECK(queue.next_due() == 50);
    uint64_t first = 0, end = 1;
    CHECK(queue.narrow(*served, 0, first, end) == sick);  // nobody else asks for it
    queue.wake_rested(49);
    CHECK(!queue.has_work());
    queue.wake_rested(50);
    CHECK(queue.begin(60) == sick);
    CHECK(queue.next_due() == 110);  // of the first read
    queue.rest(sick, 200);
    CHECK(queue.take_due(110) == sick);
    queue.expired(sick, 110);
    CHECK(queue.next_due() == FetchRequest::kNever);
    CHECK(served->outstanding_fetches == 0);
  }

  TEST_CASE("a target that ends takes what rests with it") {
    FetchQueue queue(1);
    const auto served = some_target();
    queue.push(request(served, late_source({}), 0), 0);
    queue.rest(queue.begin(0), 50);
    queue.forget(*served);
    CHECK(served->outstanding_fetches == 0);
    CHECK(queue.next_due() == FetchRequest::kNever);
    queue.wake_rested(60);
    CHECK(!queue.has_work());
  }

  TEST_CASE("tries end by their number or by time, and the pauses between them double") {
    using std::chrono::milliseconds;
    const Retry twice{.retries = 2}, a_while{.retries = std::nullopt, .within = milliseconds(300)};
    CHECK(twice.allows(2, milliseconds(100'000)));
    CHECK(!twice.allows(3, {}));
    CHECK(a_while.allows(1000, milliseconds(299)));
    CHECK(!a_while.allows(1, milliseconds(300)));
    CHECK(!Retry{}.allows(1, {}));
    CHECK(Retry::pause(1) == milliseconds(50));
    CHECK(Retry::pause(3) == milliseconds(200));
    CHECK(Retry::pause(1'000'000) == milliseconds(2000));
  }
}

}  // namespace uffd::test
