// The user's end of a userfaultfd, until a target takes it.
#pragma once

#include <memory>

#include "bindings/common.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd::bindings {

// Used with the GIL held. A call that releases the GIL holds its own reference meanwhile, so that
// no ioctl ever meets a closed descriptor: close() and take() are refused as long as one is under
// way.
class UserfaultfdHandle {
 public:
  explicit UserfaultfdHandle(Userfaultfd uffd, bool registered_by_sender)
      : uffd_(std::make_shared<Userfaultfd>(std::move(uffd))),
        registered_by_sender_(registered_by_sender) {}

  // Throws std::invalid_argument when it is closed, taken by a target, or inherited by a fork
  // child.
  std::shared_ptr<Userfaultfd> use() const;
  void close();
  bool closed() const { return !uffd_ || !uffd_->is_open(); }

  // For a target: what is returned must be put back by restore() when the target does not come
  // about.
  Userfaultfd take();
  void restore(Userfaultfd uffd);

  bool registered_by_sender() const { return registered_by_sender_; }

 private:
  void require_idle(const char* call) const;

  std::shared_ptr<Userfaultfd> uffd_;
  bool registered_by_sender_;
  bool taken_ = false;
};

}  // namespace uffd::bindings
