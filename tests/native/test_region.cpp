#include <map>
#include <random>

#include <set>

#include "engine/target/range_set.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

const SourcePtr zeros = std::make_shared<ZeroSource>();

Region pages_at(uint64_t first, uint64_t pages) {
  return Region({first * page(), pages * page()}, zeros, 0, page());
}

std::string refusal(const std::function<void()>& construct) {
  try {
    construct();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const Region& nth(const RegionTable& table, size_t index) {
  auto next = table.all().begin();
  std::advance(next, index);
  return *next;
}

}  // namespace

TEST_SUITE("region") {
  TEST_CASE("what is wrong is named") {
    const auto with = [](uint64_t start, uint64_t length, uint64_t offset, uint64_t size) {
      const char bytes[8] = {};
      const auto source = std::make_shared<MemorySource>(std::as_bytes(std::span(bytes)), nullptr);
      const SourcePtr from = offset == 5 ? SourcePtr(source) : zeros;
      return refusal([&] { Region({start, length}, from, offset, size); });
    };
    CHECK(has(with(page() + 1, page(), 0, page()), "multiples of page_size"));
    CHECK(has(with(page(), page() + 1, 0, page()), "multiples of page_size"));
    CHECK(has(with(page(), 0, 0, page()), "length is 0"));
    CHECK(has(with(page(), page(), 0, 0), "page_size is 0"));
    CHECK(has(with(page(), page(), 0, 3 * page()), "page_size is"));
    CHECK(has(with(page(), page(), 0, page() / 2), "page_size is"));
    CHECK(has(with(page(), page(), 5, page()), "its source has 8 bytes"));
    CHECK(has(with(page(), page(), UINT64_MAX, page()), "shorter"));
    CHECK(has(with(UINT64_MAX - page() + 1, 2 * page(), 0, page()), "wraps around"));
    CHECK(with(page(), page(), 0, page()) == "");
    CHECK(with(2 << 20, 2 << 20, 12345, 2 << 20) == "");
  }

  TEST_CASE("pages and addresses convert") {
    Region region = pages_at(16, 4);
    region.first_page = 100;
    CHECK(region.pages() == 4);
    CHECK(region.end_page() == 104);
    CHECK(region.page_at(16 * page()) == 100);
    CHECK(region.page_at(17 * page() - 1) == 100);
    CHECK(region.page_at(19 * page()) == 103);
    CHECK(region.address_of(103) == 19 * page());
  }

  TEST_CASE("a table sorts, numbers pages, and finds by address and number") {
    const RegionTable table({pages_at(50, 2), pages_at(10, 3), pages_at(13, 1)});
    CHECK(table.pages() == 6);
    CHECK(nth(table, 0).range.start == 10 * page());
    CHECK(table.find(10 * page() - 1) == nullptr);
    CHECK(table.find(10 * page()) == &nth(table, 0));
    CHECK(table.find(13 * page() - 1) == &nth(table, 0));
    CHECK(table.find(13 * page()) == &nth(table, 1));
    CHECK(table.find(14 * page()) == nullptr);
    CHECK(table.find(52 * page() - 1) == &nth(table, 2));
    CHECK(table.find(52 * page()) == nullptr);
    CHECK(table.find(0) == nullptr);
    CHECK(table.find(UINT64_MAX) == nullptr);
    CHECK(table.find_page(0) == &nth(table, 0));
    CHECK(table.find_page(3) == &nth(table, 1));
    CHECK(table.find_page(5) == &nth(table, 2));
    CHECK(table.find_page(6) == nullptr);
    const auto ranges = table.ranges();
    CHECK(ranges.size() == 3);
    CHECK(ranges[2].start == 50 * page());
  }

  TEST_CASE("a table refuses overlaps, and may be empty") {
    CHECK(RegionTable(std::vector<Region>()).empty());
    CHECK(has(refusal([] { RegionTable({pages_at(10, 3), pages_at(12, 1)}); }), "overlap"));
    CHECK(has(refusal([] { RegionTable({pages_at(12, 1), pages_at(10, 3)}); }), "overlap"));
    CHECK(has(refusal([] { RegionTable({pages_at(10, 3), pages_at(10, 3)}); }), "overlap"));
    CHECK(refusal([] { RegionTable({pages_at(10, 3), pages_at(13, 1)}); }) == "");
  }

  TEST_CASE("random tables agree with a map of every page") {
    std::mt19937_64 random(11);
    for (int round = 0; round < 100; ++round) {
      std::vector<Region> regions;
      std::map<uint64_t, uint64_t> start_of;  // page of the address space -> start of its region
      uint64_t next = 1 + random() % 5;
      for (uint64_t left = 1 + random() % 20; left > 0; --left) {
        const uint64_t pages = 1 + random() % 6;
        regions.push_back(pages_at(next, pages));
        for (uint64_t i = 0; i < pages; ++i) start_of[next + i] = next * page();
        next += pages + random() % 3;
      }
      std::shuffle(regions.begin(), regions.end(), random);
      const RegionTable table(regions);
      REQUIRE(table.pages() == start_of.size());
      uint64_t number = 0;
      for (uint64_t i = 0; i < next + 2; ++i) {
        const Region* found = table.find(i * page() + random() % page());
        const auto expected = start_of.find(i);
        REQUIRE((found != nullptr) == (expected != start_of.end()));
        if (!found) continue;
        REQUIRE(found->range.start == expected->second);
        REQUIRE(table.find_page(number) == found);
        REQUIRE(found->address_of(number) == i * page());
        ++number;
      }
    }
  }

  TEST_CASE("what is moved, split and removed keeps its page numbers and its offsets") {
    std::mt19937_64 random(5);
    const auto source = std::make_shared<ZeroSource>();
    for (int round = 0; round < 50; ++round) {
      constexpr uint64_t spaces = 120;         // pages of a small address space
      std::map<uint64_t, uint64_t> number_at;  // place -> page number
      RegionTable table({Region({10 * page(), 20 * page()}, source, 0, page()),
                         Region({40 * page(), 10 * page()}, source, 20 * page(), page())});
      for (uint64_t i = 0; i < 20; ++i) number_at[10 + i] = i;
      for (uint64_t i = 0; i < 10; ++i) number_at[40 + i] = 20 + i;
      for (int step = 0; step < 30; ++step) {
        const uint64_t from = random() % spaces, length = 1 + random() % 12, to = random() % spaces;
        const bool apart = from + length <= to || to + length <= from;
        const Range range{from * page(), length * page()};
        if (random() % 3 != 0 && apart) {
          table.remove({to * page(), length * page()});
          for (uint64_t i = 0; i < length; ++i) number_at.erase(to + i);
          table.move(range, to * page());
          for (uint64_t i = 0; i < length; ++i) {
            if (auto moved = number_at.extract(from + i)) {
              moved.key() = to + i;
              number_at.insert(std::move(moved));
            }
          }
        } else if (random() % 4 == 0) {
          uint64_t pages = 0;
          table.for_each_in(range,
                            [&](const Region&, PageRun run) { pages += run.end - run.first; });
          table.remove(range);
          for (uint64_t i = 0; i < length; ++i) pages -= number_at.erase(from + i);
          REQUIRE(pages == 0);
        }
        for (uint64_t i = 0; i < spaces + 20; ++i) {
          const Region* found = table.find(i * page());
          const auto expected = number_at.find(i);
          REQUIRE((found != nullptr) == (expected != number_at.end()));
          if (!found) continue;
          REQUIRE(found->page_at(i * page()) == expected->second);
          REQUIRE(found->offset_of(expected->second) == expected->second * page());
          REQUIRE(table.find_page(expected->second) == found);
        }
      }
      CHECK(table.pages() == 30);
      const RegionTable copy(table);
      for (const auto& [place, number] : number_at)
        REQUIRE(copy.find_page(number)->address_of(number) == place * page());
    }
  }

  TEST_CASE("a region without a source knows minor faults alone") {
    const Range range{page(), page()};
    CHECK_THROWS_WITH_AS(Region(range, nullptr, 0, page()), doctest::Contains("no source"),
                         std::invalid_argument);
    CHECK(Region(range, nullptr, 0, page(), UFFDIO_REGISTER_MODE_MINOR).minor());
  }

  TEST_CASE("range sets agree with a set of bytes") {
    std::mt19937_64 random(7);
    for (int round = 0; round < 200; ++round) {
      RangeSet set;
      std::set<uint64_t> bytes;
      for (int step = 0; step < 25; ++step) {
        const Range range{random() % 40, random() % 12};
        const uint64_t to = 100 + random() % 40;
        switch (random() % 4) {
          case 0:
            set.remove(range);
            for (uint64_t i = range.start; i < range.end(); ++i) bytes.erase(i);
            break;
          case 1:
            set.move(range, to);
            for (uint64_t i = range.start; i < range.end(); ++i) {
              if (bytes.erase(i)) bytes.insert(to + (i - range.start));
            }
            break;
          default:
            set.add(range);
            for (uint64_t i = range.start; i < range.end(); ++i) bytes.insert(i);
        }
        uint64_t total = 0, before = 0;
        for (const Range& part : set.all()) {
          REQUIRE(part.length > 0);
          REQUIRE((total == 0 || part.start > before));  // neither overlap nor adjoin
          before = part.end();
          total += part.length;
        }
        REQUIRE(total == bytes.size());
        for (uint64_t i = 0; i < 160; ++i) REQUIRE(set.contains(i) == (bytes.count(i) == 1));
        uint64_t inside = 0, outside = 0;
        for (const Range& part : set.within({5, 30})) inside += part.length;
        for (const Range& part : set.outside({5, 30})) outside += part.length;
        REQUIRE(inside + outside == 30);
      }
    }
  }
}

}  // namespace uffd::test
