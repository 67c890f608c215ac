#include "engine/serve/handler/handler.hpp"

#include <algorithm>
#include <chrono>

#include "engine/linux/time_slice.hpp"
#include "engine/serve/handler/watchdog.hpp"

namespace uffd {
namespace {

// A handler runs for microseconds at a time, and a toucher sleeps until it has run.
constexpr std::chrono::microseconds kFaultTimeSlice{100};

// How long a turn of a target is to take where other targets may wait for theirs. A fault takes the
// longer the more threads of its target sleep: each wake-up walks through all of them.
constexpr uint64_t kTurnNs = 40'000;

bool lacks_descriptor(ssize_t result) noexcept {
  return result == -EMFILE || result == -ENFILE || result == -ENOMEM;
}

}  // namespace

Handler::Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends, FillPool& fillers,
                 FetchPool& fetchers, Wakefulness* keeper)
    : cpu_(cpu),
      ends_(ends),
      fillers_(fillers),
      wait_(mailbox_->fd(), keeper),
      server_(fillers, fetchers, [this](ServedTarget& parent, Userfaultfd child) {
        nursery_.add(parent, std::move(child));
      }) {
  thread_ = start_thread(name, cpu, [this] { run(); });
}

Handler::~Handler() {
  mailbox_->stop();
  thread_.join();
}

void Handler::add(const std::shared_ptr<ServedTarget>& served) {
  int error = -ESHUTDOWN;
  mailbox_->call([&] { error = take_charge(served, Watch::needed); });
  if (error == 0) return;
  throw SystemError(-error, error == -ENOSPC
                                ? "the handler cannot watch the userfaultfd: raise the sysctl "
                                  "fs.epoll.max_user_watches"
                                : "the handler cannot watch the userfaultfd");
}

std::vector<std::shared_ptr<ServedTarget>> Handler::charges() {
  std::vector<std::shared_ptr<ServedTarget>> some;
  some.reserve(targets() + 1);
  mailbox_->call([&] {
    for (const auto& charge : charges_) {
      if (some.size() < some.capacity()) some.push_back(charge->served);
    }
  });
  return some;
}

void Handler::run() {
  ask_for_time_slices(kFaultTimeSlice);
  SoleReader reader(*mailbox_);
  reader_ = &reader;
  while (await()) {
    for (size_t left = turns_.ready(); left > 0; --left) take_turn(turns_.next());
    if (last_faulting_ && is_alone()) serve_alone(*last_faulting_);
    if (leaving_ > 0) hand_over();
  }
  mailbox_->close();
}

bool Handler::await() {
  if (std::exchange(yields_, false)) ::sched_yield();
  const bool spins = last_faulting_ != nullptr;
  const uint64_t until = turns_.any_again() ? 0 : next_time();
  const bool asked = wait_.wait(
      until <= now_ ? 0 : until - now_, spins,
      [this](Charge& charge) { turns_.make_ready(charge); },
      [](Charge& charge) {
        if (watchdog::is_gone(*charge.served)) charge.served->tell_gone();
      });
  now_ = sys::monotonic_ns();
  turns_.make_due_ready(now_);
  turns_.resume();  // behind those that have just become ready
  if (turns_.ready() == 0) last_faulting_ = nullptr;
  if (now_ >= lookout_.next_look()) lookout_.look(charges_, now_);
  return !asked || take_commands();
}

uint64_t Handler::next_time() const noexcept {
  return std::min(turns_.next_due(), lookout_.next_look());
}

void Handler::take_turn(Charge& charge) {
  if (charge.unwatched) watch_again(charge);
  const bool is_only = charges_.size() == 1;
  const size_t most =
      is_only ? Batch::kMost : std::clamp<size_t>(kTurnNs / charge.fault_ns, 1, Batch::kMost);
  const ssize_t count = server_.read(charge, most);
  for (const auto& child : nursery_.born()) take_in(child);
  nursery_.clear();
  if (!charge.pending.empty()) server_.try_again(charge);
  charge.unread = false;
  if (count > 0) {
    const auto times = server_.serve(charge, static_cast<size_t>(count));
    now_ = times.done_at;
    note_served(charge, times);
    last_faulting_ = &charge;
    if (charge.served->adoption) lookout_.expect_review(now_);
    if (!is_only)
      learn_cost(charge, (times.done_at - times.read_at) / static_cast<uint64_t>(count));
    if (static_cast<size_t>(count) == most) turns_.make_ready_again(charge);
  } else if (count != -EAGAIN) {
    read_later(charge, count);
  }
  plan_next_turn(charge);
  consider(charge);
}

void Handler::learn_cost(Charge& charge, uint64_t nanoseconds) noexcept {
  charge.fault_ns += nanoseconds / 8 - charge.fault_ns / 8;
  charge.fault_ns = std::max<uint64_t>(charge.fault_ns, 100);
}

// For messages that are queued and cannot be read now.
void Handler::read_later(Charge& charge, ssize_t error) {
  if (lacks_descriptor(error) && nursery_.make_room(charges_))
    return turns_.make_ready_again(charge);
  charge.unread = lacks_descriptor(error) || error == -EBUSY || error == -EINTR;
}

void Handler::plan_next_turn(Charge& charge) {
  if (charge.pending.empty() && !charge.unread && !charge.unwatched) return charge.patience.renew();
  if (charge.patience.at_once() && !charge.unwatched) {
    yields_ = true;
    return turns_.make_ready_again(charge);
  }
  const std::chrono::nanoseconds pause = charge.patience.pause();
  turns_.set_due(charge, sys::monotonic_ns() + static_cast<uint64_t>(pause.count()));
}

bool Handler::is_alone() const noexcept {
  return charges_.size() == 1 && leaving_ == 0 && !charges_.front()->served->living &&
         turns_.next_due() == UINT64_MAX && !turns_.any_again();
}

