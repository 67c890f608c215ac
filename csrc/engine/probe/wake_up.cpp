#include "engine/probe/wake_up.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "engine/linux/affinity.hpp"
#include "engine/linux/futex.hpp"
#include "engine/linux/thread.hpp"

namespace uffd {
namespace {

constexpr uint32_t kTurns = 400;
// After a request to /dev/cpu_dma_latency the haltpoll governor polls before each halt for up to
// 250 us (cpuidle_poll_time() of the kernel); each halt that lasts longer halves that.
constexpr int kSettlingSleeps = 24;

std::optional<std::pair<Cpu, Cpu>> two_cpus() {
  const auto mask = affinity_of(0);
  std::vector<Cpu> cpus;
  for (int cpu = 0; mask && cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &*mask)) cpus.emplace_back(cpu);
  }
  if (cpus.size() < 2) return std::nullopt;
  return std::pair(cpus[0], cpus[1]);
}

// The turn's number is the word that both wait for; even turns are one thread's, odd ones the
// other's.
class Table {
 public:
  void play(uint32_t parity, Idle idle) {
    for (int i = 0; idle == Idle::halts && i < kSettlingSleeps; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (uint32_t turn = parity; turn < kTurns; turn += 2) {
      for (uint32_t now; (now = turn_.load()) < turn;) futex::wait(turn_, now);
      if (turn_.load() > turn) return;
      if (turn > 0) took_[turn] = sys::monotonic_ns() - passed_at_;
      passed_at_ = sys::monotonic_ns();
      pass(turn + 1);
    }
  }
  // One of the two will not play.
  void end() { pass(kTurns); }

  // Once both have played.
  std::optional<uint64_t> median() {
    const auto end = std::remove(took_.begin(), took_.end(), 0);
    if (end == took_.begin()) return std::nullopt;
    const auto middle = took_.begin() + (end - took_.begin()) / 2;
    std::nth_element(took_.begin(), middle, end);
    return *middle;
  }

 private:
  void pass(uint32_t turn) {
    turn_.store(turn);
    futex::wake(turn_);
  }

  std::atomic<uint32_t> turn_{0};
  uint64_t passed_at_ = 0;  // whose turn it is writes it
  std::array<uint64_t, kTurns> took_{};
};

}  // namespace

std::optional<uint64_t> wake_up_ns(Idle idle) {
  const auto cpus = two_cpus();
  if (!cpus) return std::nullopt;
  Table table;
  try {
    std::thread one = start_thread("uffd-wake-0", cpus->first, [&] { table.play(0, idle); });
    std::thread other;
    try {
      other = start_thread("uffd-wake-1", cpus->second, [&] { table.play(1, idle); });
    } catch (const SystemError&) {
      table.end();
      one.join();
      return std::nullopt;
    }
    one.join();
    other.join();
  } catch (const SystemError&) {
    return std::nullopt;
  }
  return table.median();
}

}  // namespace uffd
