#include "workload/close_race.hpp"

#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/linux/sigbus.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/userfaultfd.hpp"
#include "workload/random.hpp"

namespace uffd::workload {
namespace {

constexpr size_t kMostThreads = 64;
constexpr size_t kStampWord = kMostThreads;  // word i of a page belongs to thread i
constexpr std::chrono::seconds kLost{10};    // a thread that is away for so long is lost
constexpr uint64_t kThpSize = uint64_t{2} << 20;

using Clock = std::chrono::steady_clock;

uint64_t volatile* words(uint64_t page) {
  return reinterpret_cast<uint64_t volatile*>(page);
}

const CloseRacePlan& checked(const CloseRacePlan& plan) {
  if (plan.threads == 0 || plan.threads > kMostThreads)
    throw std::invalid_argument("threads must be 1 to 64, not " + std::to_string(plan.threads));
  if (plan.pages == 0) throw std::invalid_argument("pages must be at least 1");
  if (plan.thp && plan.kind != MemoryKind::anonymous)
    throw std::invalid_argument("thp=True is for anonymous memory only");
  return plan;
}

// The region and the image of its pages. For THP the region is a whole aligned block, of which the
// plan's pages are the first.
class Pages {
 public:
  explicit Pages(const CloseRacePlan& plan)
      : memory_(plan.thp ? 2 * round_up(plan.pages * sys::page_size(), kThpSize)
                         : plan.pages * unit(plan.kind),
                plan.kind, plan.shared),
        size_(memory_.page_size()),
        start_(plan.thp ? round_up(memory_.address(), kThpSize) : memory_.address()),
        length_(plan.thp ? memory_.length() / 2 : memory_.length()),
        forget_(plan.kind == MemoryKind::memfd ? MADV_REMOVE : MADV_DONTNEED),
        image_(plan.pages * size_, MemoryKind::anonymous, false) {
    if (plan.kind == MemoryKind::anonymous)
      sys::madvise(memory_.address(), memory_.length(), plan.thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    words(start_)[0] = 1;  // gives the VMA its anon_vma
  }

  Range range() const { return {start_, length_}; }
  uint64_t size() const { return size_; }
  uint64_t at(uint64_t page) const { return start_ + page * size_; }
  uint64_t image_of(uint64_t page) const { return image_.address() + page * size_; }

  void forget() const {
    or_throw(::madvise(reinterpret_cast<void*>(start_), length_, forget_), "madvise");
  }

 private:
  static uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
  }
  static uint64_t unit(MemoryKind kind) {
    return kind == MemoryKind::hugetlb ? hugetlb_page_size() : sys::page_size();
  }

  Mapping memory_;
  uint64_t size_;
  uint64_t start_;
  uint64_t length_;
  int forget_;
  Mapping image_;
};

class CloseRace {
 public:
  explicit CloseRace(const CloseRacePlan& plan)
      : plan_(checked(plan)), pages_(plan), copied_(plan.pages) {
    try {
      for (size_t i = 0; i < plan_.threads; ++i)
        threads_.emplace_back(start_thread("uffd-racer", std::nullopt, [this, i] { attend(i); }));
    } catch (...) {
      send_home();
      throw;
    }
  }
  ~CloseRace() { send_home(); }

  CloseRaceResult run() {
    const uint64_t began = sys::monotonic_ns();
    const auto deadline = Clock::now() + plan_.limit;
    while (result_.closes < plan_.closes && result_.lost == 0 && Clock::now() < deadline)
      race(++result_.closes);
    result_.elapsed_ns = sys::monotonic_ns() - began;
    result_.accesses = result_.closes * plan_.threads * plan_.pages;
    result_.sigbus = sigbus_;
    result_.wrong += wrong_;
    return result_;
  }

 private:
  static constexpr uint64_t kLeave = UINT64_MAX;

