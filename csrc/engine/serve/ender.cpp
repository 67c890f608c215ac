#include "engine/serve/ender.hpp"

#include <algorithm>
#include <array>

#include "engine/linux/huge_pages.hpp"
#include "engine/serve/events.hpp"

namespace uffd {
namespace {

// A child that is just being forked holds every userfaultfd of this process until it has closed
// them, or exec has: what is not released is looked at again for so long.
constexpr uint64_t kForkWindowNs = 100'000'000;

}  // namespace

Ender::Ender(EndQueue& ends, FillPool& fillers, FetchPool& fetchers)
    : ends_(ends), fillers_(fillers), fetchers_(fetchers) {
  thread_ = start_thread("uffd-ender", std::nullopt, [this] { run(); });
}

Ender::~Ender() {
  ends_.shut();
  thread_.join();
}

void Ender::run() {
  for (auto entries = ends_.pop_all(); !entries.empty(); entries = ends_.pop_all()) {
    for (const auto& [served, request] : entries) obey(*served, request);
  }
}

void Ender::obey(ServedTarget& served, EndRequest request) {
  if (served.stage != Stage::serving) return;
  switch (request) {
    case EndRequest::settled:
      return settled(served);
    case EndRequest::poison:
      return poison_missing(served);
    case EndRequest::end:
      return end(served);
    case EndRequest::discard:
      return let_go_of(served, {Ending::early_close, "discarded"}, false);
    case EndRequest::stop:
      return stop(served);
  }
}

void Ender::settled(ServedTarget& served) {
  if (served.gone)
    return let_go_of(served, {Ending::early_close, "the target's address space is gone"}, false);
  if (served.unserved) {
    return let_go_of(served,
                     {Ending::early_close,
                      "no descriptor was left for this fork child (raise RLIMIT_NOFILE): what it "
                      "missed is poisoned"},
                     false);
  }
  if (!served.endless() || (served.closing && served.ending != Ending::keep_open))
    return end(served);
  // No FORK event of this process is ever sent: fork() would hold all locks of the engine and wait
  // for a handler, which may need one of them. Such a target's hole stays until it has ended.
  if (served.fork_hole && !(served.target.uffd().features() & UFFD_FEATURE_EVENT_FORK))
    served.fork_hole->lift();
  forget_local_memory(served);
  const std::lock_guard lock(served.mutex);
  served.changed.notify_all();
}

void Ender::poison_missing(ServedTarget& served) {
  Outcome outcome;
  while ((outcome = poison_all(served)) == Outcome::again) ends_.pause();
  if (outcome == Outcome::gone) {
    served.gone.store(true, std::memory_order_relaxed);
    return settled(served);
  }
  {
    const std::lock_guard lock(served.mutex);
    served.tried_all = true;
  }
  served.changed.notify_all();
  if (served.target.residency().missing() == 0) ends_.announce(served);
}

Outcome Ender::poison_all(ServedTarget& served) {
  const auto shared = served.installing();
  Installer installer(served.target, served.ender_counters);
  Outcome worst = Outcome::done;
  for (const Region& region : served.target.regions().all()) {
    const Outcome outcome = installer.poison(region, region.first_page, region.end_page());
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
  }
  return worst;
}

// The ender reads the last events itself: whoever sent them has gone on, and a fork child among
// them is a target. A removal may have taken markers away: they are set again.
void Ender::drain(ServedTarget& served) {
  std::array<uffd_msg, 16> messages;
  const auto read_all = [&] {
    LivingRead result;
    do {
      result = read_living(served, messages, served.ender_counters);
      for (const auto& child : result.children) served.handler->adopt(served, child);
    } while (result.count > 0);
  };
  read_all();
  Installer installer(served.target, served.ender_counters);
  for (const Range& range : served.target.poisoned()) {
    while (installer.poison_again(range) == Outcome::again) {
      ends_.pause();
      read_all();
    }
  }
}

void Ender::stop(ServedTarget& served) {
  detach(served);
  forget_local_memory(served);
  if (served.fork_hole && served.target.residency().missing() > 0) served.fork_hole->leave();
  publish(served, Stage::stopped, std::nullopt);
}

void Ender::end(ServedTarget& served) {
  if (served.inline_faults) {
    return let_go_of(
        served,
        {Ending::unregister, "served inline: a fault that met an early close would be a SIGBUS"},
        served.verify);
  }
  const Ending asked = served.ending == Ending::keep_open ? Ending::automatic : served.ending;
  let_go_of(served, choose_ending(asked, served.target), served.verify);
}

void Ender::let_go_of(ServedTarget& served, Choice choice, bool look) {
  detach(served);
  if (served.inline_faults) choice.before_close = [&served] { inline_targets::remove(served); };
  if (served.living && !served.gone) drain(served);
  const uint64_t missing = served.target.residency().missing();
  // A look afterwards says nothing where there was nothing before: another process's pid, say.
  look = look && is_registered(served.target);
  EndingReport report = let_go(served.target, choice);
  release_local_memory(served);
  report.missing_pages = missing;
  report.absent_pages = count(served, Count::enoent);
  report.poisoned = served.target.poisoned();
  if (look) report.verified = verify(served.target);
  if (served.collapse) report.collapsed_bytes = collapse(served);
  served.process.close();
  publish(served, Stage::ended, std::move(report));
}

uint64_t Ender::collapse(const ServedTarget& served) {
  uint64_t bytes = 0;
  for (const Region& region : served.target.regions().all())
    bytes += uffd::collapse(served.process.get(), region.range);
  return bytes;
}

std::optional<bool> Ender::verify(const Target& target) {
  const uint64_t give_up = sys::monotonic_ns() + kForkWindowNs;
  for (;;) {
    const std::optional<bool> released = verify_released(target);
    if (released != false || sys::monotonic_ns() > give_up) return released;
    ends_.pause();
  }
}

void Ender::detach(ServedTarget& served) {
  served.handler->remove(served);
  fillers_.remove(served);
  fetchers_.remove(served);
  if (served.adoption) served.adoption->let_go();
  served.awake.reset();
}

void Ender::release_local_memory(ServedTarget& served) {
  if (served.fork_hole) served.fork_hole->lift();
  forget_local_memory(served);
}

void Ender::forget_local_memory(ServedTarget& served) {
  std::shared_ptr<LocalMemory> last;
  const std::lock_guard lock(served.mutex);
  last.swap(served.local_memory);
}

void Ender::publish(ServedTarget& served, Stage stage, std::optional<EndingReport> report) {
  {
    const std::lock_guard lock(served.mutex);
    served.stage = stage;
    served.report = std::move(report);
  }
  served.changed.notify_all();
}

}  // namespace uffd
