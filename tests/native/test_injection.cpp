// What the kernel may answer at any call: EAGAIN, a part, EEXIST, ENOENT, ENOMEM, ESRCH. No page is
// lost, none is wrong, and nobody is left asleep.
#include <random>

#include "ioctl_hook.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

// Answers COPYs as a plan says, one after the other; what is behind its end passes.
class Plan {
 public:
  using Answer = std::function<std::optional<int>(int fd, uffdio_copy& copy)>;

  explicit Plan(std::vector<Answer> answers)
      : answers_(std::move(answers)), hook_([this](int fd, unsigned long request, void* argument) {
          return request == UFFDIO_COPY ? answer(fd, *static_cast<uffdio_copy*>(argument))
                                        : std::nullopt;
        }) {}

  size_t calls() const { return calls_; }

 private:
  std::optional<int> answer(int fd, uffdio_copy& copy) {
    const size_t call = calls_++;
    return call < answers_.size() ? answers_[call](fd, copy) : std::nullopt;
  }

  std::vector<Answer> answers_;
  std::atomic<size_t> calls_{0};
  IoctlHook hook_;
};

Plan::Answer pass() {
  return [](int, uffdio_copy&) { return std::nullopt; };
}
// Nothing is done; kernels before 6.15 leave the out field alone.
Plan::Answer fail(int error, bool old_kernel = false) {
  return [=](int, uffdio_copy& copy) {
    if (!old_kernel) copy.copy = -error;
    return std::optional(-error);
  };
}
// Some pages are done, and their touchers woken.
Plan::Answer partial(uint64_t pages) {
  return [=](int fd, uffdio_copy& copy) {
    uffdio_copy part = copy;
    part.len = pages * page();
    REQUIRE(kernel_ioctl(fd, UFFDIO_COPY, &part) == 0);
    copy.copy = part.copy;
    return std::optional(-EAGAIN);
  };
}
// Another installs it first, and wakes nobody.
Plan::Answer overtaken() {
  return [](int fd, uffdio_copy& copy) {
    uffdio_copy first = copy;
    first.len = page();
    first.mode |= UFFDIO_COPY_MODE_DONTWAKE;
    REQUIRE(kernel_ioctl(fd, UFFDIO_COPY, &first) == 0);
    copy.copy = -EEXIST;
    return std::optional(-EEXIST);
  };
}

}  // namespace

