// What other threads ask of a handler: commands about targets, and calls that its thread runs
// between two batches.
//
// Any thread posts and calls; the handler's thread takes. Shared by the handler and its targets, so
// that a command that comes late finds a mailbox, although a closed one takes nothing. The owner is
// the handler.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/linux/fd.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

// Commands about a target, as bits.
namespace command {
inline constexpr unsigned look = 1;  // see whether it is complete or gone, or its leases are back
inline constexpr unsigned end = 2;   // end it now: what is missing reads as zeros
inline constexpr unsigned end_complete = 4;  // end it as soon as nothing is missing
inline constexpr unsigned discard = 8;       // end it: nobody can touch its memory any more
inline constexpr unsigned stop = 16;         // stop serving it, and keep its userfaultfd open
inline constexpr unsigned take_in = 32;      // a fork child: serve it as its parent
}  // namespace command

class Mailbox {
 public:
  // Ends a wait of the owner in which it does not poll fd().
  class Interrupt {
   public:
    virtual void interrupt() = 0;

   protected:
    ~Interrupt() = default;
  };

  // Sends commands about the target. False where the owner has ended.
  bool post(ServedTarget& served, unsigned commands) noexcept;
  // Runs the function on the owner's thread and returns when it has run; the function must not
  // throw. False where the owner has ended.
  bool call(const std::function<void()>& function);
  // Wakes the owner without a command. May be called in a signal handler. Does not end a wait of
  // the owner in read(2).
  void signal() noexcept { wake_.signal(); }
  void stop();

  // By the owner.
  int fd() const noexcept { return wake_.get(); }
  void set_interrupt(Interrupt* interrupt);
  // Runs the calls, and calls obey(target, commands) for each target with commands. False when the
  // owner is to end.
  template <typename Obey>
  bool take(Obey obey);
  // From now on post() and call() return false, and so do calls that wait.
  void close();

 private:
  struct Call {
    const std::function<void()>& function;
    bool over = false, ran = false;
  };

  void notify();
  void run_calls(std::unique_lock<std::mutex>& lock);

  WakeFd wake_;
  std::mutex mutex_;
  std::condition_variable called_;
  TargetQueue<&ServedTarget::in_mailbox> queue_;
  std::vector<Call*> calls_;  // on the stacks of those who wait
  Interrupt* interrupt_ = nullptr;
  bool stopping_ = false;
  bool closed_ = false;
};

template <typename Obey>
bool Mailbox::take(Obey obey) {
  wake_.drain();
  std::unique_lock lock(mutex_);
  while (!queue_.empty()) {
    const auto [served, commands] = queue_.pop();
    lock.unlock();
    obey(*served, commands);
    lock.lock();
  }
  run_calls(lock);  // these see what the commands before them did
  return !stopping_;
}

}  // namespace uffd
