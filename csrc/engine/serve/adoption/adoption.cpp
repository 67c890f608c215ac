#include "engine/serve/adoption/adoption.hpp"

#include <sys/sysinfo.h>

#include <algorithm>
#include <new>
#include <utility>

#include "engine/linux/affinity.hpp"

namespace uffd {
namespace {

// Sets the mask of the process's first thread to the mask that it has, to see whether that is
// permitted.
void check_permission(pid_t process, int cpu) {
  const auto mask = affinity_of(process);
  if (!mask) return;  // the process is about to end
  if (!CPU_ISSET(static_cast<size_t>(cpu), &*mask)) {
    throw std::invalid_argument("placement 'adopt' would bind the threads of process " +
                                std::to_string(process) + " to CPU " + std::to_string(cpu) +
                                ", which is not in the affinity mask of that process: run this "
                                "manager on CPUs of that mask (taskset), or give placement 'auto'");
  }
  if (set_affinity(process, *mask) == -EPERM) {
    throw UnsupportedError(EPERM,
                           "placement 'adopt' may not change the affinity of process " +
                               std::to_string(process) +
                               " of another user: grant CAP_SYS_NICE, or give placement 'auto'",
                           {"CAP_SYS_NICE"});
  }
}

}  // namespace

Adoption::Adoption(AdoptionLedger& ledger, pid_t process, Cpu cpu)
    : ledger_(ledger), process_(process), cpu_(cpu) {
  check_permission(process, cpu.number());
  known_.reserve(kMostKnown);
}

void Adoption::see(std::span<const uffd_msg> messages, uint64_t now) noexcept {
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    ++faults_;
    const uint32_t own_id = message.arg.pagefault.feat.ptid;
    if (own_id == last_seen_) continue;
    last_seen_ = own_id;
    try {
      meet(own_id);
    } catch (const std::bad_alloc&) {
      last_seen_ = 0;  // the thread is met again at its next fault
    }
  }
  review_when_due(now);
}

void Adoption::meet(uint32_t own_id) {
  if (ended_) return;
  auto known = std::find_if(known_.begin(), known_.end(),
                            [&](const Known& other) { return other.own_id == own_id; });
  if (known == known_.end()) {
    if (known_.size() == kMostKnown) return;
    const pid_t thread = thread_by_own_id(process_, static_cast<pid_t>(own_id));
    known_.push_back({own_id, thread, cpu_ns_of(thread).value_or(0), nullptr, false});
    known = std::prev(known_.end());
  }
  if (holding_ && !known->entry && !known->refused) hold(*known);
}

void Adoption::hold(Known& known) {
  if (known.thread == 0) return;
  known.entry = ledger_.hold(process_, known.thread, cpu_.number());
  known.refused = !known.entry;
  if (known.refused) return;
  adopted_.fetch_add(1, std::memory_order_relaxed);
  held_.fetch_add(1, std::memory_order_relaxed);
}

void Adoption::review_when_due(uint64_t now) noexcept {
  if (ended_ || now < review_at_) return;
  review_at_ = now + kReviewNs;
  try {
    review();
  } catch (const std::bad_alloc&) {
    // It is reviewed again in kReviewNs.
  }
}

void Adoption::review() {
  const uint64_t faults = std::exchange(faults_, 0);
  const bool pays_now = pays(faults);
  last_seen_ = 0;
  for (Known& known : known_) known.refused = false;
  if (faults == 0) return give_back_all();
  if (pays_now == holding_) return;
  holding_ = pays_now;
  if (holding_) return;  // each thread is held at its next fault
  give_back_all();
  releases_.fetch_add(1, std::memory_order_relaxed);
}

bool Adoption::pays(uint64_t faults) {
  std::erase_if(known_, [this](Known& known) { return is_gone(known); });
  uint64_t computed = 0, threads = 0;
  for (Known& known : known_) {
    const uint64_t cpu_ns = cpu_ns_of(known.thread).value_or(known.cpu_ns);
    const uint64_t spent = cpu_ns - std::exchange(known.cpu_ns, cpu_ns);
    computed += spent;
    threads += spent > 0;
  }
  const auto cpus = static_cast<uint64_t>(std::max(::get_nprocs(), 1));
  const uint64_t abreast = std::min(threads, cpus);
  if (abreast <= 1) return true;
  const uint64_t lost = computed / abreast * (abreast - 1);
  const uint64_t saved = faults * kWakeUpsNs / threads;
  return lost <= (holding_ ? saved : saved / 2);
}

// The thread's id may belong to another thread by now.
bool Adoption::is_gone(Known& known) {
  const uint64_t started = start_ticks(known.thread);
  if (started != 0 && (!known.entry || started == known.entry->started)) return false;
  if (known.entry) {
    ledger_.give_back({&known.entry, 1});
    held_.fetch_sub(1, std::memory_order_relaxed);
  }
  return true;
}

void Adoption::let_go() {
  ended_ = true;
  holding_ = false;
  give_back_all();
}

void Adoption::give_back_all() {
  std::vector<AdoptionLedger::Entry*> entries;
  entries.reserve(known_.size());
  for (Known& known : known_) {
    if (known.entry) entries.push_back(std::exchange(known.entry, nullptr));
  }
  ledger_.give_back(entries);
  held_.store(0, std::memory_order_relaxed);
}

}  // namespace uffd
