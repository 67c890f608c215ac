#include "guard/keeper.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

namespace uffd::guard {
namespace {

constexpr int kLookEveryMs = 1000;
constexpr uint64_t kNsInSecond = 1'000'000'000;
constexpr time_t kAnswerSeconds = 60;  // that the next manager may take

// One line on standard error, which is the manager's; none where its reader would be waited for.
template <typename... Values>
void say(const char* format, Values... values) noexcept {
  std::array<char, 256> line;
  const int length = std::snprintf(line.data(), line.size(), format, values...);
  pollfd reader{STDERR_FILENO, POLLOUT, 0};
  if (length > 0 && ::poll(&reader, 1, 0) > 0)
    (void)!::write(STDERR_FILENO, line.data(), std::min<size_t>(static_cast<size_t>(length), 255));
}

// Whoever has the targets may write their memory.
bool is_permitted(int peer) noexcept {
  ucred who{};
  socklen_t length = sizeof who;
  if (::getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) return false;
  return who.uid == 0 || who.uid == ::geteuid();
}

// Memory that is there when it is touched. Never given back.
template <typename Item>
Item* reserve(size_t count) {
  void* const memory = ::mmap(nullptr, count * sizeof(Item), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) ::_exit(1);
  return static_cast<Item*>(memory);
}

}  // namespace

Keeper::Keeper() : targets_(reserve<KeptTarget>(kMost)), waited_(reserve<pollfd>(kMost + 1)) {}

void Keeper::run(pid_t manager) {
  manager_ = manager;
  std::array<pollfd, 2> waited{{{kGuardSocket, POLLIN, 0}, {kGuardManager, POLLIN, 0}}};
  for (;;) {
    if (::poll(waited.data(), waited.size(), -1) < 0) continue;
    if (waited[1].revents) break;
    if (waited[0].revents && !take_message()) break;
  }
  take_what_is_queued();
  await_first();
  settle_all();
  adopted_.give_masks_back();
  serve_the_rest();
}

bool Keeper::take_message() noexcept {
  auto received = receive_packet<GuardMessage>(kGuardSocket, MSG_DONTWAIT);
  if (received.bytes < 0) return received.bytes == -EAGAIN || received.bytes == -EINTR;
  if (received.bytes == 0) return false;
  if (received.packet.kind == GuardMessage::Kind::keep) {
    keep(received);
  } else if (received.packet.kind == GuardMessage::Kind::listen) {
    listener_ = std::move(received.descriptors[0]);
    listens_for_ = received.packet.target;
  } else if (received.packet.kind == GuardMessage::Kind::stand_in) {
    first_ = std::move(received.descriptors[0]);
  } else if (received.packet.kind == GuardMessage::Kind::keep_masks) {
    if (!adopted_.keep(received.packet.target, std::move(received.descriptors[0])))
      say("pyuffd-guard: process %d has too many managers: some threads stay on one CPU if it is "
          "killed\n",
          static_cast<int>(manager_));
  } else if (received.packet.kind == GuardMessage::Kind::forget_masks) {
    adopted_.forget(received.packet.target);
  } else if (received.packet.kind == GuardMessage::Kind::let_go) {
    let_go(received.packet.target);
  }
  return true;
}

// A target is sent again where the manager does not know whether a guard has it.
void Keeper::keep(Received<GuardMessage>& received) noexcept {
  auto& [uffd, ledger, completion] = received.descriptors;
  const uint64_t id = received.packet.target;
  const auto is_same = [id](const KeptTarget& target) { return target.id() == id; };
  if (std::ranges::any_of(kept(), is_same)) return;
  if (!uffd || !ledger || count_ == kMost) {
    say("pyuffd-guard: target %llu of process %d is not guarded: no descriptor or place is left\n",
        static_cast<unsigned long long>(id), static_cast<int>(manager_));
    return;
  }
  std::construct_at(&targets_[count_], received.packet, std::move(uffd), std::move(ledger),
                    std::move(completion));
  ++count_;
}

void Keeper::let_go(uint64_t id) noexcept {
  for (size_t i = 0; i < count_; ++i) {
    if (targets_[i].id() == id) remove(i);
  }
  send_packet(kGuardSocket, GuardMessage{.kind = GuardMessage::Kind::let_gone, .target = id}, {},
              MSG_DONTWAIT);
}

void Keeper::remove(size_t index) noexcept {
  std::swap(targets_[index], targets_[--count_]);
  std::destroy_at(&targets_[count_]);
}

// What the manager sent before it died.
void Keeper::take_what_is_queued() noexcept {
  pollfd waited{kGuardSocket, POLLIN, 0};
  while (::poll(&waited, 1, 0) > 0 && (waited.revents & POLLIN) && take_message()) {
  }
}

// What the first guard has done is seen in the ledgers: it poisoned, or the targets have another
// owner. What it still holds on to when it ends is this one's.
void Keeper::await_first() noexcept {
  pollfd waited{first_.get(), POLLIN, 0};
  while (first_ && ::poll(&waited, 1, kLookEveryMs) <= 0) {
    forget_what_others_own();
    if (count_ == 0) return;
  }
}

void Keeper::forget_what_others_own() noexcept {
  for (size_t i = count_; i-- > 0;) {
    if (!targets_[i].is_ours()) remove(i);
  }
}

void Keeper::settle_all() noexcept {
  forget_what_others_own();
  for (size_t i = count_; i-- > 0;) {
    if (targets_[i].after() == AfterDeath::hand_over && listener_) continue;
    Poisoning poisoning(targets_[i]);
    const Result result = poisoning.run();
    tell(targets_[i], poisoning, result);
    if (result != Result::done && result != Result::gone) continue;
    targets_[i].disown();
    remove(i);
  }
}

// Targets that must be held on to, or handed over.
void Keeper::serve_the_rest() noexcept {
  const uint64_t until =
      listens_for_ ? sys::monotonic_ns() + listens_for_ * kNsInSecond : UINT64_MAX;
  while (count_ > 0) {
    for (size_t i = 0; i < count_; ++i) {
      const bool waits = targets_[i].after() == AfterDeath::hand_over && listener_;
      waited_[i] = {waits ? -1 : targets_[i].uffd(), POLLIN, 0};
    }
    waited_[count_] = {listener_.get(), POLLIN, 0};
    ::poll(waited_, count_ + 1, kLookEveryMs);
    if (waited_[count_].revents) hand_over();
    if (listener_ && sys::monotonic_ns() >= until) give_up();
    forget_what_others_own();
    for (size_t i = count_; i-- > 0;) serve(i);
  }
}

void Keeper::serve(size_t index) noexcept {
  KeptTarget& target = targets_[index];
  const bool waits = target.after() == AfterDeath::hand_over && listener_;
  if (!waits) Poisoning(target).serve();
  if (target.is_gone()) remove(index);
}

void Keeper::hand_over() noexcept {
  const Fd peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!peer || !is_permitted(peer.get())) return;
  const timeval limit{kAnswerSeconds, 0};
  for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO})
    ::setsockopt(peer.get(), SOL_SOCKET, option, &limit, sizeof limit);
  for (const KeptTarget& target : kept()) {
    if (target.after() != AfterDeath::hand_over) continue;
    const std::array<int, 3> all{target.uffd(), target.memory(), target.completion()};
    const std::span<const int> descriptors(all.data(), target.completion() < 0 ? 2 : 3);
    const GuardMessage message{.kind = GuardMessage::Kind::heirloom, .target = target.id()};
    if (send_packet(peer.get(), message, descriptors) != 0) return;
  }
  if (send_packet(peer.get(), GuardMessage{.kind = GuardMessage::Kind::all}, {}) != 0) return;
  const auto answer = receive_packet<GuardMessage>(peer.get());  // or the end of its process
  if (answer.bytes > 0 && answer.packet.kind == GuardMessage::Kind::give_up) {
    give_up();
  }
  // What it owns by now is let go of before the connection is closed, which it waits for.
  forget_what_others_own();
}

