// Whose turn it is: targets that have messages, in the order in which they came, and targets that
// are to be tried again at a set time. Used by the handler's thread alone; allocates in reserve()
// alone.
#pragma once

#include <algorithm>
#include <vector>

#include "engine/linux/syscall.hpp"
#include "engine/serve/handler/charge.hpp"

namespace uffd {

class Turns {
 public:
  // Makes room for so many targets.
  void reserve(size_t targets) { timed_.reserve(targets); }

  size_t ready() const noexcept { return ready_; }
  void make_ready(Charge& charge) noexcept {
    if (charge.ready || charge.again) return;
    charge.ready = true;
    charge.next_ready = nullptr;
    (last_ ? last_->next_ready : first_) = &charge;
    last_ = &charge;
    ++ready_;
  }
  // A charge that has had its turn and has more to do: it comes behind those that become ready
  // until resume().
  void make_ready_again(Charge& charge) noexcept {
    if (charge.ready || charge.again) return;
    charge.again = true;
    charge.next_ready = again_;
    again_ = &charge;
  }
  bool any_again() const noexcept { return again_ != nullptr; }
  void resume() noexcept {
    while (again_) {
      Charge& charge = *again_;
      again_ = charge.next_ready;
      charge.again = false;
      make_ready(charge);
    }
  }
  // Takes the charge that has waited longest; ready() is not 0.
  Charge& next() noexcept {
    Charge& charge = *first_;
    first_ = charge.next_ready;
    if (!first_) last_ = nullptr;
    charge.ready = false;
    --ready_;
    return charge;
  }

  // The target has a turn at this time, unless it has one before.
  void set_due(Charge& charge, uint64_t due) noexcept {
    if (charge.due != 0) return;
    charge.due = due;
    timed_.push_back(&charge);
    std::push_heap(timed_.begin(), timed_.end(), later);
  }
  bool any_timed() const noexcept { return !timed_.empty(); }
  // When the next timed turn is; UINT64_MAX where there is none.
  uint64_t next_due() const noexcept { return timed_.empty() ? UINT64_MAX : timed_.front()->due; }
  void make_due_ready(uint64_t now) noexcept {
    while (!timed_.empty() && timed_.front()->due <= now) {
      std::pop_heap(timed_.begin(), timed_.end(), later);
      Charge& charge = *timed_.back();
      timed_.pop_back();
      charge.due = 0;
      make_ready(charge);
    }
  }

  void forget(Charge& charge) noexcept {
    resume();
    std::erase(timed_, &charge);
    std::make_heap(timed_.begin(), timed_.end(), later);
    if (!charge.ready) return;
    for (size_t left = ready_; left > 0; --left) {
      if (Charge& other = next(); &other != &charge) make_ready(other);
    }
  }

 private:
  static bool later(const Charge* a, const Charge* b) noexcept { return a->due > b->due; }

  Charge* again_ = nullptr;
  Charge* first_ = nullptr;
  Charge* last_ = nullptr;
  size_t ready_ = 0;
  std::vector<Charge*> timed_;  // a heap, the earliest first; each charge once
};

}  // namespace uffd
