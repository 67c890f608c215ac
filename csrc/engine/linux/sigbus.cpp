#include "engine/linux/sigbus.hpp"

namespace uffd {
namespace {

void land(int number) {
  if (sigjmp_buf* landing = sigbus_landing()) siglongjmp(*landing, 1);
  // The access runs again when this returns, and ends the process.
  ::signal(number, SIG_DFL);
}

}  // namespace

sigjmp_buf*& sigbus_landing() noexcept {
  thread_local sigjmp_buf* landing = nullptr;
  return landing;
}

SigbusCatcher::SigbusCatcher() {
  struct sigaction action{};
  action.sa_handler = land;
  // Not blocked while it is handled: siglongjmp restores no mask, so that survives() needs no
  // system call.
  action.sa_flags = SA_NODEFER;
  ::sigaction(SIGBUS, &action, &before_);
}

SigbusCatcher::~SigbusCatcher() {
  ::sigaction(SIGBUS, &before_, nullptr);
}

}  // namespace uffd
