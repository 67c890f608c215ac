// What depends on no kernel: the version table, the histogram, the decoding of messages, what a
// handler keeps of its targets.
#include "engine/linux/error.hpp"
#include "engine/linux/message.hpp"
#include "engine/probe/known_release.hpp"
#include "engine/serve/handler/turns.hpp"
#include "engine/serve/served/latency_histogram.hpp"
#include "support.hpp"

namespace uffd::test {

TEST_SUITE("pure") {
  TEST_CASE("release generations") {
    using enum ReleaseGeneration;
    const std::pair<const char*, ReleaseGeneration> table[] = {
        {"4.3.0", sigbus},           {"4.13.16-generic", sigbus},
        {"4.14.0", nopage},          {"4.14.336", nopage},
        {"5.10.0-35-amd64", nopage}, {"6.1.192", nopage},
        {"6.6.87", nopage},          {"6.6.88", retry},
        {"6.12.23", nopage},         {"6.12.24", retry},
        {"6.12.117-1~deb12", retry}, {"6.13.11", nopage},
        {"6.13.12", retry},          {"6.14.2", nopage},
        {"6.14.3", retry},           {"6.15", retry},
        {"6.15.0-rc1", retry},       {"6.18.44-fc", retry},
        {"7.0-rc1", retry},          {"10.0", retry},
        {"nonsense", sigbus},        {"", sigbus},
    };
    for (const auto& [release, generation] : table) {
      CAPTURE(release);
      CHECK(std::string(name(release_generation(release))) == name(generation));
    }
    CHECK(std::string(name(known_release().generation)) ==
          name(release_generation(kernel_release())));
  }

  TEST_CASE("histogram buckets are monotone, hold their bounds, and are 12.5 % wide at most") {
    for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
      const uint64_t low = LatencyHistogram::lower_bound(bucket);
      REQUIRE(LatencyHistogram::bucket_of(low) == bucket);
      if (bucket == 0) continue;
      REQUIRE(low > LatencyHistogram::lower_bound(bucket - 1));
      REQUIRE(LatencyHistogram::bucket_of(low - 1) == bucket - 1);
      const uint64_t before = LatencyHistogram::lower_bound(bucket - 1);
      if (before > 0)
        REQUIRE(static_cast<double>(low - before) <= 1 + 0.125 * static_cast<double>(before));
      if (before >= 16) REQUIRE((low - before) * 8 <= before);
    }
    for (uint64_t ns = 0; ns < 16; ++ns) {
      CHECK(LatencyHistogram::lower_bound(LatencyHistogram::bucket_of(ns)) == ns);
    }
    CHECK(LatencyHistogram::bucket_of(UINT64_MAX) == LatencyHistogram::kBuckets - 1);
    CHECK(LatencyHistogram::bucket_of((uint64_t{1} << 39) - 1) <= LatencyHistogram::kBuckets - 1);
  }

