#include "engine/probe/release_experiment.hpp"

#include <sys/resource.h>

#include <atomic>
#include <functional>
#include <thread>
#include <utility>

#include "engine/linux/fdinfo.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/sigbus.hpp"
#include "engine/linux/task_state.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd {
namespace {

// A fault on a released userfaultfd that is answered with VM_FAULT_NOPAGE comes again at once: many
// thousand times in a round; one that sleeps is counted once.
constexpr uint64_t kSpinFaults = 1000;

// A thread that is there before the round begins, since starting one needs mmap_lock, and then does
// one thing when it is told to.
class Actor {
 public:
  Actor(const char* name, std::function<void()> act)
      : thread_(start_thread(name, std::nullopt, [this, act = std::move(act)] {
          (void)sigbus_landing();  // its first use may map memory, and wait for mmap_lock
          tid_ = static_cast<pid_t>(::syscall(SYS_gettid));
          tid_.notify_one();
          order_.wait(kWait);
          if (order_ == kAct) act();
          done_ = true;
        })) {
    tid_.wait(0);
  }
  ~Actor() {
    leave();
    join();
  }

  void go() { tell(kAct); }
  void leave() { tell(kLeave); }  // unless it was told to act
  bool done() const { return done_; }
  bool waits_for_lock() const { return task_state(tid_) == 'D'; }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  enum Order : int { kWait, kAct, kLeave };

  void tell(Order order) {
    int expected = kWait;
    if (order_.compare_exchange_strong(expected, order)) order_.notify_one();
  }

  std::atomic<pid_t> tid_{0};
  std::atomic<int> order_{kWait};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Two pages, the second of which is missing. The first was touched before: a VMA without anon_vma
// has no faults under its own lock on some kernels.
class ArmedPages {
 public:
  ArmedPages()
      : memory_(2 * sys::page_size(), MemoryKind::anonymous, false),
        uffd_(Userfaultfd::open(Access::best, 0)) {
    *reinterpret_cast<volatile char*>(memory_.address()) = 1;
    uint64_t ioctls = 0;
    const int error = uffd_.register_range(memory_.address(), memory_.length(),
                                           UFFDIO_REGISTER_MODE_MISSING, &ioctls);
    if (error < 0) throw SystemError(-error, "UFFDIO_REGISTER");
  }

  void read_missing() const { (void)*reinterpret_cast<volatile const char*>(missing()); }
  bool has_pending() const {
    const auto info = read_fdinfo(uffd_.fd());
    return info && info->pending > 0;
  }
  void resolve() const { uffd_.zeropage(missing(), sys::page_size(), 0); }
  void close() { uffd_.close(); }

 private:
  uint64_t missing() const { return memory_.address() + sys::page_size(); }

  Mapping memory_;
  Userfaultfd uffd_;
};

uint64_t minor_faults_of_this_thread() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return static_cast<uint64_t>(usage.ru_minflt);
}

class Round {
 public:
  explicit Round(uint64_t held_bytes) : held_(held_bytes, MemoryKind::anonymous, false) {
    sys::madvise(held_.address(), held_.length(), MADV_NOHUGEPAGE);
  }

  ReleaseRound run() {
    result_.why = meet();
    holder_.join();
    closer_.leave();
    closer_.join();
    open_.resolve();
    if (result_.why.empty()) judge();
    return std::move(result_);
  }

 private:
  // Brings the threads together; returns why that failed.
  std::string meet() {
    holder_.go();
    while (!sys::resident(held_.address())) {
      if (holder_.done()) return holder_result();
      ::sched_yield();
    }
    closer_.go();
    while (!closer_.waits_for_lock()) {
      if (closer_.done()) return "mmap_lock was not held for long enough";
      ::sched_yield();
    }
    control_.go();
    while (!open_.has_pending()) {
      if (closer_.done())
        return "no fault reaches a userfaultfd while a writer waits for mmap_lock: faults do not "
               "take the lock of their VMA here (Linux before 6.6), or there was no CPU for it";
      ::sched_yield();
    }
    faulter_.go();
    while (!closer_.done() && !faulter_.done()) {
      if (faulter_.waits_for_lock()) slept_ = true;
      ::sched_yield();
    }
    faulter_.join();
    return "";
  }

  std::string holder_result() const {
    if (populate_error_ == EINVAL) return "this kernel has no MADV_POPULATE_WRITE (Linux 5.14)";
    if (populate_error_) return "MADV_POPULATE_WRITE: " + errno_text(populate_error_);
    return "mmap_lock was not held for long enough";
  }

  void judge() {
    if (sigbus_) {
      result_.fault = ReleaseRound::Fault::sigbus;
    } else if (result_.minor_faults >= kSpinFaults) {
      result_.fault = ReleaseRound::Fault::spun;
    } else if (slept_) {
      result_.fault = ReleaseRound::Fault::slept;
    } else {
      result_.why = "the close was over before the fault came";
    }
  }

  void populate() {
    populate_error_ = -sys::madvise(held_.address(), held_.length(), sys::kPopulateWrite);
  }
  void close() {
    const uint64_t began = sys::monotonic_ns();
    released_.close();
    result_.close_ns = sys::monotonic_ns() - began;
  }
  void fault() {
    const uint64_t faults = minor_faults_of_this_thread();
    const uint64_t began = sys::monotonic_ns();
    sigbus_ = !survives([this] { released_.read_missing(); });
    result_.fault_ns = sys::monotonic_ns() - began;
    result_.minor_faults = minor_faults_of_this_thread() - faults;
  }

  ReleaseRound result_;
  bool slept_ = false;
  std::atomic<bool> sigbus_{false};
  std::atomic<int> populate_error_{0};
  const SigbusCatcher catcher_;
  Mapping held_;
  ArmedPages released_, open_;
  // Last: joined before what they use is gone.
  Actor holder_{"uffd-holder", [this] { populate(); }};
  Actor closer_{"uffd-closer", [this] { close(); }};
  Actor faulter_{"uffd-faulter", [this] { fault(); }};
  Actor control_{"uffd-control", [this] { open_.read_missing(); }};
};

}  // namespace

const char* name(ReleaseRound::Fault fault) noexcept {
  switch (fault) {
    case ReleaseRound::Fault::undecided:
      return "undecided";
    case ReleaseRound::Fault::sigbus:
      return "sigbus";
    case ReleaseRound::Fault::spun:
      return "spun";
    case ReleaseRound::Fault::slept:
      return "slept";
  }
  return "";
}

ReleaseRound run_release_round(uint64_t held_bytes) {
  return Round(held_bytes).run();
}

}  // namespace uffd
