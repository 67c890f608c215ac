// The loop of the thread that owns its targets: it waits for their messages and for commands, and
// serves each target in its turn; it alone decides when a target ends.
//
// A userfaultfd has one handler only: several would wake each other for nothing. The handler owns
// its charges, and its thread alone calls the private functions; other threads use the mailbox. On
// the path of a fault it takes no lock except a living target's event gate, and allocates nothing.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "engine/linux/thread.hpp"
#include "engine/serve/end/end_queue.hpp"
#include "engine/serve/handler/fault_server.hpp"
#include "engine/serve/handler/lookout.hpp"
#include "engine/serve/handler/message_wait.hpp"
#include "engine/serve/handler/nursery.hpp"
#include "engine/serve/handler/sole_reader.hpp"
#include "engine/serve/handler/turns.hpp"
#include "engine/serve/served/mailbox.hpp"

namespace uffd {

class Handler {
 public:
  // Throws SystemError where the thread cannot be started, or no descriptor is left.
  Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends, FillPool& fillers,
          FetchPool& fetchers, Wakefulness* keeper);
  ~Handler();  // no target may be in its charge any more

  // From any thread. The handler serves the target when this returns; throws SystemError where it
  // cannot, and then nothing has changed.
  void add(const std::shared_ptr<ServedTarget>& served);
  // From any thread: the targets that the handler serves.
  std::vector<std::shared_ptr<ServedTarget>> charges();  // some of them, where there are many

  const std::shared_ptr<Mailbox>& mailbox() const noexcept { return mailbox_; }
  const std::optional<Cpu>& cpu() const noexcept { return cpu_; }
  const std::shared_ptr<VigilNotes>& vigil_notes() noexcept { return wait_.vigil().notes(); }
  size_t targets() const noexcept { return targets_.load(std::memory_order_relaxed); }

 private:
  void run();
  // Waits for messages, commands, or a time; false when the thread is to end.
  bool await();
  uint64_t next_time() const noexcept;
  void take_turn(Charge& charge);
  void read_later(Charge& charge, ssize_t error);
  static void learn_cost(Charge& charge, uint64_t nanoseconds) noexcept;
  // Plans the target's next turn, if something of the target must be tried again.
  void plan_next_turn(Charge& charge);
  // Serves the only target, whose faults come one after another, until they cease for a while or
  // this thread is interrupted.
  bool is_alone() const noexcept;
  void serve_alone(Charge& charge);
  ssize_t await_messages();
  // The faults of a charge were resolved, at these times.
  void note_served(const Charge& charge, FaultServer::Times times) noexcept;

  // Begins to serve the target. 0 or -errno.
  enum class Watch { needed, or_timer };
  int take_charge(const std::shared_ptr<ServedTarget>& served, Watch watch) noexcept;
  void watch_again(Charge& charge) noexcept;
  void take_in(const std::shared_ptr<ServedTarget>& child) noexcept;

  bool take_commands();
  void obey(ServedTarget& served, unsigned commands);
  // Decides whether the target ends.
  void consider(Charge& charge);
  void decide(Charge& charge, EndReason reason);
  // Passes targets whose leases are back to the ender.
  void hand_over();

  const std::optional<Cpu> cpu_;
  EndQueue& ends_;
  FillPool& fillers_;
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::atomic<size_t> targets_{0};

  std::vector<std::unique_ptr<Charge>> charges_;
  size_t leaving_ = 0;  // of them, those whose ending is decided
  MessageWait wait_;
  Turns turns_;
  Nursery nursery_;
  FaultServer server_;
  Lookout lookout_;
  SoleReader* reader_ = nullptr;     // while the thread runs
  Charge* last_faulting_ = nullptr;  // the charge whose faults were served last
  uint64_t now_ = 0;                 // about, by CLOCK_MONOTONIC
  bool yields_ = false;              // before the next turns: a target's thread must run first

  std::thread thread_;  // last: it runs on all of the above
};

}  // namespace uffd
