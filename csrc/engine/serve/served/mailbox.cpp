#include "engine/serve/served/mailbox.hpp"

#include <algorithm>

namespace uffd {

bool Mailbox::post(ServedTarget& served, unsigned commands) noexcept {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  queue_.push(served.shared_from_this(), commands);
  notify();
  return true;
}

bool Mailbox::call(const std::function<void()>& function) {
  Call call{function};
  std::unique_lock lock(mutex_);
  if (closed_) return false;
  calls_.push_back(&call);
  notify();
  called_.wait(lock, [&] { return call.over; });
  return call.ran;
}

void Mailbox::stop() {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  stopping_ = true;
  notify();
}

void Mailbox::set_interrupt(Interrupt* interrupt) {
  const std::lock_guard lock(mutex_);
  interrupt_ = interrupt;
}

// Under the mutex: the owner of interrupt_ may end otherwise.
void Mailbox::notify() {
  wake_.signal();
  if (interrupt_) interrupt_->interrupt();
}

void Mailbox::run_calls(std::unique_lock<std::mutex>& lock) {
  while (!calls_.empty()) {
    Call& call = *calls_.front();
    calls_.erase(calls_.begin());
    lock.unlock();
    call.function();
    lock.lock();
    call.over = call.ran = true;
    called_.notify_all();
  }
}

void Mailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  interrupt_ = nullptr;
  wake_.close();
  while (!queue_.empty()) queue_.pop();
  for (Call* call : calls_) call->over = true;
  calls_.clear();
  called_.notify_all();
}

}  // namespace uffd