TEST_SUITE("injection") {
  TEST_CASE("a fault whose COPY must be tried again is, with either kernel's out field") {
    for (const bool old_kernel : {false, true}) {
      const Memory memory(4);
      Plan plan({fail(EAGAIN, old_kernel), fail(ENOMEM, old_kernel), fail(EINTR, old_kernel)});
      Manager manager({});
      auto served = add(manager, {memory.region()}, {.fault_around = 1});
      CHECK(memory.right(2));
      CHECK(plan.calls() == 4);
      CHECK(count(*served, Count::eagain) == 3);
      CHECK(close(manager, *served, Missing::fill).missing_pages == 0);
      CHECK(memory.all_right());
    }
  }

  TEST_CASE("a part is as much as was done, and the rest follows") {
    const Memory memory(64);
    Plan plan({partial(5), partial(1), fail(EAGAIN), partial(7)});
    Manager manager({});
    auto served = add(manager, {memory.region()});
    manager.fill(*served);
    wait(*served);
    CHECK(count(*served, Count::pages) == 64);
    CHECK(memory.all_right());
  }

  TEST_CASE("whoever sleeps for a page that another installed without waking is woken") {
    const Memory memory(4);
    Plan plan({overtaken()});
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 1});
    Toucher toucher(memory.at(1));
    toucher.join();
    CHECK(memory.right(1));
    CHECK(count(*served, Count::eexist) == 1);
    CHECK(close(manager, *served, Missing::fill).missing_pages == 0);
    CHECK(memory.all_right());
  }

  TEST_CASE("ESRCH ends the target, with what was missing") {
    const Memory memory(4);
    Plan plan({pass(), fail(ESRCH)});
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 1});
    CHECK(memory.right(0));
    Toucher toucher(memory.at(1));
    wait(*served);
    CHECK(served->life.report()->missing_pages == 3);
    toucher.join();
    CHECK(memory.zero(1));
  }

  TEST_CASE("an unreadable source poisons its page and no other") {
    if (!kernel_poisons()) return;
    const Memory memory(4);
    Plan plan({pass(), fail(EFAULT)});
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 1});
    CHECK(memory.right(0));
    until([&] { return served->target.residency().resident(0); });  // marked after the wake
    manager.fill(*served);
    wait(*served);
    CHECK(served->life.report()->poisoned.size() == 1);
    CHECK(!readable(memory.at(1)));
    CHECK(memory.right(2));
    CHECK(memory.right(3));
  }

  // A page may have moved, and its event be on its way: ENOENT is final only when no event is.
  TEST_CASE("ENOENT of a living target that is changing is not final") {
    const Memory memory(8);
    std::atomic<unsigned> asked{0};
    std::atomic<bool> hooked{false};
    const IoctlHook hook([&](int, unsigned long request, void* argument) -> std::optional<int> {
      if (request != UFFDIO_COPY || !hooked) return std::nullopt;
      auto& copy = *static_cast<uffdio_copy*>(argument);
      const unsigned call = asked++;
      if (call > 1) return std::nullopt;
      copy.copy = call == 0 ? -ENOENT : -EAGAIN;  // the question is answered: it is changing
      return static_cast<int>(copy.copy);
    });
    Manager manager({});
    Userfaultfd opened = open_uffd(UFFD_FEATURE_EVENT_REMAP);
    auto served = manager.add(opened, {memory.region()}, {.fault_around = 1});
    hooked = true;
    CHECK(memory.right(3));
    CHECK(count(*served, Count::enoent) == 0);
    CHECK(count(*served, Count::eagain) == 1);
    hooked = false;
    CHECK(close(manager, *served, Missing::fill).absent_pages == 0);
    CHECK(memory.all_right());
  }

  TEST_CASE("random answers, random faults and a fill: every byte right") {
    for (unsigned seed = 0; seed < 20; ++seed) {
      CAPTURE(seed);
      const Memory memory(200, seed);
      std::mutex mutex;
      std::mt19937 random(seed);
      const IoctlHook hook([&](int fd, unsigned long request, void* argument) {
        if (request != UFFDIO_COPY) return std::optional<int>();
        auto& copy = *static_cast<uffdio_copy*>(argument);
        unsigned drawn;
        {
          const std::lock_guard lock(mutex);
          drawn = static_cast<unsigned>(random());
        }
        const uint64_t pages = copy.len / page();
        switch (drawn % 8) {
          case 0:
            return fail(EAGAIN)(fd, copy);
          case 1:
            return fail(EAGAIN, true)(fd, copy);
          case 2:
            return fail(ENOMEM)(fd, copy);
          case 3:
            if (pages == 1) return std::optional<int>();
            copy.len = (1 + drawn / 8 % (pages - 1)) * page();
            if (kernel_ioctl(fd, UFFDIO_COPY, &copy) == 0) return std::optional(-EAGAIN);
            return std::optional(-errno);
          default:
            return std::optional<int>();
        }
      });
      Manager manager({.handlers = 1, .fillers = 2});
      auto served = add(manager, {memory.region()}, {.fault_around = 1 + seed % 16});
      std::atomic<unsigned> wrong{0};
      std::vector<std::thread> crew;
      for (unsigned i = 0; i < 4; ++i) {
        crew.emplace_back([&, i] {
          std::mt19937 order(i + seed);
          for (int touch = 0; touch < 200; ++touch) wrong += !memory.right(order() % 200);
        });
      }
      manager.fill(*served);
      for (auto& thread : crew) thread.join();
      CHECK(wrong == 0);
      wait(*served);
      CHECK(memory.all_right());
      CHECK(count(*served, Count::failed) == 0);
    }
  }
}

}  // namespace uffd::test
