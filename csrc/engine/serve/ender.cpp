#include "engine/serve/ender.hpp"

#include "engine/serve/fork_safety.hpp"

namespace uffd {
namespace {

// A child that is just being forked holds every userfaultfd of this process until it has closed
// them, or exec has: what is not released is looked at again for so long.
constexpr uint64_t kForkWindowNs = 100'000'000;

}  // namespace

Ender::Ender(EndQueue& ends, FillPool& fillers) : ends_(ends), fillers_(fillers) {
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
  if (served.ending != Ending::keep_open) return end(served);
  release_local_memory(served);
  const std::lock_guard lock(served.mutex);
  served.changed.notify_all();
}

void Ender::poison_missing(ServedTarget& served) {
  Installer installer(served.target, served.ender_counters);
  for (const Region& region : served.target.regions().all()) {
    Outcome outcome;
    while ((outcome = installer.poison(region, region.first_page, region.end_page())) ==
           Outcome::again)
      ends_.pause();
    if (outcome == Outcome::gone) {
      served.gone.store(true, std::memory_order_relaxed);
      return settled(served);
    }
  }
  {
    const std::lock_guard lock(served.mutex);
    served.tried_all = true;
  }
  served.changed.notify_all();
  if (served.target.residency().missing() == 0) ends_.announce(served);
}

void Ender::stop(ServedTarget& served) {
  detach(served);
  served.local_memory.forget();  // a fork stays forbidden while pages are missing
  publish(served, Stage::stopped, std::nullopt);
}

void Ender::end(ServedTarget& served) {
  const Ending asked = served.ending == Ending::keep_open ? Ending::automatic : served.ending;
  let_go_of(served, choose_ending(asked, served.target), served.verify);
}

void Ender::let_go_of(ServedTarget& served, const Choice& choice, bool look) {
  detach(served);
  const uint64_t missing = served.target.residency().missing();
  // A look afterwards says nothing where there was nothing before: another process's pid, say.
  look = look && is_registered(served.target);
  EndingReport report = let_go(served.target, choice);
  release_local_memory(served);
  report.missing_pages = missing;
  report.absent_pages = count(served, Count::enoent);
  report.poisoned = served.target.poisoned();
  if (look) report.verified = verify(served.target);
  publish(served, Stage::ended, std::move(report));
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
}

void Ender::release_local_memory(ServedTarget& served) {
  if (served.target.is_this_process()) allow_fork(served.target.regions());
  served.local_memory.forget();
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
