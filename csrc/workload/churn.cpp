#include "workload/churn.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/linux/syscall.hpp"
#include "workload/random.hpp"

namespace uffd::workload {
namespace {

constexpr uint64_t kPlacesForEach = 3;  // where a page may lie, its first place included
constexpr uint64_t kNowhere = UINT64_MAX;

enum class Content : uint8_t { pattern, zeros, stamp };

struct Page {
  uint64_t place = kNowhere;  // kNowhere: unmapped
  uint64_t stamp = 0;         // the first word of what was written
  Content content = Content::pattern;
};

// The pages of one thread. It allocates in its constructor only: a fork child of a process with
// threads must not.
class Share {
 public:
  Share(const ChurnPlan& plan, uint64_t first, uint64_t pages, uint64_t seed);
  ~Share();
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  void work();
  Churned result() const { return done_; }

 private:
  void step();
  void read(uint64_t page);
  void write(uint64_t page);
  void drop(uint64_t page);
  void move(uint64_t page);
  void unmap(uint64_t page);
  void fork_child();
  void live_as_child();
  void verify_all();
  bool is_right(uint64_t page) const;
  // How many pages from this one on lie side by side, up to as many.
  uint64_t run_from(uint64_t page, uint64_t most) const;
  // Where the run may be moved to; kNowhere where there is no room.
  uint64_t free_places(uint64_t count);
  void vacate(uint64_t place, uint64_t count);

  uint64_t address(uint64_t place) const {
    return place < pages_.size() ? start_ + place * size_ : room_ + (place - pages_.size()) * size_;
  }

