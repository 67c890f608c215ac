#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "engine/source/file_source.hpp"
#include "engine/source/shared_image.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

class TemporaryFile {
 public:
  explicit TemporaryFile(uint64_t bytes) {
    const Fd file(or_throw(::mkstemp(path_.data()), "mkstemp"));
    for (uint64_t i = 0; i < bytes; ++i) text_ += static_cast<char>('a' + i % 23);
    REQUIRE(::write(file.get(), text_.data(), text_.size()) == static_cast<ssize_t>(text_.size()));
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  const std::string& text() const { return text_; }
  void shrink(uint64_t bytes) const {
    REQUIRE(::truncate(path_.c_str(), static_cast<off_t>(bytes)) == 0);
  }

 private:
  std::string path_ = "/tmp/pyuffd-test-XXXXXX";
  std::string text_;
};

// Supplies numbered pages, and counts how often each is asked for.
class CountingSource final : public Source {
 public:
  explicit CountingSource(uint64_t pages) : asked_(pages), memory_(pages) {}

  uint64_t length() const noexcept override { return asked_.size() * page(); }
  Supply supply(uint64_t offset, uint64_t length) const noexcept override {
    for (uint64_t i = offset / page(); i < (offset + length) / page(); ++i) ++asked_[i];
    return {reinterpret_cast<const std::byte*>(memory_.image.address() + offset)};
  }
  void read(uint64_t, std::span<std::byte>) const override {}

  uint64_t most() const {
    unsigned most = 0;
    for (const auto& count : asked_) most = std::max(most, count.load());
    return most;
  }
  bool equals(const std::string& text) const {
    return std::memcmp(text.data(), reinterpret_cast<const void*>(memory_.image.address()),
                       text.size()) == 0;
  }

 private:
  mutable std::vector<std::atomic<unsigned>> asked_;
  Memory memory_;
};

std::string read(const Source& source, uint64_t offset, uint64_t length) {
  std::string text(length, '\0');
  source.read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

TEST_SUITE("source") {
  TEST_CASE("memory") {
    const std::string bytes = "0123456789";
    auto owner = std::make_shared<int>(1);
    const std::weak_ptr<int> alive = owner;
    {
      const MemorySource source(std::as_bytes(std::span(bytes)), std::move(owner));
      CHECK(source.length() == 10);
      CHECK(static_cast<const void*>(source.supply(3, 2).bytes) == bytes.data() + 3);
      CHECK(read(source, 3, 4) == "3456");
      CHECK(read(source, 10, 0).empty());
      CHECK_THROWS_AS(read(source, 8, 3), std::out_of_range);
      CHECK_THROWS_AS(read(source, UINT64_MAX, 3), std::out_of_range);
      CHECK(source.memory().start == reinterpret_cast<uint64_t>(bytes.data()));
      CHECK(source.memory().length == 10);
      CHECK(!alive.expired());
    }
    CHECK(alive.expired());
  }

  TEST_CASE("zeros") {
    const ZeroSource source;
    CHECK(source.length() == INT64_MAX);
    CHECK(source.supply(12345, page()).bytes == nullptr);
    CHECK(read(source, uint64_t{1} << 40, 3) == std::string(3, '\0'));
    CHECK(source.memory().length == 0);
  }

  TEST_CASE("a file, and one that shrinks") {
    const TemporaryFile file(3 * page() + 100);
    const FileSource source(file.path(), false);
    CHECK(source.length() == 3 * page() + 100);
    CHECK(read(source, page() - 5, 10) == file.text().substr(page() - 5, 10));
    CHECK(std::memcmp(source.supply(page(), page()).bytes, file.text().data() + page(), page()) ==
          0);
    CHECK(source.memory().length == source.length());
    source.prepare(7, 2 * page());
    file.shrink(page());
    source.prepare(0, 3 * page());  // says nothing of it
    CHECK(source.length() == 3 * page() + 100);
    CHECK_THROWS_AS(read(source, page() - 1, 2), std::out_of_range);
    CHECK(read(source, 0, 5) == file.text().substr(0, 5));

    // COPY tells: EFAULT, after what is still there.
    const Memory memory(3);
    HandTarget hand(memory);
    const Progress progress =
        hand.target.uffd().copy(memory.at(0), source.memory().start, 3 * page(), 0);
    CHECK(progress.bytes == page());
    CHECK(hand.target.uffd().copy(memory.at(1), source.memory().start + page(), page(), 0).error ==
          -EFAULT);
  }

  TEST_CASE("what is no file is refused with its reason") {
    CHECK_THROWS_WITH_AS(FileSource("/nonexistent/file", false),
                         doctest::Contains("/nonexistent/file"), SystemError);
    CHECK_THROWS_WITH_AS(FileSource("/tmp", false), doctest::Contains("not a regular file"),
                         std::invalid_argument);
    CHECK_THROWS_WITH_AS(FileSource("/dev/null", false), doctest::Contains("not a regular file"),
                         std::invalid_argument);
    const TemporaryFile empty(0);
    CHECK_THROWS_WITH_AS(FileSource(empty.path(), false), doctest::Contains("is empty"),
                         std::invalid_argument);
  }

  TEST_CASE("a fifo is refused, and its open does not wait for a writer") {
    const std::string path = "/tmp/pyuffd-test-fifo-" + std::to_string(::getpid());
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    CHECK_THROWS_WITH_AS(FileSource(std::string(path), false),
                         doctest::Contains("not a regular file"), std::invalid_argument);
    ::unlink(path.c_str());
  }

  TEST_CASE("an image's pages are filled once, whoever needs them") {
    constexpr uint64_t pages = 2000;
    const auto source = std::make_shared<CountingSource>(pages);
    SharedImage image(source, MemoryKind::memfd);
    std::latch start{4};
    std::vector<std::thread> threads;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      threads.emplace_back([&, seed] {
        start.arrive_and_wait();
        for (uint64_t i = 0; i < pages; ++i) {
          const uint64_t first = (i * 31 + seed * 500) % pages;
          const uint64_t count = std::min<uint64_t>(1 + i % 3, pages - first);
          int64_t filled;
          while ((filled = image.fill(first * page(), count * page())) == -EAGAIN) {
          }
          CHECK(filled >= static_cast<int64_t>(page()));
          CHECK(image.has(first * page(), static_cast<uint64_t>(filled)));
        }
      });
    }
    image.start_filling();
    for (std::thread& thread : threads) thread.join();
    while (image.wait_filled(std::chrono::milliseconds(50)) != SharedImage::Filled::all) {
    }
    CHECK(image.missing_pages() == 0);
    CHECK(source->most() == 1);
    CHECK(source->equals(read(image, 0, image.length())));
  }
}

}  // namespace uffd::test
