// Survives SIGBUS: for experiments and measurements, never for a manager, since a signal's
// disposition belongs to the whole process.
#pragma once

#include <setjmp.h>
#include <signal.h>

namespace uffd {

// While one lives, accesses under survives() are caught; any other SIGBUS ends the process as ever.
// One catcher at a time.
class SigbusCatcher {
 public:
  SigbusCatcher();
  SigbusCatcher(const SigbusCatcher&) = delete;
  SigbusCatcher& operator=(const SigbusCatcher&) = delete;
  ~SigbusCatcher();

 private:
  struct sigaction before_;
};

// Where this thread continues after a SIGBUS; null outside survives().
sigjmp_buf*& sigbus_landing() noexcept;

// Runs an access, which must own nothing: a SIGBUS leaves the access without running destructors.
// False where the access got one. Any thread.
template <typename Access>
bool survives(Access&& access) noexcept {
  sigjmp_buf landing;
  sigbus_landing() = &landing;
  const bool alive = sigsetjmp(landing, 0) == 0;
  if (alive) access();
  sigbus_landing() = nullptr;
  return alive;
}

}  // namespace uffd