  void send_home() {
    round_ = kLeave;
    round_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void race(uint64_t round) {
    pages_.forget();
    prepare_image(round);
    Userfaultfd uffd = Userfaultfd::open(Access::best, 0);
    arm(uffd);
    const uint64_t sigbus_before = sigbus_;
    started_ = 0;
    finished_ = 0;
    round_ = round;
    round_.notify_all();
    // Sometimes all threads are at work when the copying begins, sometimes none.
    while (started_ < round % (plan_.threads + 1)) ::sched_yield();
    for (uint64_t page = 0; page < plan_.pages; ++page) {
      if (copied_[page]) copy(uffd, page);
    }
    const size_t finished =
        finished_;  // before those that started: none is counted as at work twice
    result_.raced += started_ > finished;
    uffd.close();
    wait_for_threads();
    if (result_.lost == 0 && sigbus_ == sigbus_before) check(round);
  }

  void prepare_image(uint64_t round) {
    for (uint64_t page = 0; page < plan_.pages; ++page) {
      copied_[page] = plan_.complete || random_.next() % 2 == 0;
      words(pages_.image_of(page))[kStampWord] = stamp(round, page);
    }
  }

  void arm(const Userfaultfd& uffd) const {
    const Range range = pages_.range();
    uint64_t ioctls = 0;
    const int error =
        uffd.register_range(range.start, range.length, UFFDIO_REGISTER_MODE_MISSING, &ioctls);
    if (error < 0) throw SystemError(-error, "UFFDIO_REGISTER");
  }

  void copy(const Userfaultfd& uffd, uint64_t page) const {
    const int error = uffd.copy(pages_.at(page), pages_.image_of(page), pages_.size(), 0).error;
    if (error < 0) throw SystemError(-error, "UFFDIO_COPY");
  }

  void wait_for_threads() {
    const auto deadline = Clock::now() + kLost;
    while (finished_ < plan_.threads && Clock::now() < deadline) ::sched_yield();
    result_.lost = plan_.threads - finished_;
  }

  // What the page must hold at its stamp.
  uint64_t expected(uint64_t round, uint64_t page) const {
    return copied_[page] ? stamp(round, page) : 0;
  }
  static uint64_t stamp(uint64_t round, uint64_t page) { return mix64(round * kGolden + page) | 1; }

  void check(uint64_t round) {
    for (uint64_t page = 0; page < plan_.pages; ++page) {
      const uint64_t volatile* all = words(pages_.at(page));
      bool right = all[kStampWord] == expected(round, page);
      for (size_t thread = 0; thread < plan_.threads; ++thread)
        right = right && all[thread] == (plan_.write ? round : 0);
      result_.wrong += !right;
    }
  }

  void attend(size_t thread) {
    for (uint64_t seen = 0;;) {
      round_.wait(seen);
      seen = round_;
      if (seen == kLeave) return;
      ++started_;
      for (uint64_t i = 0; i < plan_.pages; ++i) touch((i + thread) % plan_.pages, thread, seen);
      ++finished_;
    }
  }

  void touch(uint64_t page, size_t thread, uint64_t round) {
    uint64_t volatile* const all = words(pages_.at(page));
    uint64_t volatile found = 0;
    const bool alive = survives([&] {
      if (plan_.write) all[thread] = round;
      found = all[kStampWord];
    });
    if (!alive) {
      ++sigbus_;
    } else if (found != expected(round, page)) {
      ++wrong_;
    }
  }

  const CloseRacePlan plan_;
  const SigbusCatcher catcher_;
  const Pages pages_;
  std::vector<char> copied_;  // of each page, in this round; the threads see it by round_
  Random random_{1};
  CloseRaceResult result_;
  std::atomic<uint64_t> round_{0};
  std::atomic<size_t> started_{0};
  std::atomic<size_t> finished_{0};
  std::atomic<uint64_t> sigbus_{0};
  std::atomic<uint64_t> wrong_{0};
  std::vector<std::thread> threads_;  // last
};

}  // namespace

CloseRaceResult race_closes(const CloseRacePlan& plan) {
  auto race = std::make_unique<CloseRace>(plan);
  const CloseRaceResult result = race->run();
  if (result.lost > 0) (void)race.release();
  return result;
}

}  // namespace uffd::workload