void Keeper::give_up() noexcept {
  listener_.close();
  settle_all();
}

void Keeper::tell(const KeptTarget& target, const Poisoning& poisoning,
                  Result result) const noexcept {
  if (poisoning.lost_children() > 0) {
    say("pyuffd-guard: process %d died as target %llu forked: what %u fork children miss may read "
        "as "
        "zeros\n",
        static_cast<int>(manager_), static_cast<unsigned long long>(target.id()),
        poisoning.lost_children());
  }
  const char* what = "";
  switch (result) {
    case Result::done:
      if (poisoning.poisoned() == 0) return;
      what = "a touch of one is a SIGBUS";
      break;
    case Result::on_touch:
      what = "more may be missing, and is poisoned when it is touched";
      break;
    case Result::unable:
      what = "this kernel cannot poison the rest (Linux 6.6): threads that touch it sleep";
      break;
    case Result::gone:
      return;
  }
  say("pyuffd-guard: process %d died while it served target %llu (process %d): %llu missing pages "
      "are poisoned; %s\n",
      static_cast<int>(manager_), static_cast<unsigned long long>(target.id()),
      target.ledger() ? target.ledger()->pid : -1,
      static_cast<unsigned long long>(poisoning.poisoned()), what);
}

}  // namespace uffd::guard
