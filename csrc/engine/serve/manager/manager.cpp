#include "engine/serve/manager/manager.hpp"

#include <algorithm>

#include "engine/linux/pidfd.hpp"
#include "engine/linux/smaps.hpp"
#include "engine/serve/adoption/adoption.hpp"
#include "engine/serve/manager/admission.hpp"
#include "engine/serve/manager/found_pages.hpp"
#include "engine/serve/manager/undo.hpp"
#include "engine/serve/served/local_memory.hpp"
#include "engine/serve/served/statistics.hpp"
#include "engine/target/registration.hpp"

namespace uffd {
namespace {

constexpr size_t kMostThreads = 1024;
constexpr const char* kRegistered =
    "this target's memory was registered when serving began, or registered() was called before: "
    "call it only once, and only after registered=False";

void check_thread_counts(const ManagerOptions& options) {
  if (options.handlers == 0)
    throw std::invalid_argument("handlers is 0; a manager needs at least one");
  if (options.handlers > kMostThreads || options.fillers > kMostThreads) {
    throw std::invalid_argument("a manager has at most " + std::to_string(kMostThreads) +
                                " handlers and as many fillers");
  }
  if (options.fillers == 0)
    throw std::invalid_argument("fillers is 0; a close that fills needs at least one");
}

// Where the target's smaps may not be read, its owner is believed.
void refuse_unregistered(const Target& target) {
  const auto registered = registered_mappings(target.pid());
  if (!registered) return;
  for (const Region& region : target.regions().all()) {
    uint64_t covered = 0;
    for (const Range& mapping : *registered) covered += mapping.intersection(region.range).length;
    if (covered == region.range.length) continue;
    throw std::invalid_argument("region " + range_text(region.range.start, region.range.length) +
                                " is not registered: call registered() after the target has "
                                "registered all its regions. An exec unregisters all memory");
  }
}

uint64_t moves_of(const ServedTarget& served) noexcept {
  return served.handler_counters.get(Count::remaps) + served.handler_counters.get(Count::unmaps);
}

// By the thread of their handler, which is their parent's. Returns all of them.
std::vector<std::shared_ptr<ServedTarget>> look_at_children(const ServedTarget& parent) {
  std::vector<std::shared_ptr<ServedTarget>> family;
  for (const auto& child : children(parent)) {
    if (child->life.stage() == Stage::serving && !child->target.registered()) {
      const std::unique_lock alone(child->gate);
      look_at_child(child->target, parent.target);
      child->target.set_registered(true);
      family.push_back(child);
    }
    for (auto& grandchild : look_at_children(*child)) family.push_back(std::move(grandchild));
  }
  return family;
}

}  // namespace

Manager::Manager(const ManagerOptions& options)
    : placement_(options.placement.placement), guard_(options.guard), guards_(options.guards) {
  check_thread_counts(options);
  const Places places = uffd::place(options.placement, options.handlers, options.fillers);
  if (placement_ == Placement::adopt) {
    ledger_ = std::make_unique<AdoptionLedger>();
    guarded_masks_.emplace(guard_, *ledger_);
  }
  if (placement_ == Placement::automatic) wakefulness_ = std::make_unique<Wakefulness>();
  fillers_ = std::make_unique<FillPool>(places.fillers, fetchers_);
  ender_ = std::make_unique<Ender>(ends_, fetchers_);
  for (size_t i = 0; i < options.handlers; ++i) {
    handlers_.push_back(std::make_unique<Handler>("uffd-handle-" + std::to_string(i),
                                                  places.handlers[i], ends_, *fillers_, fetchers_,
                                                  wakefulness_.get()));
  }
}

Manager::~Manager() {
  // Targets that are left may fork meanwhile, and the ender may find fork children among the last
  // events of a target: so this looks again until no handler serves any.
  for (bool any = true; any;) {
    any = false;
    for (const auto& handler : handlers_) {
      for (const auto& served : handler->charges()) {
        any = true;
        leave(*served);
      }
    }
    if (!any) any = ends_.await_idle();
  }
}

// Lets go of a target that its user left behind: fills it, and where that fails leaves its
// userfaultfd open for good, since what is missing must not turn into zeros.
void Manager::leave(ServedTarget& served) {
  const auto over = [&] { return served.life.is_over() || served.life.tried_all(); };
  if (fillers_->start(served, FillJob::Kind::install)) {
    while (!served.life.wait(std::chrono::hours(1), over)) {
    }
  }
  const bool open = !served.complete() && !served.gone;
  served.mailbox->post(served, open ? command::stop : command::end);
  served.life.wait_until_over();
  if (open && served.life.stage() == Stage::stopped) served.target.uffd().leave_open();
}

std::shared_ptr<ServedTarget> Manager::add(Userfaultfd& uffd, std::vector<Region> regions,
                                           const TargetOptions& options) {
  const bool this_process = is_this_process(options);
  auto served = prepare(uffd, std::move(regions), options);
  if (served->target.ledger()) guard_link().start(guard_, guards_);
  RegionTable& table = served->target.regions();
  for (const Region& region : table.all()) {
    if (region.source) fetchers_.make_ready_for(*region.source);
  }
  const std::lock_guard lock(adding_);
  Handler& handler = least_busy_handler();
  place(*served, handler, options);
  check_process(table, options, placement_);
  served->local_memory = std::make_shared<LocalMemory>(table, this_process);
  InlineAddition addition(*served);
  // Both before the memory is registered: with event features the kernel would have a fork, and
  // whoever drops pages, wait until their event is read, and nobody reads yet.
  if (this_process) served->fork_hole = std::make_unique<ForkHole>(table.ranges());
  if (this_process && !(options.received && served->living)) empty_whole_mappings(table);
  std::optional<Registration> registration;
  if (!options.received) registration.emplace(uffd, table);
  choose_moves(uffd, table, this_process, options.install);
  settle_found_pages(*served, options.present);
  if (options.again) note_present_pages(*served);

  Taking taking(uffd, *served);
  Guarding guarding(*served);
  if (served->inline_faults) served->inline_faults->open();
  // A fault that another reader has read is not told again: all threads wake up and fault once
  // more. This comes before serving, since the target may end right after that begins.
  wake_all(served->target);
  handler.add(served);
  taking.keep();
  guarding.keep();
  if (registration) registration->keep();
  addition.keep();
  return served;
}

std::shared_ptr<ServedTarget> Manager::prepare(const Userfaultfd& uffd, std::vector<Region> regions,
                                               const TargetOptions& options) {
  check_options(uffd, options, placement_);
  const bool this_process = is_this_process(options);
  auto served = std::make_shared<ServedTarget>(
      RegionTable(std::move(regions)), this_process ? 0 : options.pid,
      TargetSettings{options.ending, options.fault_around, options.verify, options.collapse,
                     options.guard.value_or(AfterDeath::poison), options.trusts_pagemap},
      options.guard && !this_process ? Target::Noted::in_ledger : Target::Noted::no);
  RegionTable& table = served->target.regions();
  check_regions(uffd, table, options);
  served->living = (uffd.features() & kEventFeatures) != 0;
  served->target.set_registered(options.registered);
  served->target.set_beyond(options.beyond);
  served->note_settings();
  if (served->living && options.registered)
    apply_look(look_at_living(served->target), served->target);
  if (!this_process) served->process = open_pidfd(options.pid);
  if (options.completion >= 0) served->completion = Completion(options.completion);
  if (options.collapse) check_collapse(table, served->process.get(), this_process);
  if (options.inline_faults) served->inline_faults = std::make_shared<InlineFaults>(*served);
  return served;
}

void Manager::place(ServedTarget& served, Handler& handler, const TargetOptions& options) {
  served.mailbox = handler.mailbox();
  served.handler_cpu = handler.cpu();
  if (options.awake) served.awake.emplace();
  served.kept_awake = options.awake;
  served.vigil_notes = handler.vigil_notes();
  if (!ledger_ || options.pid == kUnknownPid) return;
  served.adoption = std::make_shared<Adoption>(
      *ledger_, is_this_process(options) ? ::getpid() : options.pid, *served.handler_cpu);
}

// Fork children that were born before are copies of memory that was registered later, or now: they
// know it with their parent.
void Manager::set_registered(ServedTarget& served, bool check) {
  if (served.target.registered()) throw std::logic_error(kRegistered);
  if (check) {
    const auto shared = served.installing();
    refuse_unregistered(served.target);
  }
  // Before the handler is held up. What has moved since is looked at again.
  const uint64_t moves = moves_of(served);
  LivingLook look;
  if (served.living) look = look_at_living(served.target);
  std::exception_ptr refused;
  std::vector<std::shared_ptr<ServedTarget>> family;
  const bool served_still = served.mailbox->call([&] {
    try {
      const std::unique_lock alone(served.gate);
      if (served.target.registered()) throw std::logic_error(kRegistered);
      if (served.living && moves_of(served) != moves) look = look_at_living(served.target);
      if (served.living) apply_look(look, served.target);
      family = look_at_children(served);
      served.target.set_registered(true);
    } catch (...) {
      refused = std::current_exception();
    }
  });
  if (refused) std::rethrow_exception(refused);
  if (!served_still) return;
  family.push_back(served.shared_from_this());
  for (const auto& each : family) go_on_registered(*each);
}

void Manager::go_on_registered(ServedTarget& served) {
  if (served.fill_wanted) fillers_->start(served, FillJob::Kind::install);
  if (const Lease lease(served); lease) wake_all(served.target);
  served.tell_if_complete();
}

void Manager::check_fill(const ServedTarget& served) {
  if (served.life.stage() == Stage::stopped) throw std::logic_error(kStopped);
}

void Manager::fill(ServedTarget& served, bool when_idle) {
  check_fill(served);
  served.fill_when_idle = when_idle;
  if (!served.target.registered()) {
    served.fill_wanted = true;
    if (!served.target.registered()) return;
  }
  if (served.life.stage() != Stage::serving || served.complete()) return;
  if (!fillers_->start(served, FillJob::Kind::install)) throw std::bad_alloc();
}

Handler& Manager::least_busy_handler() const {
  return **std::min_element(handlers_.begin(), handlers_.end(), [](const auto& a, const auto& b) {
    return a->targets() < b->targets();
  });
}

}  // namespace uffd