  TEST_CASE("a histogram counts what is recorded") {
    LatencyHistogram histogram;
    for (const uint64_t ns : {5, 5, 1000, 1000000}) histogram.record(ns);
    CHECK(histogram.count(5) == 2);
    CHECK(histogram.count(LatencyHistogram::bucket_of(1000)) == 1);
    uint64_t sum = 0;
    for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) sum += histogram.count(i);
    CHECK(sum == 4);
  }

  TEST_CASE("messages decode") {
    uffd_msg raw{};
    raw.event = UFFD_EVENT_PAGEFAULT;
    raw.arg.pagefault.address = 0x7000;
    raw.arg.pagefault.flags = UFFD_PAGEFAULT_FLAG_WRITE;
    raw.arg.pagefault.feat.ptid = 42;
    const auto fault = std::get<Fault>(decode(raw));
    CHECK(fault.address == 0x7000);
    CHECK(fault.flags == UFFD_PAGEFAULT_FLAG_WRITE);
    CHECK(fault.thread == 42);

    raw = {};
    raw.event = UFFD_EVENT_FORK;
    raw.arg.fork.ufd = 9;
    CHECK(std::get<ForkEvent>(decode(raw)).fd == 9);

    raw = {};
    raw.event = UFFD_EVENT_REMAP;
    raw.arg.remap.from = 1;
    raw.arg.remap.to = 2;
    raw.arg.remap.len = 3;
    const auto remap = std::get<RemapEvent>(decode(raw));
    CHECK(remap.from == 1);
    CHECK(remap.to == 2);
    CHECK(remap.length == 3);

    raw = {};
    raw.event = UFFD_EVENT_REMOVE;
    raw.arg.remove.start = 4;
    raw.arg.remove.end = 5;
    CHECK(std::get<RemoveEvent>(decode(raw)).end == 5);
    raw.event = UFFD_EVENT_UNMAP;
    CHECK(std::get<UnmapEvent>(decode(raw)).start == 4);

    raw.event = 0x77;
    CHECK(std::get<UnknownEvent>(decode(raw)).event == 0x77);
  }

  TEST_CASE("pending faults come back by address, each once, the oldest first") {
    const auto key = [](uint64_t page_number) {
      uffd_msg message{};
      message.arg.pagefault.address = page_number * page();
      return FaultKey(message);
    };
    PendingFaults pending;
    CHECK(pending.empty());
    CHECK(pending.take().count == 0);
    for (const uint64_t number : {3, 1, 3}) REQUIRE(pending.add(key(number), 100 + number));
    const auto taken = pending.take();
    CHECK(taken.count == 2);
    CHECK(taken.all()[0] == key(1));
    CHECK(taken.all()[1] == key(3));
    CHECK(taken.read_at == 101);
    CHECK(pending.empty());
    size_t added = 0;
    while (pending.add(key(added), 1)) ++added;
    CHECK(added == PendingFaults::kMost);
    size_t came = 0;
    while (!pending.empty()) came += pending.take().count;
    CHECK(came == added);
  }

  TEST_CASE("targets have their turns in order, and those that are due join them") {
    const auto make = [] {
      return Charge(std::make_shared<ServedTarget>(RegionTable(), 0, TargetSettings{}));
    };
    Charge one = make(), two = make(), three = make();
    Turns turns;
    turns.reserve(3);
    CHECK(turns.next_due() == UINT64_MAX);
    turns.make_ready(two);
    turns.make_ready(one);
    turns.make_ready(two);
    turns.set_due(three, 50);
    turns.set_due(one, 70);
    turns.set_due(three, 20);  // it has a turn before
    CHECK(turns.next_due() == 50);
    turns.make_due_ready(49);
    CHECK(turns.ready() == 2);
    turns.make_due_ready(60);
    CHECK(turns.ready() == 3);
    CHECK(&turns.next() == &two);
    turns.make_ready_again(two);
    CHECK(turns.ready() == 2);
    turns.resume();
    CHECK(turns.ready() == 3);
    turns.forget(two);
    turns.forget(one);
    CHECK(&turns.next() == &three);
    CHECK(turns.ready() == 0);
    CHECK(turns.next_due() == UINT64_MAX);
  }

  TEST_CASE("patience: at once for a while, then after pauses that grow to the longest") {
    Patience patience;
    unsigned at_once = 0;
    while (patience.at_once()) ++at_once;
    CHECK(at_once == Patience::kAtOnce);
    CHECK(patience.pause() == Patience::kShortest);
    CHECK(patience.pause() == 2 * Patience::kShortest);
    for (int i = 0; i < 20; ++i) patience.pause();
    CHECK(patience.pause() == Patience::kLongest);
    CHECK(!patience.at_once());
    patience.renew();
    CHECK(patience.at_once());
  }

  TEST_CASE("errors carry their errno and their own text") {
    const SystemError error(EPERM, "no");
    CHECK(error.code().value() == EPERM);
    CHECK(error.text() == "no");
    CHECK(errno_text(ENOENT) == "No such file or directory");
    CHECK(range_text(0x1000, 0x2000) == "0x1000-0x3000");
    CHECK(or_throw(7, "x") == 7);
    errno = EBADF;
    CHECK_THROWS_AS(or_throw(-1, "x"), SystemError);
  }

  TEST_CASE("ranges overlap where they share a byte") {
    const Range range{10, 10};
    CHECK(range.overlaps({19, 1}));
    CHECK(range.overlaps({0, 11}));
    CHECK(range.overlaps({12, 2}));
    CHECK(!range.overlaps({20, 5}));
    CHECK(!range.overlaps({0, 10}));
  }
}

}  // namespace uffd::test
