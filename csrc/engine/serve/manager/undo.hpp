// Steps of Manager::add() that are undone where a later step fails: each destructor undoes its step
// unless keep() was called.
#pragma once

#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/inline/inline_targets.hpp"
#include "engine/serve/served/served_target.hpp"
#include "engine/target/registration.hpp"

namespace uffd {

class Registration {
 public:
  Registration(const Userfaultfd& uffd, const RegionTable& regions)
      : uffd_(&uffd), regions_(regions) {
    register_regions(uffd, regions);
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;
  ~Registration() {
    if (!uffd_) return;
    for (const Region& region : regions_.all()) unregister_and_wake(*uffd_, region.range);
  }
  void keep() noexcept { uffd_ = nullptr; }

 private:
  const Userfaultfd* uffd_;
  const RegionTable& regions_;
};

// Has signal handlers know a target that is served inline.
class InlineAddition {
 public:
  explicit InlineAddition(ServedTarget& served) : served_(served) {
    if (served.inline_faults) inline_targets::add(served);
  }
  InlineAddition(const InlineAddition&) = delete;
  InlineAddition& operator=(const InlineAddition&) = delete;
  ~InlineAddition() {
    if (served_.inline_faults && !kept_) inline_targets::remove(served_);
  }
  void keep() noexcept { kept_ = true; }

 private:
  ServedTarget& served_;
  bool kept_ = false;
};

// Has the guard hold a target that has a ledger. Throws SystemError.
class Guarding {
 public:
  explicit Guarding(ServedTarget& served) : served_(served) {
    if (served.keep_guarded()) return;
    throw SystemError(
        EAGAIN,
        "the guard cannot be told of another target: raise RLIMIT_NOFILE (ulimit -n), "
        "or give guard=None to serve without a guard");
  }
  Guarding(const Guarding&) = delete;
  Guarding& operator=(const Guarding&) = delete;
  ~Guarding() {
    if (!kept_) served_.let_guard_go();
  }
  void keep() noexcept { kept_ = true; }

 private:
  ServedTarget& served_;
  bool kept_ = false;
};

// Gives the userfaultfd to the target; undone, gives it back to the caller.
class Taking {
 public:
  Taking(Userfaultfd& uffd, ServedTarget& served) : uffd_(uffd), served_(served) {
    served.target.take(std::move(uffd));
  }
  Taking(const Taking&) = delete;
  Taking& operator=(const Taking&) = delete;
  ~Taking() {
    if (!kept_) uffd_ = std::move(served_.target.uffd());
  }
  void keep() noexcept { kept_ = true; }

 private:
  Userfaultfd& uffd_;
  ServedTarget& served_;
  bool kept_ = false;
};

}  // namespace uffd
