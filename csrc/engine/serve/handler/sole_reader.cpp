#include "engine/serve/handler/sole_reader.hpp"

namespace uffd {

bool SoleReader::enter(const Userfaultfd& uffd) {
  const std::lock_guard lock(mutex_);
  if (interrupted_ || !thread_.available()) return false;
  uffd_ = &uffd;
  if (!make_blocking(true)) {
    uffd_ = nullptr;
    return false;
  }
  thread_.every(kQuiet);
  return true;
}

void SoleReader::leave() {
  thread_.every(std::chrono::milliseconds::zero());
  const std::lock_guard lock(mutex_);
  make_blocking(false);
  uffd_ = nullptr;
}

void SoleReader::resume() {
  const std::lock_guard lock(mutex_);
  interrupted_ = false;
}

// A read that has begun is woken by the signal; one that is about to begin meets O_NONBLOCK.
void SoleReader::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  if (!uffd_) return;
  make_blocking(false);
  thread_.interrupt();
}

bool SoleReader::make_blocking(bool blocking) noexcept {
  const int flags = ::fcntl(uffd_->fd(), F_GETFL);
  const int wanted = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
  return flags >= 0 && ::fcntl(uffd_->fd(), F_SETFL, wanted) == 0;
}

}  // namespace uffd
