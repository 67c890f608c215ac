#include <thread>
#include <vector>

#include "engine/serve/served/journal.hpp"
#include "support.hpp"

namespace uffd::test {

TEST_SUITE("journal") {
  TEST_CASE("an entry is read as it was written, and a shut journal takes none") {
    Journal book;
    book.write({News::ended, 1});
    book.open();
    book.write({News::poisoned, 2, 3, {4096, 8192}, Cause::late});
    book.shut();
    book.write({News::ended, 4});
    const auto entry = book.read();
    REQUIRE(entry);
    CHECK(entry->news == News::poisoned);
    CHECK(entry->target == 2);
    CHECK(entry->count == 3);
    CHECK((entry->range.start == 4096 && entry->range.length == 8192));
    CHECK(entry->cause == Cause::late);
    CHECK(!book.read());
  }

  TEST_CASE(
      "a reader that waits is woken, and gets each entry of many writers once, or its drop is "
      "counted") {
    constexpr uint64_t writers = 4, each = 20'000;
    Journal book;
    book.open();
    std::vector<uint64_t> next(writers, 0);
    uint64_t read = 0;
    std::thread reader([&] {
      while (const auto entry = book.read()) {
        // Those of one writer come in their order.
        CHECK(entry->count >= next[entry->target]);
        next[entry->target] = entry->count + 1;
        ++read;
      }
    });
    {
      std::vector<std::jthread> threads;
      for (uint64_t writer = 0; writer < writers; ++writer) {
        threads.emplace_back([&book, writer] {
          for (uint64_t i = 0; i < each; ++i) book.write({News::lost_wakes, writer, i});
        });
      }
    }
    book.shut();
    reader.join();
    CHECK(read + book.take_dropped() == writers * each);
    CHECK(book.take_dropped() == 0);
  }

  TEST_CASE("where nobody reads, entries are dropped and nobody waits") {
    Journal book;
    book.open();
    for (int i = 0; i < 5000; ++i) book.write({News::ended, 1});
    const uint64_t dropped = book.take_dropped();
    uint64_t kept = 0;
    while (book.read(std::chrono::seconds(0))) ++kept;
    CHECK(kept + dropped == 5000);
    CHECK(kept > 0);
    CHECK(dropped > 0);
  }

  TEST_CASE("a fork child's journal is shut and empty") {
    Journal book;
    book.open();
    book.write({News::ended, 1});
    const pid_t child = ::fork();
    if (child == 0) {
      book.write({News::ended, 2});
      const bool right = !book.read();
      ::_exit(right ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(book.read());
  }
}

}  // namespace uffd::test
