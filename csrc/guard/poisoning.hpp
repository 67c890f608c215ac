// What the guard does for a target whose manager has died: it poisons what the target misses, so
// that to touch it is a SIGBUS and never a silent zero, and then lets go of the target.
//
// Where that cannot be known or done, the target is kept: then its threads sleep, or what they
// touch is poisoned touch by touch. Allocates nothing.
#pragma once

#include "guard/kept_target.hpp"
#include "guard/registered_memory.hpp"

namespace uffd::guard {

enum class Result {
  done,      // nothing is missing any more that is not poisoned
  gone,      // the address space is no more
  on_touch,  // what is missing is not known, or not registered yet: poison what is touched
  unable,    // this kernel cannot poison: the target's threads sleep on
};

class Poisoning {
 public:
  explicit Poisoning(KeptTarget& target) noexcept : target_(target), uffd_(target.uffd()) {}

  Result run() noexcept;
  // In Result::on_touch and unable: reads the messages that are queued, and poisons what is
  // touched.
  Result serve() noexcept;

  uint64_t poisoned() const noexcept { return poisoned_; }
  // Fork children of the target whose userfaultfds died with the manager.
  unsigned lost_children() const noexcept { return lost_children_; }

 private:
  Result poison_all() noexcept;
  Result poison_places(int uffd) noexcept;
  Result poison_place(int uffd, const Place& place) noexcept;
  // Registered memory that the ledger does not name.
  Result poison_unnamed() noexcept;
  Result poison_unnamed_of(const RegisteredMemory::Mapping& mapping) noexcept;
  Result poison(int uffd, uint64_t start, uint64_t length, uint64_t page_size) noexcept;
  void apply_unread() noexcept;
  void apply(const uffd_msg& message) noexcept;
  void move(uint64_t from, uint64_t to, uint64_t length) noexcept;
  // Whether no event is queued any more. Faults that it does not poison are to be woken.
  bool drain(bool poisons_faults) noexcept;
  void answer(const uffd_msg& message) noexcept;
  uint64_t page_size_at(uint64_t address) const noexcept;

  KeptTarget& target_;
  const int uffd_;
  uint64_t poisoned_ = 0;
  unsigned lost_children_ = 0;
  bool lost_track_ = false, moved_ = false, gone_ = false, unable_ = false;
};

}  // namespace uffd::guard
