// A queue of targets, each with what is asked for it: the form of every message between threads
// that is about a target. It owns its targets, allocates nothing, and holds each target once.
//
// Under a lock of the queue's owner. A target has a QueueSlot for each queue that it may be in.
#pragma once

#include <memory>
#include <utility>

namespace uffd {

struct ServedTarget;

struct QueueSlot {
  unsigned asked = 0;                  // bits; 0: not in the queue
  std::shared_ptr<ServedTarget> next;  // in the queue
};

template <QueueSlot ServedTarget::* slot>
class TargetQueue {
 public:
  bool empty() const noexcept { return !first_; }

  void push(std::shared_ptr<ServedTarget> served, unsigned asked) noexcept {
    QueueSlot& place = (*served).*slot;
    const bool there = place.asked != 0;
    place.asked |= asked;
    if (there) return;
    ServedTarget* const last = served.get();
    (last_ ? (last_->*slot).next : first_) = std::move(served);
    last_ = last;
  }

  // Takes the first target, and what was asked for it; nullptr where there is none.
  std::pair<std::shared_ptr<ServedTarget>, unsigned> pop() noexcept {
    std::shared_ptr<ServedTarget> served = std::move(first_);
    if (!served) return {};
    QueueSlot& place = (*served).*slot;
    first_ = std::move(place.next);
    if (!first_) last_ = nullptr;
    return {std::move(served), std::exchange(place.asked, 0)};
  }

 private:
  std::shared_ptr<ServedTarget> first_;
  ServedTarget* last_ = nullptr;
};

}  // namespace uffd