void Handler::serve_alone(Charge& charge) {
  if (!reader_->enter(charge.served->target.uffd())) return;
  wait_.remove(charge);
  bool busy = false;
  while (charge.pending.empty() && leaving_ == 0 && !reader_->interrupted()) {
    const ssize_t count = await_messages();
    if (count > 0) {
      const auto times = server_.serve(charge, static_cast<size_t>(count));
      const uint64_t now = times.done_at;
      note_served(charge, times);
      consider(charge);
      busy = true;
      if (charge.served->adoption) lookout_.expect_review(now);
      if (now >= lookout_.next_look()) lookout_.look(charges_, now);
    } else if (count != -EINTR || !std::exchange(busy, false)) {
      break;
    }
  }
  reader_->leave();
  last_faulting_ = nullptr;
  watch_again(charge);
  plan_next_turn(charge);
}

ssize_t Handler::await_messages() {
  const auto messages = server_.messages();
  if (!Userfaultfd::may_look()) {
    wait_.vigil().sleeps();
    return reader_->read(messages);
  }
  const ssize_t count = wait_.vigil().watch([&]() -> ssize_t {
    const ssize_t found = reader_->try_read(messages);
    return found == -EAGAIN ? 0 : found;
  });
  return count > 0 ? count : reader_->read(messages);
}

void Handler::note_served(const Charge& charge, FaultServer::Times times) noexcept {
  wait_.vigil().served(times.read_at, times.done_at, [&] {
    const Target& target = charge.served->target;
    const bool known = (target.uffd().features() & UFFD_FEATURE_THREAD_ID) != 0;
    const uffd_msg& message = server_.messages().front();
    return FaultingThread{target.pid(), known ? message.arg.pagefault.feat.ptid : 0,
                          ::sched_getcpu()};
  });
}

int Handler::take_charge(const std::shared_ptr<ServedTarget>& served, Watch watch) noexcept {
  try {
    turns_.reserve(charges_.size() + 1);
    charges_.push_back(std::make_unique<Charge>(served));
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
  Charge& charge = *charges_.back();
  const int error = wait_.add(charge);
  if (error < 0 && watch == Watch::needed) {
    charges_.pop_back();
    return error;
  }
  charge.unwatched = error < 0;
  if (charge.unwatched) plan_next_turn(charge);
  wait_.add_process(charge);
  served->charge = &charge;
  targets_.fetch_add(1, std::memory_order_relaxed);
  consider(charge);
  return 0;
}

// Where epoll has no watch left (fs.epoll.max_user_watches) or memory is short, the target is read
// on a timer.
void Handler::watch_again(Charge& charge) noexcept {
  charge.unwatched = wait_.add(charge) < 0;
}

// Takes a fork child in charge. Where that fails, the child's userfaultfd stays open and nobody
// serves it: what it misses must not turn into zeros.
void Handler::take_in(const std::shared_ptr<ServedTarget>& child) noexcept {
  if (take_charge(child, Watch::or_timer) < 0) {
    child->target.uffd().leave_open();
    child->life.finish(Stage::stopped, std::nullopt);
    return;
  }
  const auto parent = child->parent.lock();
  if (child->unserved) {
    fillers_.start(*child, FillJob::Kind::poison);
  } else if (parent && parent->filling) {
    fillers_.start(*child, FillJob::Kind::install);
  }
}

bool Handler::take_commands() {
  nursery_.regain();
  reader_->resume();
  const bool goes_on =
      mailbox_->take([this](ServedTarget& served, unsigned commands) { obey(served, commands); });
  // Signal handlers that resolve faults inline wake this thread without a command.
  for (const auto& charge : charges_) {
    if (charge->served->inline_faults) consider(*charge);
  }
  return goes_on;
}

void Handler::obey(ServedTarget& served, unsigned commands) {
  if (commands & command::take_in) take_in(served.shared_from_this());
  if (!served.charge) return;
  Charge& charge = *served.charge;
  if (commands & command::end_complete) charge.end_when_complete = true;
  if (commands & command::discard) decide(charge, EndReason::discarded);
  if (commands & command::stop) decide(charge, EndReason::stopped);
  if (commands & command::end) decide(charge, EndReason::asked);
  consider(charge);
}

void Handler::consider(Charge& charge) {
  ServedTarget& served = *charge.served;
  if (served.gone.load(std::memory_order_relaxed)) return decide(charge, EndReason::gone);
  if (!served.complete() || !served.target.registered()) return;
  if (served.unserved) return decide(charge, EndReason::unserved);
  if (!served.endless() || charge.end_when_complete) return decide(charge, EndReason::complete);
  if (std::exchange(charge.told_complete, true)) return;
  ends_.push(served, EndQueue::kComplete);
}

void Handler::decide(Charge& charge, EndReason reason) {
  if (charge.served->life.stage() != Stage::serving) return;
  charge.served->life.decide(reason);
  charge.served->leases.revoke();
  ++leaving_;
}

void Handler::hand_over() {
  for (size_t i = charges_.size(); i-- > 0;) {
    Charge& charge = *charges_[i];
    ServedTarget& served = *charge.served;
    if (served.life.stage() != Stage::leaving || !served.leases.revoked_and_back()) continue;
    wait_.remove_all_of(charge);
    turns_.forget(charge);
    if (last_faulting_ == &charge) last_faulting_ = nullptr;
    served.charge = nullptr;
    served.life.hand_over();
    ends_.push(served, EndQueue::kEnd);
    charges_.erase(charges_.begin() + static_cast<ptrdiff_t>(i));
    targets_.fetch_sub(1, std::memory_order_relaxed);
    --leaving_;
  }
}

}  // namespace uffd
