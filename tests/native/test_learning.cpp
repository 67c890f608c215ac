// What handlers and fillers decide by what they saw, without any kernel: fault-around, spinning,
// the size of chunks.
#include <random>

#include "engine/serve/awake/spinning.hpp"
#include "engine/serve/fault/fault_streams.hpp"
#include "engine/serve/fill/chunk_size.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

constexpr uint64_t kPages = 8192;

// A target whose pages are installed as the streams say.
struct Walked {
  Region region{{0x7000'0000, kPages * 4096}, std::make_shared<ZeroSource>(), 0, 4096};
  Residency residency{kPages};
  FaultStreams streams;
  uint64_t faults = 0, longest = 0;

  void touch(uint64_t page) {
    if (residency.resident(page)) return;
    ++faults;
    const PageRun run = streams.window(residency, region, page);
    REQUIRE(run.first <= page);
    REQUIRE(page < run.end);
    REQUIRE(run.end <= kPages);
    longest = std::max(longest, run.end - run.first);
    CHECK(residency.next_resident(run.first, run.end) == run.end);
    residency.mark(run.first, run.end - run.first);
  }
  uint64_t installed() const { return kPages - residency.missing(); }
};

}  // namespace

TEST_SUITE("pure") {
  TEST_CASE("a walk has its window doubled up to the most, upwards and downwards") {
    Walked up, down;
    for (uint64_t page = 0; page < kPages; ++page) {
      up.streams.learn_speed(1 << 20, 1000);
      up.touch(page);
      down.streams.learn_speed(1 << 20, 1000);
      down.touch(kPages - 1 - page);
    }
    for (const Walked& walk : {std::cref(up), std::cref(down)}) {
      CHECK(walk.longest == FaultStreams::kMostPages);
      CHECK(walk.faults <= 9 + kPages / FaultStreams::kMostPages + 1);
    }
  }

  TEST_CASE("no window takes longer to install than the bound") {
    Walked walk;
    walk.streams.learn_speed(1 << 20, 1 << 20);
    for (int i = 0; i < 100; ++i) walk.streams.learn_speed(1 << 20, 1 << 20);  // 1 ns a byte
    for (uint64_t page = 0; page < kPages; ++page) walk.touch(page);
    CHECK(walk.longest >= FaultStreams::kLongestNs / 4096 / 2);
    CHECK(walk.longest <= FaultStreams::kLongestNs / 4096 * 11 / 10);
  }

  TEST_CASE("random touches install hardly more than they touch") {
    Walked walk;
    std::mt19937_64 random(1);
    constexpr uint64_t touches = kPages / 10;
    std::vector<bool> touched(kPages);
    for (uint64_t i = 0; i < touches; ++i) {
      const uint64_t page = random() % kPages;
      touched[page] = true;
      walk.touch(page);
    }
    const auto wanted = static_cast<uint64_t>(std::count(touched.begin(), touched.end(), true));
    CHECK(walk.installed() - wanted <= walk.faults);
  }

  TEST_CASE("walks of several threads are streams of their own") {
    Walked walk;
    constexpr uint64_t threads = 16;
    for (uint64_t step = 0; step < kPages / threads; ++step) {
      for (uint64_t thread = 0; thread < threads; ++thread)
        walk.touch(thread * (kPages / threads) + step);
    }
    CHECK(walk.longest > 64);
    CHECK(walk.faults < kPages / 16);
  }

  TEST_CASE("a walk with gaps stays with small windows") {
    Walked walk;
    for (uint64_t page = 0; page < kPages; page += 3) walk.touch(page);
    CHECK(walk.longest <= 2);
  }

  TEST_CASE("spinning that is in vain is left off for ever longer, and comes back where it pays") {
    Spinning spinning;
    const auto looks = [&](int found) {
      uint64_t count = 0;
      spinning.spin([&] { return ++count, found; });
      return count;
    };
    CHECK(looks(1) == 1);
    uint64_t spun = 0;
    for (int wait = 0; wait < 1000; ++wait) spun += looks(0) > 0;
    CHECK(spun >= 5);
    CHECK(spun <= 15);
    uint64_t found = 0;
    for (int wait = 0; wait < 4000; ++wait) found += looks(1) > 0;
    CHECK(found > 2000);
  }

  TEST_CASE("a filler's chunk is what takes the time that a fault may wait") {
    ChunkSize size;
    for (int i = 0; i < 100; ++i) size.learn(256 * 1024, 256 * 1024 / 4);  // 4 bytes a nanosecond
    CHECK(size.pages(4096) == doctest::Approx(4 * ChunkSize::kLongestNs / 4096).epsilon(0.05));
    for (int i = 0; i < 100; ++i) size.learn(256 * 1024, 1);
    CHECK(size.pages(4096) == ChunkSize::kMost / 4096);
    CHECK(size.pages(1 << 30) == 1);
    for (int i = 0; i < 100; ++i) size.learn(256 * 1024, 1'000'000'000);
    CHECK(size.pages(4096) == ChunkSize::kLeast / 4096);
  }
}

}  // namespace uffd::test
