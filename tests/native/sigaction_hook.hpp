// The seam through which tests look between two instructions that change a signal's disposition:
// the linker sends every sigaction of this program here (--wrap).
#pragma once

#include <signal.h>

#include <functional>

namespace uffd::test {

// Called after each sigaction, by its thread; set is null where it only asked.
using SigactionHook = std::function<void(int number, const struct sigaction* set)>;

int kernel_sigaction(int number, const struct sigaction* set, struct sigaction* before);

// Hooks as long as it lives.
class HookedSigaction {
 public:
  explicit HookedSigaction(SigactionHook hook);
  ~HookedSigaction();
};

}  // namespace uffd::test
