#include "engine/serve/end/ender.hpp"

#include <algorithm>
#include <new>

#include "engine/linux/huge_pages.hpp"
#include "engine/linux/thread.hpp"
#include "engine/serve/adoption/adoption.hpp"
#include "engine/serve/end/drain.hpp"
#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/inline/inline_targets.hpp"
#include "engine/serve/served/journal.hpp"
#include "engine/serve/served/local_memory.hpp"
#include "engine/serve/served/patience.hpp"
#include "engine/serve/served/statistics.hpp"

namespace uffd {
namespace {

// A child that is just being forked holds every userfaultfd of this process until it has closed
// them, or exec has: a target that is not released yet is looked at again for so long.
constexpr uint64_t kForkWindowNs = 100'000'000;

uint64_t bytes_of(const std::vector<Range>& ranges) noexcept {
  uint64_t bytes = 0;
  for (const Range& range : ranges) bytes += range.length;
  return bytes;
}

void forget_local_memory(ServedTarget& served) {
  std::shared_ptr<LocalMemory> last;
  const std::lock_guard lock(served.mutex);
  last.swap(served.local_memory);
}

// For an endless target that is complete: sources may lie in its memory, and fork children may have
// it. But with the feature EVENT_FORK the hole stays until the ending: no FORK event of this
// process may be sent, since fork() would hold all locks of the engine and wait for a handler,
// which may need one of them.
void release_complete(ServedTarget& served) {
  served.completion.tell(name(Ending::keep_open), bytes_of(served.target.poisoned()));
  if (served.fork_hole && !(served.target.uffd().features() & UFFD_FEATURE_EVENT_FORK))
    served.fork_hole->lift();
  forget_local_memory(served);
}

uint64_t collapse_all(const ServedTarget& served) {
  uint64_t bytes = 0;
  for (const Region& region : served.target.regions().all())
    bytes += collapse(served.process.get(), region.range);
  return bytes;
}

std::shared_ptr<const EndingReport> copy_for_journal(const EndingReport& report) noexcept {
  try {
    return journal().is_open() ? std::make_shared<const EndingReport>(report) : nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void finish(ServedTarget& served, EndingReport report) {
  const uint64_t missing = report.missing_pages;
  auto copy = copy_for_journal(report);
  if (missing == 0 && !served.gone)
    served.completion.tell(name(report.ending), bytes_of(report.poisoned));
  served.completion.hang_up();
  served.life.finish(Stage::ended, std::move(report));
  journal().write({.news = News::ended,
                   .target = served.target.id(),
                   .count = missing,
                   .report = std::move(copy)});
}

Choice choose(const ServedTarget& served) {
  if (served.inline_faults) {
    return {Ending::unregister, "served inline: a fault that met an early close would be a SIGBUS"};
  }
  const Ending asked = served.settings.ending;
  return choose_ending(asked == Ending::keep_open ? Ending::automatic : asked, served.target);
}

}  // namespace

Ender::Ender(EndQueue& ends, FetchPool& fetchers) : ends_(ends), fetchers_(fetchers) {
  thread_ = start_thread("uffd-ender", std::nullopt, [this] { run(); });
}

Ender::~Ender() {
  ends_.shut();
  thread_.join();
}

void Ender::run() {
  for (;;) {
    const auto [served, asked] = ends_.pop();
    if (!served) return;
    if (asked & EndQueue::kEnd) {
      end_in_time(*served);
    } else {
      release_complete(*served);
      served->released = true;
      served->life.notify();
    }
  }
}

// Memory may be short: what is not done yet is tried again, and what is done is told in few words.
void Ender::end_in_time(ServedTarget& served) {
  for (;;) {
    try {
      return end(served);
    } catch (const std::bad_alloc&) {
      if (served.target.uffd().fd() < 0) return finish(served, EndingReport{});
      ends_.pause(Patience::kLongest);
    }
  }
}

void Ender::end(ServedTarget& served) {
  fetchers_.forget(served);
  if (served.adoption) served.adoption->let_go();
  served.awake.reset();
  switch (served.life.reason()) {
    case EndReason::complete:
    case EndReason::asked:
      return let_go_of(served, std::nullopt, served.settings.verify);
    case EndReason::discarded:
      return let_go_of(served, Choice{Ending::early_close, "discarded"}, false);
    case EndReason::gone:
      return let_go_of(served, Choice{Ending::early_close, "the target's address space is gone"},
                       false);
    case EndReason::unserved:
      return let_go_of(served,
                       Choice{Ending::early_close,
                              "no descriptor was left for this fork child (raise RLIMIT_NOFILE): "
                              "what it missed is poisoned"},
                       false);
    case EndReason::stopped:
      served.let_guard_go();
      served.completion.hang_up();
      if (served.inline_faults) inline_targets::remove(served);
      forget_local_memory(served);
      if (served.fork_hole && !served.complete()) served.fork_hole->leave();
      return served.life.finish(Stage::stopped, std::nullopt);
  }
}

void Ender::let_go_of(ServedTarget& served, std::optional<Choice> given, bool look) {
  if (served.living && !served.gone) drain(served);
  // Before the choice: an early close is for the last holder.
  served.let_guard_go();
  Choice choice = given ? *given : choose(served);
  if (served.inline_faults) choice.before_close = [&served] { inline_targets::remove(served); };
  const uint64_t missing = served.target.residency().missing();
  // A look at smaps afterwards says nothing where smaps showed nothing before: the pid may be of
  // another process, say.
  look = look && is_registered(served.target);
  EndingReport report = let_go(served.target, choice);
  if (served.fork_hole) served.fork_hole->lift();
  forget_local_memory(served);
  report.missing_pages = missing;
  report.absent_pages = count(served, Count::enoent);
  report.found_present = count(served, Count::found_present);
  report.trusted_pagemap = served.settings.trusts_pagemap;
  report.poisoned = served.target.poisoned();
  if (look) report.verified = verify(served.target);
  if (served.settings.collapse) report.collapsed_bytes = collapse_all(served);
  served.process.close();
  served.target.let_go_of_what_regions_hold();
  finish(served, std::move(report));
}

std::optional<bool> Ender::verify(const Target& target) {
  const uint64_t give_up = sys::monotonic_ns() + kForkWindowNs;
  for (;;) {
    const std::optional<bool> released = verify_released(target);
    if (released != false || sys::monotonic_ns() > give_up) return released;
    ends_.pause(std::chrono::milliseconds(1));
  }
}

}  // namespace uffd
