#include <random>

#include "engine/target/residency.hpp"
#include "support.hpp"

namespace uffd::test {

TEST_SUITE("residency") {
  TEST_CASE("every page is missing at first") {
    for (const uint64_t pages : {1, 63, 64, 65, 1000}) {
      const Residency residency(pages);
      CHECK(residency.pages() == pages);
      CHECK(residency.missing() == pages);
      CHECK(residency.next_missing(0, pages) == 0);
      CHECK(residency.next_resident(0, pages) == pages);
    }
  }

  TEST_CASE("a mark across words counts exactly, and twice counts once") {
    Residency residency(200);
    residency.mark(60, 75);  // 60..134: the end of one word, a whole one, the begin of another
    CHECK(residency.missing() == 125);
    CHECK(!residency.resident(59));
    CHECK(residency.resident(60));
    CHECK(residency.resident(134));
    CHECK(!residency.resident(135));
    residency.mark(60, 75);
    CHECK(residency.missing() == 125);
    residency.mark(0, 200);
    CHECK(residency.missing() == 0);
    CHECK(residency.next_missing(0, 200) == 200);
  }

  TEST_CASE("a mark of no page changes nothing") {
    Residency residency(10);
    residency.mark(3, 0);
    CHECK(residency.missing() == 10);
  }

  TEST_CASE("searches stop at their end") {
    Residency residency(128);
    residency.mark(10, 20);
    CHECK(residency.next_resident(0, 5) == 5);
    CHECK(residency.next_resident(0, 128) == 10);
    CHECK(residency.next_missing(10, 20) == 20);
    CHECK(residency.next_missing(10, 128) == 30);
    CHECK(residency.next_missing(7, 7) == 7);
    CHECK(residency.run_begin(9, 0) == 0);
    CHECK(residency.run_begin(9, 4) == 4);
    CHECK(residency.run_begin(31, 0) == 30);
    CHECK(residency.run_begin(30, 0) == 30);
  }

  TEST_CASE("random marks agree with a vector of bool") {
    std::mt19937_64 random(7);
    for (int round = 0; round < 50; ++round) {
      const uint64_t pages = 1 + random() % 400;
      Residency residency(pages);
      std::vector<bool> model(pages);
      for (int step = 0; step < 40; ++step) {
        const uint64_t first = random() % pages;
        const uint64_t count = random() % std::min<uint64_t>(pages - first + 1, 90);
        residency.mark(first, count);
        std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, true);
        const uint64_t from = random() % pages, end = from + random() % (pages - from + 1);
        const auto begin = model.begin();
        const auto find = [&](bool value) {
          return static_cast<uint64_t>(std::find(begin + static_cast<std::ptrdiff_t>(from),
                                                 begin + static_cast<std::ptrdiff_t>(end), value) -
                                       begin);
        };
        REQUIRE(residency.next_missing(from, end) == find(false));
        REQUIRE(residency.next_resident(from, end) == find(true));
        REQUIRE(residency.missing() ==
                static_cast<uint64_t>(std::count(model.begin(), model.end(), false)));
      }
    }
  }

  TEST_CASE("marks of many threads count once, and who sees none missing sees every install") {
    constexpr uint64_t pages = 4096;
    Residency residency(pages);
    std::vector<uint64_t> installed(pages);  // written before its mark, by its first marker alone
    std::vector<std::thread> threads;
    std::latch start{4};
    for (uint64_t part = 0; part < 4; ++part) {
      threads.emplace_back([&, part] {
        start.arrive_and_wait();
        for (uint64_t i = part; i < pages; i += 4) {
          installed[i] = i + 1;
          residency.mark(i, 1);
          if (i > 8) residency.mark(i - 8, 1);  // again: counted once
        }
      });
    }
    until([&] { return residency.missing() == 0; });
    for (uint64_t i = 0; i < pages; ++i) REQUIRE(installed[i] == i + 1);
    for (auto& thread : threads) thread.join();
    CHECK(residency.missing() == 0);
  }
}

}  // namespace uffd::test
