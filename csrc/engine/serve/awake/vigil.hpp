// How a handler waits for the next message: it spins where that pays, and while a burst lasts it
// has CPUs kept awake; then it sleeps, and nothing is kept awake any more. One handler's.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "engine/serve/awake/burst.hpp"
#include "engine/serve/awake/spinning.hpp"
#include "engine/serve/awake/wakefulness.hpp"

namespace uffd {

// What a handler tells of it; written by its thread, read by any.
struct VigilNotes {
  std::shared_ptr<const WakefulnessNotes> keeper;  // nullptr without one; constant
  std::atomic<uint64_t> wake_ns{0};                // see Burst
  std::atomic<uint64_t> spun_ns{0};
};

class Vigil {
 public:
  // keeper: nullptr, or of the manager.
  explicit Vigil(Wakefulness* keeper)
      : keeper_(keeper && keeper->available() ? keeper : nullptr),
        spinning_(keeper_ ? Spinning::kLongestNs : Spinning::kFirstNs) {
    if (keeper) notes_->keeper = keeper->notes();
  }
  ~Vigil() { change(burst_.end()); }
  Vigil(const Vigil&) = delete;
  Vigil& operator=(const Vigil&) = delete;

  // Calls look() until it returns something other than 0; 0 when it is time to sleep. It spins once
  // after faults were served: what follows a sleep in vain is a sleep.
  template <typename Look>
  auto watch(Look&& look) noexcept -> decltype(look()) {
    if (!std::exchange(expecting_, false)) {
      sleeps();
      return 0;
    }
    const bool burst = burst_.awake();
    const auto found = burst ? spinning_.spin_for(Burst::kQuietNs, look) : spinning_.spin(look);
    add(notes_->spun_ns, spinning_.spun_ns());
    slept_ = found == 0;
    if (burst && spinning_.longest_look_ns() > kSharedNs) {
      change(burst_.give_up());
    } else if (burst && slept_) {
      change(burst_.end());
    }
    return found;
  }
  // To be called instead of watch() by who sleeps at once.
  void sleeps() noexcept {
    slept_ = true;
    change(burst_.end());
  }

  // Messages were read after watch() or sleep, and their faults are resolved. thread() is a
  // thread that faulted.
  template <typename FindThread>
  void served(uint64_t read_at, uint64_t done_at, FindThread&& thread) noexcept {
    expecting_ = true;
    if (!keeper_) return;
    const Burst::Change found = burst_.served(read_at, done_at, std::exchange(slept_, false));
    if (found == Burst::Change::begins) {
      keeper_->begin(thread());
    } else if (found == Burst::Change::none) {
      if (burst_.awake()) keeper_->follow(thread());
    } else {
      change(found);
    }
  }

  const std::shared_ptr<VigilNotes>& notes() const noexcept { return notes_; }

 private:
  // Another thread has had this CPU meanwhile: it is not for spinning.
  static constexpr uint64_t kSharedNs = 50'000;

  void change(Burst::Change found) noexcept {
    if (found != Burst::Change::ends) return;
    notes_->wake_ns.store(burst_.wake_ns(), std::memory_order_relaxed);
    keeper_->end();
  }

  static void add(std::atomic<uint64_t>& sum, uint64_t value) noexcept {
    sum.store(sum.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }

  Wakefulness* const keeper_;
  Spinning spinning_;
  Burst burst_;
  bool expecting_ = false;  // faults were served since the last watch()
  bool slept_ = false;      // since the last messages
  const std::shared_ptr<VigilNotes> notes_ = std::make_shared<VigilNotes>();
};

}  // namespace uffd
