// What depends on no kernel: the version table, the histogram, the decoding of messages, the retry
// queue.
#include "engine/ending/known_release.hpp"
#include "engine/linux/error.hpp"
#include "engine/linux/message.hpp"
#include "engine/serve/latency_histogram.hpp"
#include "engine/serve/retry_queue.hpp"
#include "support.hpp"

namespace uffd::test {

TEST_SUITE("pure") {
  TEST_CASE("release generations") {
    using enum ReleaseGeneration;
    const std::pair<const char*, ReleaseGeneration> table[] = {
        {"4.3.0", sigbus},
        {"4.13.16-generic", sigbus},
        {"4.14.0", nopage},
        {"4.14.336", nopage},
        {"5.10.0-35-amd64", nopage},
        {"6.1.192", nopage},
        {"6.6.90", nopage},
        {"6.12.23", nopage},
        {"6.12.24", retry},
        {"6.12.117-1~deb12", retry},
        {"6.13.11", nopage},
        {"6.13.12", retry},
        {"6.14.2", nopage},
        {"6.14.3", retry},
        {"6.15", retry},
        {"6.15.0-rc1", retry},
        {"6.18.44-fc", retry},
        {"7.0-rc1", retry},
        {"10.0", retry},
        {"nonsense", sigbus},
        {"", sigbus},
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

  TEST_CASE("the retry queue holds what it is given until it is due") {
    auto& one = *reinterpret_cast<ServedTarget*>(0x1000);  // never looked at
    auto& two = *reinterpret_cast<ServedTarget*>(0x2000);
    RetryQueue queue;
    CHECK(queue.timeout_ms() == -1);
    CHECK(!queue.pop_due(UINT64_MAX));

    REQUIRE(queue.push_fault(one, 1, 0));
    REQUIRE(queue.push_fault(two, 2, 0));
    REQUIRE(queue.push_fault(one, 3, 0));
    CHECK(queue.timeout_ms() >= 0);
    CHECK(queue.timeout_ms() <= 1);
    queue.forget(one);
    const uint64_t now = sys::monotonic_ns();
    CHECK(!queue.pop_due(now - RetryQueue::kPauseNs));
    CHECK(queue.pop_due(now + RetryQueue::kPauseNs)->place == 2);
    CHECK(queue.timeout_ms() == -1);
  }

  TEST_CASE("the retry queue gives the next that is due first, whatever its kind") {
    auto* served = reinterpret_cast<ServedTarget*>(0x1000);
    RetryQueue queue;
    for (const uint64_t due : {7u, 3u, 9u, 1u, 5u})
      queue.push({served, due == 5 ? RetryKind::deadline : RetryKind::read, due, 0, due});
    for (const uint64_t due : {1u, 3u, 5u}) CHECK(queue.pop_due(6)->due == due);
    CHECK(!queue.pop_due(6));
    CHECK(!queue.hasten(*served));  // no fault among them
    REQUIRE(queue.push_fault(*served, 42, 0));
    CHECK(queue.hasten(*served));
    CHECK(queue.pop_due(1)->place == 42);
    CHECK(queue.pop_due(8)->due == 7);
  }

  TEST_CASE("a full retry queue refuses") {
    auto& served = *reinterpret_cast<ServedTarget*>(0x1000);
    RetryQueue queue;
    uint64_t pushed = 0;
    while (queue.push_fault(served, pushed, 0)) ++pushed;
    CHECK(pushed >= 64);  // a batch of the handler at least
    uint64_t popped = 0;
    while (queue.pop_due(UINT64_MAX)) ++popped;
    CHECK(popped == pushed);
    CHECK(queue.push_fault(served, 0, 0));
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
