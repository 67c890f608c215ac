// Huge pages that are moved into memory: whatever MOVE answers, every byte is right.
#include "engine/linux/huge_pages.hpp"
#include "ioctl_hook.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

// Late, and read best by huge pages.
class ProducingSource final : public Source {
 public:
  explicit ProducingSource(const Memory& memory) : image_(memory.image) {}

  uint64_t length() const noexcept override { return image_.length(); }
  bool late() const noexcept override { return true; }
  uint64_t best_read() const noexcept override { return huge_page_size(); }
  void read(uint64_t offset, std::span<std::byte> into) const override {
    std::memcpy(into.data(), reinterpret_cast<const void*>(image_.address() + offset), into.size());
  }

 private:
  const Mapping& image_;
};

bool can_move() {
  const bool can = (offered_features() & UFFD_FEATURE_MOVE) && huge_page_size() > 0;
  if (!can) MESSAGE("skipped: UFFDIO_MOVE came with Linux 6.8, and takes transparent huge pages");
  return can;
}

struct Moved {
  uint64_t asked = 0, moves = 0, copies = 0;
};

// Fills memory of several huge pages, where each MOVE is answered by the hook, if it answers.
Moved fill(const std::function<std::optional<int>(int fd, uffdio_move& move)>& answer) {
  const Memory memory(4 * huge_page_size() / page());
  std::atomic<uint64_t> asked{0};
  const IoctlHook hook([&](int fd, unsigned long request, void* argument) -> std::optional<int> {
    auto& move = *static_cast<uffdio_move*>(argument);
    // The question at the beginning, whether anything can be moved, is the kernel's.
    if (request != UFFDIO_MOVE || move.len == page()) return std::nullopt;
    ++asked;
    return answer(fd, move);
  });
  Manager manager({});
  Userfaultfd uffd = open_uffd(UFFD_FEATURE_MOVE);
  TargetOptions options;
  options.verify = false;
  auto served =
      manager.add(uffd, {memory.region(std::make_shared<ProducingSource>(memory))}, options);
  manager.fill(*served);
  wait(*served);
  CHECK(memory.all_right());
  CHECK(served->life.report()->missing_pages == 0);
  return {asked, count(*served, Count::moves), count(*served, Count::copies)};
}

std::function<std::optional<int>(int, uffdio_move&)> refuse(int error) {
  return [error](int, uffdio_move& move) {
    move.move = -error;
    return std::optional(-error);
  };
}

}  // namespace

TEST_SUITE("moves") {
  TEST_CASE("whole huge pages are moved, and what lies before and behind them is copied") {
    if (!can_move()) return;
    const Moved moved = fill([](int, uffdio_move&) { return std::nullopt; });
    CHECK(moved.moves >= 3);
    CHECK(moved.copies <= 3);
  }

  TEST_CASE("what is in use elsewhere is copied") {
    if (!can_move()) return;
    const Moved moved = fill(refuse(EBUSY));
    CHECK(moved.moves == 0);
    CHECK(moved.asked >= 3);
  }

  TEST_CASE("what a device holds a moment longer is moved then") {
    if (!can_move()) return;
    std::atomic<unsigned> calls{0};
    const Moved moved = fill([&](int fd, uffdio_move& move) {
      return calls++ % 8 == 7 ? std::nullopt : refuse(EBUSY)(fd, move);
    });
    CHECK(moved.moves >= 3);
  }

  TEST_CASE("what is locked while it is served is copied") {
    if (!can_move()) return;
    const Moved moved = fill(refuse(EINVAL));
    CHECK(moved.moves == 0);
    CHECK(moved.copies >= 4);
  }

  TEST_CASE("what is tried again, or moved in part, is moved in the end") {
    if (!can_move()) return;
    std::atomic<unsigned> calls{0};
    fill([&](int fd, uffdio_move& move) -> std::optional<int> {
      switch (calls++ % 3) {
        case 0:
          return refuse(EAGAIN)(fd, move);
        case 1: {
          uffdio_move part = move;
          part.len = move.len / 2;
          if (kernel_ioctl(fd, UFFDIO_MOVE, &part) != 0) return refuse(EAGAIN)(fd, move);
          move.move = part.move;
          return -EAGAIN;
        }
        default:
          return std::nullopt;
      }
    });
  }

  TEST_CASE("a page that somebody has installed meanwhile stays") {
    if (!can_move()) return;
    const Moved moved = fill([](int fd, uffdio_move& move) -> std::optional<int> {
      uffdio_copy first{};
      first.dst = move.dst;
      first.src = move.src;
      first.len = page();
      kernel_ioctl(fd, UFFDIO_COPY, &first);
      return std::nullopt;
    });
    CHECK(moved.asked >= 3);
  }
}

}  // namespace uffd::test
