// A descriptor that is kept for the userfaultfd of a fork child: where no descriptor is left a FORK
// event cannot be read. Used by the handler's thread alone.
#pragma once

#include "engine/linux/fd.hpp"

namespace uffd {

class SpareDescriptor {
 public:
  SpareDescriptor() { take(); }

  // Opens the spare descriptor again; whether there is one now.
  bool take() noexcept {
    if (!held_) held_ = Fd(::eventfd(0, EFD_CLOEXEC));
    return static_cast<bool>(held_);
  }
  // Closes the spare descriptor, which makes room for another; whether there was one.
  bool give() noexcept {
    const bool had = static_cast<bool>(held_);
    held_.close();
    return had;
  }

 private:
  Fd held_;
};

}  // namespace uffd
