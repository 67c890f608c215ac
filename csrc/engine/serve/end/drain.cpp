#include "engine/serve/end/drain.hpp"

#include <array>
#include <new>
#include <vector>

#include "engine/serve/event/events.hpp"
#include "engine/serve/fault/installer.hpp"
#include "engine/serve/served/mailbox.hpp"

namespace uffd {
namespace {

constexpr unsigned kMostReads = 256;   // batches of events
constexpr unsigned kMostTries = 1024;  // of setting a marker again

class Drain {
 public:
  explicit Drain(ServedTarget& served) : served_(served) {}
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;
  ~Drain() { served_.shared_counters.add(counted_); }

  // Whether no event is left.
  bool read_all() {
    std::array<uffd_msg, 16> messages;
    const OnFork on_fork = [this](ServedTarget& parent, Userfaultfd child) {
      try {
        born_.push_back(bear(parent, child, Books::copied));
      } catch (const std::bad_alloc&) {
        child.leave_open();  // what it misses must not turn into zeros
      }
    };
    while (reads_ < kMostReads) {
      ++reads_;
      const ssize_t count = read_living(served_, messages, counted_, on_fork);
      for (const auto& child : born_) {
        // What the child misses must not turn into zeros.
        if (served_.mailbox->post(*child, command::take_in)) continue;
        child->target.uffd().leave_open();
        child->life.finish(Stage::stopped, std::nullopt);
      }
      born_.clear();
      if (count == -EAGAIN) return true;
      if (count < 0) ::sched_yield();
    }
    return false;
  }

  void poison_again() {
    Installer installer(served_.target, counted_);
    for (const Range& range : served_.target.poisoned()) {
      unsigned tries = 0;
      while (installer.poison_again(range) == Outcome::again && ++tries < kMostTries) {
        ::sched_yield();
        read_all();
      }
    }
  }

 private:
  ServedTarget& served_;
  Counters counted_;
  std::vector<std::shared_ptr<ServedTarget>> born_;
  unsigned reads_ = 0;
};

}  // namespace

void drain(ServedTarget& served) {
  Drain drain(served);
  drain.read_all();
  drain.poison_again();
}

}  // namespace uffd