  const ChurnPlan& plan_;
  const uint64_t size_ = sys::page_size();
  const uint64_t first_;  // its number in the whole memory
  const uint64_t start_;  // its first address
  uint64_t room_ = 0;     // the other places
  uint64_t room_length_ = 0;
  std::vector<Page> pages_;
  std::vector<bool> free_;  // places
  Random random_;
  Churned done_;
  uint64_t next_fork_ns_;
  uint64_t unmaps_left_;
};

Share::Share(const ChurnPlan& plan, uint64_t first, uint64_t pages, uint64_t seed)
    : plan_(plan),
      first_(first),
      start_(plan.address + first * size_),
      pages_(pages),
      free_(pages * kPlacesForEach, true),
      random_(seed),
      next_fork_ns_(sys::monotonic_ns()),
      unmaps_left_(pages / 8) {
  room_length_ = (free_.size() - pages) * size_;
  void* room = ::mmap(nullptr, room_length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) throw std::runtime_error("no address space for the churn");
  room_ = reinterpret_cast<uint64_t>(room);
  for (uint64_t page = 0; page < pages; ++page) {
    pages_[page].place = page;
    free_[page] = false;
  }
}

Share::~Share() {
  ::munmap(reinterpret_cast<void*>(room_), room_length_);
}

void Share::work() {
  const uint64_t end =
      sys::monotonic_ns() + static_cast<uint64_t>(std::chrono::nanoseconds(plan_.time).count());
  while (sys::monotonic_ns() < end) step();
  verify_all();
}

void Share::step() {
  const uint64_t page = random_.below(pages_.size());
  if (plan_.between_forks.count() > 0 && sys::monotonic_ns() >= next_fork_ns_) fork_child();
  if (pages_[page].place == kNowhere) return;
  const uint64_t drawn = random_.below(100);
  if (drawn < 10) return write(page);
  if (drawn < 20 && plan_.drops) return drop(page);
  if (drawn < 30 && plan_.moves) return move(page);
  if (drawn == 30 && plan_.unmaps) return unmap(page);
  read(page);
}

bool Share::is_right(uint64_t page) const {
  const Page& what = pages_[page];
  const auto* words = reinterpret_cast<const uint64_t*>(address(what.place));
  const uint64_t count = size_ / sizeof(uint64_t);
  const uint64_t origin = mix64(plan_.pattern) + (first_ + page) * count * kGolden;
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t expected = 0;
    if (what.content == Content::pattern) expected = mix64(origin + (i + 1) * kGolden);
    if (what.content == Content::stamp) expected = what.stamp + i;
    if (words[i] != expected) return false;
  }
  return true;
}

void Share::read(uint64_t page) {
  ++done_.reads;
  if (is_right(page)) return;
  ++done_.wrong_pages;
  done_.first_wrong = address(pages_[page].place);
}

void Share::write(uint64_t page) {
  Page& what = pages_[page];
  auto* words = reinterpret_cast<uint64_t*>(address(what.place));
  what.stamp = random_.next();
  what.content = Content::stamp;
  // Not in order: the first word that is written decides what the others are meanwhile.
  const uint64_t count = size_ / sizeof(uint64_t), from = random_.below(count);
  for (uint64_t i = 0; i < count; ++i) words[(from + i) % count] = what.stamp + (from + i) % count;
  ++done_.writes;
}

uint64_t Share::run_from(uint64_t page, uint64_t most) const {
  uint64_t count = 1;
  while (count < most && page + count < pages_.size() &&
         pages_[page + count].place == pages_[page].place + count &&
         pages_[page + count].place != pages_.size())  // there the room begins, elsewhere
    ++count;
  return count;
}

void Share::drop(uint64_t page) {
  const uint64_t count = run_from(page, 1 + random_.below(4));
  ::madvise(reinterpret_cast<void*>(address(pages_[page].place)), count * size_, MADV_DONTNEED);
  for (uint64_t i = 0; i < count; ++i) pages_[page + i].content = Content::zeros;
  ++done_.drops;
}

uint64_t Share::free_places(uint64_t count) {
  uint64_t place = random_.below(free_.size());
  for (uint64_t tries = 0; tries < 16; ++tries, place = random_.below(free_.size())) {
    if (place + count > free_.size()) continue;
    if (place < pages_.size() && place + count > pages_.size()) continue;
    bool all = true;
    for (uint64_t i = 0; i < count; ++i) all = all && free_[place + i];
    if (all) return place;
  }
  return kNowhere;
}

// Nothing else may come to lie there; if something already does, the place is given up.
void Share::vacate(uint64_t place, uint64_t count) {
  const uint64_t start = address(place);
  void* reserved = ::mmap(reinterpret_cast<void*>(start), count * size_, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  const bool ours = reserved == reinterpret_cast<void*>(start);
  for (uint64_t i = 0; i < count; ++i) free_[place + i] = ours;
}

void Share::move(uint64_t page) {
  const uint64_t count = run_from(page, 1 + random_.below(4));
  const uint64_t from = pages_[page].place, to = free_places(count);
  if (to == kNowhere) return;
  void* moved = ::mremap(reinterpret_cast<void*>(address(from)), count * size_, count * size_,
                         MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(address(to)));
  if (moved == MAP_FAILED) return;  // ENOMEM: too many VMAs
  for (uint64_t i = 0; i < count; ++i) {
    pages_[page + i].place = to + i;
    free_[to + i] = false;
  }
  vacate(from, count);
  ++done_.moves;
}

void Share::unmap(uint64_t page) {
  if (unmaps_left_ == 0) return;
  --unmaps_left_;
  const uint64_t place = pages_[page].place;
  if (::munmap(reinterpret_cast<void*>(address(place)), size_) != 0) return;
  pages_[page].place = kNowhere;
  vacate(place, 1);
  ++done_.unmaps;
}

void Share::verify_all() {
  for (uint64_t page = 0; page < pages_.size(); ++page) {
    if (pages_[page].place != kNowhere) read(page);
  }
}

void Share::fork_child() {
  const uint64_t pause =
      static_cast<uint64_t>(std::chrono::nanoseconds(plan_.between_forks).count());
  next_fork_ns_ = sys::monotonic_ns() + plan_.threads * (pause / 2 + random_.below(pause + 1));
  const bool kill = random_.below(8) == 0;
  const pid_t child = ::fork();
  if (child == 0) live_as_child();
  if (child < 0) return;
  ++done_.forks;
  if (kill && ::kill(child, SIGKILL) == 0) ++done_.kills;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) {
    done_.wrong_pages += static_cast<uint64_t>(WEXITSTATUS(status));
  } else if (!kill) {
    ++done_.broken_children;
  }
}

// Locks that other threads held in the parent are held for good here: no allocation, no output.
void Share::live_as_child() {
  done_ = {};
  constexpr uint64_t few = 32;
  const uint64_t first = random_.below(pages_.size());
  for (uint64_t i = 0; i < 2 * few; ++i) {
    const uint64_t page = (first + random_.below(few)) % pages_.size();
    if (pages_[page].place == kNowhere) continue;
    const uint64_t drawn = random_.below(10);
    if (drawn < 3) {
      write(page);
    } else if (drawn < 6 && plan_.drops) {
      drop(page);
    } else if (drawn < 8 && plan_.moves) {
      move(page);
    } else {
      read(page);
    }
  }
  for (uint64_t i = 0; i < few; ++i) {
    const uint64_t page = (first + i) % pages_.size();
    if (pages_[page].place != kNowhere) read(page);
  }
  ::_exit(static_cast<int>(std::min<uint64_t>(done_.wrong_pages, 255)));
}

void add(Churned& sum, const Churned& part) {
  sum.reads += part.reads;
  sum.writes += part.writes;
  sum.drops += part.drops;
  sum.moves += part.moves;
  sum.unmaps += part.unmaps;
  sum.forks += part.forks;
  sum.kills += part.kills;
  sum.wrong_pages += part.wrong_pages;
  sum.broken_children += part.broken_children;
  if (part.first_wrong) sum.first_wrong = part.first_wrong;
}

}  // namespace

Churned churn(const ChurnPlan& plan) {
  if (plan.threads == 0 || plan.pages < plan.threads)
    throw std::invalid_argument(
        "a churn needs at least one thread, and at least one page for each thread");
  const uint64_t each = plan.pages / plan.threads;
  std::vector<std::unique_ptr<Share>> shares;
  for (unsigned i = 0; i < plan.threads; ++i) {
    const uint64_t first = i * each;
    const uint64_t pages = i + 1 == plan.threads ? plan.pages - first : each;
    shares.push_back(std::make_unique<Share>(plan, first, pages, plan.seed * 1000 + i));
  }
  std::vector<std::thread> threads;
  for (const auto& share : shares) threads.emplace_back([&share] { share->work(); });
  for (std::thread& thread : threads) thread.join();
  Churned sum;
  for (const auto& share : shares) add(sum, share->result());
  return sum;
}

}  // namespace uffd::workload
