#include "engine/guard/adoption_ledger.hpp"

#include <algorithm>
#include <vector>

#include "engine/linux/affinity.hpp"

namespace uffd {
namespace {

Fd make_memory(size_t length) {
  Fd memory(or_throw(::memfd_create("pyuffd-masks", MFD_CLOEXEC), "memfd_create"));
  or_throw(::ftruncate(memory.get(), static_cast<off_t>(length)), "ftruncate of the ledger");
  return memory;
}

bool have_same_heirs(const AdoptionLedger::Entry& a, const AdoptionLedger::Entry& b) noexcept {
  return a.process == b.process && a.cpu == b.cpu && CPU_EQUAL(&a.mask, &b.mask);
}

// A handler, which is held to a CPU for good.
bool is_ours(pid_t process, pid_t thread) {
  return process == ::getpid() && name_of(thread).starts_with("uffd-");
}

}  // namespace

AdoptionLedger::AdoptionLedger() : AdoptionLedger(make_memory(sizeof(Table))) {}

AdoptionLedger::AdoptionLedger(Fd memory) : memory_(std::move(memory)) {
  void* const mapped =
      ::mmap(nullptr, sizeof(Table), PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap of the ledger");
  table_ = static_cast<Table*>(mapped);
}

AdoptionLedger::~AdoptionLedger() {
  ::munmap(table_, sizeof(Table));
}

// Noted before it is done, so that no moment is left in which a crash would lose it.
AdoptionLedger::Entry* AdoptionLedger::hold(pid_t process, pid_t thread, int cpu) {
  auto mask = affinity_of(thread);
  const uint64_t started = start_ticks(thread);
  if (!mask || started == 0 || !CPU_ISSET(static_cast<size_t>(cpu), &*mask)) return nullptr;
  if (const auto due = mask_due_to(process, thread, started, *mask)) {
    mask = due;
  } else {
    // Looked up again: if an entry of this thread was given back since, the thread had its own mask
    // again before that entry became unused.
    mask = affinity_of(thread).value_or(*mask);
  }
  const auto unused = std::find_if(table_->begin(), table_->end(), [](Entry& entry) {
    uint32_t expected = Entry::unused;
    return entry.state.compare_exchange_strong(expected, Entry::reserved);
  });
  if (unused == table_->end()) return nullptr;
  Entry& entry = *unused;
  entry.cpu = cpu;
  entry.process = process;
  entry.thread = thread;
  entry.started = started;
  entry.adopted_at = ticks_now();
  entry.mask = *mask;
  entry.state.store(Entry::held, std::memory_order_release);
  if (set_affinity(thread, only_cpu(cpu)) == 0) return &entry;
  entry.state.store(Entry::unused, std::memory_order_release);
  return nullptr;
}

// Heirs (threads that inherited a mask) get theirs back after the threads that they inherited from,
// and before the entries become unused.
void AdoptionLedger::give_back(std::span<Entry* const> entries) {
  for (Entry* entry : entries) entry->state.store(Entry::leaving, std::memory_order_release);
  for (const Entry* entry : entries) {
    if (start_ticks(entry->thread) == entry->started && !held_besides(*entry))
      restore(entry->thread, *entry);
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto of_same_kind = [&](const Entry* other) {
      return have_same_heirs(*other, *entries[i]);
    };
    const auto earlier = entries.first(i);
    if (std::any_of(earlier.begin(), earlier.end(), of_same_kind)) continue;
    uint64_t since = entries[i]->adopted_at;
    for (const Entry* other : entries.subspan(i)) {
      if (of_same_kind(other)) since = std::min(since, other->adopted_at);
    }
    free_heirs(*entries[i], since);
  }
  for (Entry* entry : entries) entry->state.store(Entry::unused, std::memory_order_release);
}

void AdoptionLedger::give_back_all() {
  std::vector<Entry*> all;
  for (Entry& entry : *table_) {
    if (entry.tells()) all.push_back(&entry);
  }
  give_back(all);
}

// Repeats, since a thread that still has the changed mask may start another one meanwhile.
void AdoptionLedger::free_heirs(const Entry& entry, uint64_t since) {
  constexpr int most_passes = 8;
  const auto free_those_of = [&](pid_t process) {
    bool any = false;
    for (const pid_t thread : threads_of(process)) {
      if (start_ticks(thread) < since || holds(thread) || is_ours(process, thread)) continue;
      any = restore(thread, entry) || any;
    }
    return any;
  };
  for (int passes = 0; passes < most_passes; ++passes) {
    bool any = free_those_of(entry.process);
    for (const pid_t child : descendants_of(entry.process)) any = free_those_of(child) || any;
    if (!any) return;
  }
}

// Leaves a mask alone that was changed since: by the thread's own process, or by another manager
// that gave it back.
bool AdoptionLedger::restore(pid_t thread, const Entry& entry) noexcept {
  const cpu_set_t held = only_cpu(entry.cpu);
  const auto mask = affinity_of(thread);
  if (!mask || !CPU_EQUAL(&*mask, &held) || CPU_EQUAL(&entry.mask, &held)) return false;
  return set_affinity(thread, entry.mask) == 0;
}

std::optional<cpu_set_t> AdoptionLedger::mask_due_to(pid_t process, pid_t thread, uint64_t started,
                                                     const cpu_set_t& mask) const {
  const auto descends_from = [process](pid_t other) {
    if (process == other) return true;
    const std::vector<pid_t> descendants = descendants_of(other);
    return std::find(descendants.begin(), descendants.end(), process) != descendants.end();
  };
  std::optional<cpu_set_t> inherited_instead;
  for (const Entry& entry : *table_) {
    if (!entry.tells()) continue;
    if (entry.thread == thread && entry.started == started) return entry.mask;
    const cpu_set_t inherited = only_cpu(entry.cpu);
    if (!inherited_instead && CPU_EQUAL(&mask, &inherited) && started >= entry.adopted_at &&
        descends_from(entry.process))
      inherited_instead = entry.mask;
  }
  return inherited_instead;
}

bool AdoptionLedger::held_besides(const Entry& entry) const noexcept {
  return std::any_of(table_->begin(), table_->end(), [&](const Entry& other) {
    return other.state.load(std::memory_order_acquire) == Entry::held &&
           other.thread == entry.thread && other.started == entry.started;
  });
}

bool AdoptionLedger::holds(pid_t thread) const noexcept {
  return std::any_of(table_->begin(), table_->end(),
                     [&](const Entry& entry) { return entry.tells() && entry.thread == thread; });
}

}  // namespace uffd
