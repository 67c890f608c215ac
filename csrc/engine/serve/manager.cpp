#include "engine/serve/manager.hpp"

#include <signal.h>

#include <algorithm>

#include "engine/linux/blank.hpp"
#include "engine/linux/huge_pages.hpp"
#include "engine/linux/pidfd.hpp"
#include "engine/linux/smaps.hpp"
#include "engine/source/shared_image.hpp"

namespace uffd {
namespace {

void refuse_features(uint64_t features, bool inline_faults) {
  if ((features & UFFD_FEATURE_SIGBUS) && !inline_faults) {
    throw std::invalid_argument(
        "this userfaultfd has the feature SIGBUS, so its faults reach no manager: serve it with "
        "inline=True, or open it without");
  }
  if (!inline_faults) return;
  if (!(features & UFFD_FEATURE_SIGBUS)) {
    throw std::invalid_argument(
        "inline=True resolves faults in signal handlers: open the userfaultfd with Feature.SIGBUS");
  }
  if (features & kEventFeatures) {
    throw std::invalid_argument(
        "inline=True is without event features: open the userfaultfd with Feature.SIGBUS alone");
  }
}

void refuse_inline(const RegionTable& regions, const TargetOptions& options, bool this_process,
                   Placement placement) {
  if (!this_process || options.registered)
    throw std::invalid_argument("inline=True is for memory of this process: leave it out");
  if (options.ending == Ending::early_close || options.ending == Ending::keep_open) {
    throw std::invalid_argument(std::string("ending is '") + name(options.ending) +
                                "', but with inline=True faults that meet it would be a SIGBUS: "
                                "give 'auto' or 'unregister'");
  }
  if (placement == Placement::adopt)
    throw std::invalid_argument("inline=True has no handler: placement 'adopt' is not for it");
  for (const Region& region : regions.all()) {
    const std::string name = "region " + range_text(region.range.start, region.range.length);
    if (region.modes != UFFDIO_REGISTER_MODE_MISSING)
      throw std::invalid_argument(name + ": inline=True is for mode='missing' alone");
    if (region.late()) {
      throw std::invalid_argument(name +
                                  ": inline=True is for sources whose bytes are at hand: give "
                                  "FileSource without direct=True, or MemorySource");
    }
  }
}

// Has signal handlers know the target, unless what follows throws.
class InlineAddition {
 public:
  explicit InlineAddition(ServedTarget& served) : served_(served) {
    if (served.inline_faults) inline_targets::add(served);
  }
  InlineAddition(const InlineAddition&) = delete;
  InlineAddition& operator=(const InlineAddition&) = delete;
  ~InlineAddition() {
    if (served_.inline_faults && !done_) inline_targets::remove(served_);
  }
  void done() noexcept {
    done_ = true;
    if (served_.inline_faults) served_.inline_faults->open();
  }

 private:
  ServedTarget& served_;
  bool done_ = false;
};

void refuse_unnamed_threads(const Userfaultfd& uffd) {
  if (uffd.features() & UFFD_FEATURE_THREAD_ID) return;
  throw std::invalid_argument(
      "placement 'adopt' must know which thread faults, but this userfaultfd was opened without "
      "the feature THREAD_ID: open it with Feature.THREAD_ID, or give placement 'auto'");
}

void refuse_pid(pid_t pid) {
  if (pid > 0 && (::kill(pid, 0) == 0 || errno != ESRCH)) return;
  throw std::invalid_argument("pid is " + std::to_string(pid) +
                              ", but there is no such process: give that of the target, or None "
                              "for this process");
}

// A Python function needs the GIL, with which a thread of this process may sleep for its page.
void refuse_late(const RegionTable& regions, bool this_process) {
  for (const Region& region : regions.all()) {
    if (!region.late()) continue;
    const bool waits_for_page = this_process && region.source->calls_user();
    if (!waits_for_page && (!region.minor() || region.image())) continue;
    throw std::invalid_argument(
        "region " + range_text(region.range.start, region.range.length) +
        (waits_for_page
             ? " is of this process, and its source is a CallableSource: whoever touches it "
               "may hold the lock that the function needs; give another source"
             : " has minor faults, and its source is not at hand at once: give another source, "
               "or mode='missing'"));
  }
}

// CONTINUE maps the image's own pages, so it must be told of every fault on them.
void refuse_modes_of_images(const RegionTable& regions) {
  for (const Region& region : regions.all()) {
    const SharedImage* const image = region.image();
    if (!image) continue;
    const std::string name = "region " + range_text(region.range.start, region.range.length);
    if (region.modes != (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR))
      throw std::invalid_argument(name + " has a SharedImage: give it mode='missing+minor'");
    if (region.page_size != image->page_size() || region.source_offset % region.page_size != 0) {
      throw std::invalid_argument(name + " has page_size " + std::to_string(region.page_size) +
                                  " and source_offset " + std::to_string(region.source_offset) +
                                  ", but its SharedImage has pages of " +
                                  std::to_string(image->page_size()) + " bytes");
    }
  }
}

// Undone unless it is kept.
class Registration {
 public:
  Registration(const Userfaultfd& uffd, const RegionTable& regions)
      : uffd_(&uffd), regions_(regions) {
    register_regions(uffd, regions);
  }
  ~Registration() {
    if (!uffd_) return;
    for (const Region& region : regions_.all()) unregister_and_wake(*uffd_, region.range);
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;
  void keep() noexcept { uffd_ = nullptr; }

 private:
  const Userfaultfd* uffd_;
  const RegionTable& regions_;
};

void refuse_collapse(const RegionTable& regions, int pidfd, bool this_process) {
  for (const Region& region : regions.all()) {
    if (region.page_size == sys::page_size()) continue;
    throw std::invalid_argument("region " + range_text(region.range.start, region.range.length) +
                                " is hugetlb memory already: leave collapse out");
  }
  if (!this_process && pidfd < 0)
    throw UnsupportedError(ENOSYS, "collapse=True needs a pidfd of the target (Linux 5.3)");
  switch (-may_collapse(this_process ? -1 : pidfd)) {
    case 0:
    case ESRCH:  // it is about to be no more
      return;
    case EPERM:
    case EACCES:
      throw UnsupportedError(EPERM,
                             "collapse=True of another process needs CAP_SYS_NICE and ptrace "
                             "permission: leave it out, or have the target call MADV_COLLAPSE");
    default:
      throw UnsupportedError(EOPNOTSUPP,
                             "this kernel lacks MADV_COLLAPSE (Linux 6.1, with transparent huge "
                             "pages): leave collapse out");
  }
}

void refuse_other_process(pid_t pid) {
  throw std::invalid_argument("pid is " + std::to_string(pid) +
                              ", but this process opened the userfaultfd, which manages its own "
                              "memory alone: leave pid out; "
                              "the target opens its own and hands it over");
}

// Hugetlb memory takes whole pages only. Of each page size one region is asked, by a copy of
// nothing.
void refuse_page_size(const Userfaultfd& uffd, const RegionTable& table) {
  uint64_t asked = 0;
  for (const Region& region : table.all()) {
    if (asked & region.page_size) continue;
    asked |= region.page_size;
    if (uffd.copy(region.range.start, unreadable_address(), region.page_size, 0).error != -EINVAL)
      continue;
    throw std::invalid_argument(
        "region " + range_text(region.range.start, region.range.length) + ": page_size is " +
        std::to_string(region.page_size) +
        ", which does not fit its memory: for hugetlb memory give the page size of its pool");
  }
}

// One whose regions were registered by another process is mostly of that process.
void refuse_foreign(const RegionTable& regions) {
  if (any_registered(0, regions.ranges()).value_or(true)) return;
  throw std::invalid_argument(
      "this userfaultfd came from elsewhere, and none of its regions is registered in this "
      "process: give the target's pid, as handoff.receive() returns it");
}

// Tries again as long as an event of the target keeps it from happening.
void protect(ServedTarget& served, const Range& range) {
  const auto attempt = [&] {
    const auto shared = served.installing();
    return served.target.uffd().writeprotect(range.start, range.length,
                                             UFFDIO_WRITEPROTECT_MODE_WP);
  };
  while (attempt() == -EAGAIN) {
    std::unique_lock lock(served.mutex);
    served.changed.wait_for(lock, std::chrono::milliseconds(1));
  }
}

constexpr size_t kMostThreads = 1024;
constexpr const char* kStopped = "the target was stopped: nobody serves it";

std::string pages_text(uint64_t pages) {
  return std::to_string(pages) + (pages == 1 ? " page" : " pages");
}

EndingReport open_report(const ServedTarget& served, const std::string& reason) {
  EndingReport report;
  report.ending = Ending::keep_open;
  report.reason = reason;
  {
    const auto shared = served.installing();
    report.regions = served.target.regions().size();
  }
  report.missing_pages = served.target.residency().missing();
  report.absent_pages = count(served, Count::enoent);
  report.poisoned = served.target.poisoned();
  return report;
}

}  // namespace

Manager::Manager(const ManagerOptions& options) : placement_(options.placement.placement) {
  if (options.handlers == 0)
    throw std::invalid_argument("handlers is 0; a manager needs at least one");
  if (options.handlers > kMostThreads || options.fillers > kMostThreads) {
    throw std::invalid_argument("a manager has at most " + std::to_string(kMostThreads) +
                                " handlers and as many fillers");
  }
  if (options.fillers == 0)
    throw std::invalid_argument("fillers is 0; a close that fills needs at least one");
  const Places places = place(options.placement, options.handlers, options.fillers);
  if (placement_ == Placement::adopt) {
    ledger_ = std::make_unique<AdoptionLedger>();
    watcher_ = std::make_unique<AdoptionWatcher>(options.watcher, *ledger_);
  }
  fillers_ = std::make_unique<FillPool>(places.fillers, ends_, fetchers_);
  for (size_t i = 0; i < options.handlers; ++i) {
    handlers_.push_back(std::make_unique<Handler>("uffd-handle-" + std::to_string(i),
                                                  places.handlers[i], ends_, *fillers_, fetchers_,
                                                  roster_));
  }
  ender_ = std::make_unique<Ender>(ends_, *fillers_, fetchers_);
}

Manager::~Manager() {
  // Those that are left may fork meanwhile.
  for (bool any = true; any;) {
    any = false;
    for (const auto& served : roster_.all()) {
      any = any || served->stage == Stage::serving;
      leave(*served);
    }
  }
}

// Lets go of a target that its user left behind: fills it, and where that fails leaves its
// userfaultfd open for good, since what is missing must not turn into zeros.
void Manager::leave(ServedTarget& served) {
  if (served.stage != Stage::serving) return;
  fillers_->start(served);
  std::unique_lock lock(served.mutex);
  served.changed.wait(lock, [&] { return served.stage != Stage::serving || served.tried_all; });
  lock.unlock();
  const bool open = served.target.residency().missing() > 0 && !served.gone;
  ends_.push(served, open ? EndRequest::stop : EndRequest::end);
  lock.lock();
  served.changed.wait(lock, [&] { return served.stage != Stage::serving; });
  if (open && served.stage == Stage::stopped) served.target.uffd().leave_open();
}

std::shared_ptr<ServedTarget> Manager::add(Userfaultfd& uffd, std::vector<Region> regions,
                                           const TargetOptions& options) {
  refuse_features(uffd.features(), options.inline_faults);
  if (options.fault_around == 0u)
    throw std::invalid_argument("fault_around is 0 pages; it must be at least 1");
  if (options.pid != 0) refuse_pid(options.pid);
  const bool this_process = options.pid == 0 || options.pid == ::getpid();
  auto served = std::make_shared<ServedTarget>(
      RegionTable(std::move(regions)), this_process ? 0 : options.pid, options.ending,
      options.fault_around, options.verify, fillers_->threads());
  RegionTable& table = served->target.regions();
  served->living = (uffd.features() & kEventFeatures) != 0;
  if (options.inline_faults) {
    refuse_inline(table, options, this_process, placement_);
    served->inline_faults = std::make_unique<InlineFaults>(*served);
  }
  refuse_late(table, this_process);
  refuse_modes_of_images(table);
  check_modes(uffd, table);
  if (served->living) look_at_living(served->target);
  if (options.registered && this_process) refuse_foreign(table);
  if (options.registered) refuse_page_size(uffd, table);
  if (!options.registered && !this_process) refuse_other_process(options.pid);
  if (!this_process) served->process = open_pidfd(options.pid);
  if (options.collapse) refuse_collapse(table, served->process.get(), this_process);
  served->collapse = options.collapse;
  const std::lock_guard lock(adding_);
  served->handler = &least_busy_handler();
  served->handler_cpu = served->handler->cpu();
  if (options.awake) served->awake.emplace();
  served->kept_awake = options.awake;
  if (ledger_) {
    refuse_unnamed_threads(uffd);
    served->adoption = std::make_unique<Adoption>(*ledger_, this_process ? ::getpid() : options.pid,
                                                  *served->handler_cpu);
  }
  served->local_memory = std::make_shared<LocalMemory>(table, this_process);
  InlineAddition addition(*served);
  std::optional<Registration> registration;
  if (!options.registered) registration.emplace(uffd, table);
  choose_moves(uffd, table, this_process, options.install);
  if (this_process) served->fork_hole = std::make_unique<ForkHole>(table.ranges());
  if (registration) registration->keep();

  roster_.add(served);
  served->target.take(std::move(uffd));
  addition.done();
  // What somebody else has read is told to nobody again: its threads wake up and fault once more.
  // Before it is served, since it may have ended right afterwards.
  wake_all(served->target);
  served->handler->add(*served);
  return served;
}

void Manager::check_fill(const ServedTarget& served) {
  if (served.stage == Stage::stopped) throw std::logic_error(kStopped);
}

void Manager::check_stop(const ServedTarget& served) {
  if (served.ending != Ending::keep_open) {
    throw std::logic_error(
        "stop() is for ending='keep-open'; this target ends by itself: call close()");
  }
  if (served.stage != Stage::serving) throw std::logic_error("the target is not served any more");
  if (served.living) {
    throw std::logic_error(
        "stop() would lose what the target's events told, where its memory lies by now and what it "
        "dropped: close it, or open its userfaultfd without event features");
  }
}

void Manager::fill(ServedTarget& served) {
  check_fill(served);
  if (served.stage == Stage::serving && served.target.residency().missing() > 0)
    fillers_->start(served);
}

void Manager::begin_close(ServedTarget& served, Missing missing) {
  const Stage stage = served.stage;
  if (stage == Stage::ended) return;
  if (stage == Stage::stopped)
    throw std::logic_error("the target was stopped: its userfaultfd is its user's again");
  if (missing == Missing::raise) {
    // Whoever touched the last page may be here before its install was counted. The other policies
    // need no exact count, and must not wait for a source that is slow to answer.
    served.handler->settle();
    fillers_->settle(served);
  }
  const bool kept_open = served.ending == Ending::keep_open;
  if (missing != Missing::raise || served.settled()) served.closing = true;
  const uint64_t pages = served.target.residency().missing();
  if (served.settled()) {
    // What goes on without end was told to the ender before.
    if (served.endless() && !kept_open) ends_.push(served, EndRequest::end);
    return;
  }
  switch (missing) {
    case Missing::raise:
      if (kept_open) return;
      throw MissingPagesError(
          pages_text(pages) + " of " + std::to_string(served.target.residency().pages()) +
          " are missing and would read as zeros: wait() for them, or close with missing='fill', "
          "'poison' or, where zeros are right, 'zero'. The target is served on");
    case Missing::fill:
      return fillers_->start(served);
    case Missing::zero:
      if (!kept_open) ends_.push(served, EndRequest::end);
      return;
    case Missing::poison:
      if (!(offered_features() & UFFD_FEATURE_POISON)) {
        throw UnsupportedError(
            EOPNOTSUPP, "this kernel lacks UFFDIO_POISON (Linux 6.6): close with missing='fill'");
      }
      {
        const std::lock_guard lock(served.mutex);
        served.tried_all = false;
      }
      return ends_.push(served, EndRequest::poison);
  }
}

std::optional<EndingReport> Manager::wait_closed(ServedTarget& served, Missing missing,
                                                 std::chrono::milliseconds timeout) {
  const bool tries = missing == Missing::fill || missing == Missing::poison;
  const bool kept_open = served.ending == Ending::keep_open;
  const auto missing_pages = [&] { return served.target.residency().missing(); };
  std::unique_lock lock(served.mutex);
  const bool closed = served.changed.wait_for(lock, timeout, [&] {
    return served.stage != Stage::serving || (kept_open && (!tries || missing_pages() == 0)) ||
           (tries && served.tried_all && missing_pages() > 0 && !served.gone);
  });
  if (!closed) return std::nullopt;
  if (served.report) return served.report;
  if (served.stage == Stage::stopped) throw std::logic_error(kStopped);
  if (kept_open && (!tries || missing_pages() == 0))
    return open_report(served, "asked for: the manager serves on");
  return open_report(
      served, pages_text(missing_pages()) +
                  " can be neither supplied nor poisoned (UFFDIO_POISON came with Linux 6.6): the "
                  "userfaultfd stays open and whoever touches them sleeps");
}

bool Manager::wait(ServedTarget& served, std::chrono::milliseconds timeout) {
  std::unique_lock lock(served.mutex);
  const bool done = served.changed.wait_for(lock, timeout, [&] {
    return served.stage != Stage::serving ||
           (served.endless() && served.target.residency().missing() == 0);
  });
  if (served.stage == Stage::stopped && served.target.residency().missing() > 0)
    throw std::logic_error(kStopped);
  return done;
}

std::vector<Range> Manager::written(ServedTarget& served, bool reset) {
  PageSet* const written = served.target.written();
  if (!written)
    throw std::logic_error("no region of this target is write-protected: give mode='missing+wp'");
  const std::lock_guard use(served.using_uffd);
  RangeSet ranges;
  {
    const auto shared = served.installing();
    for (const Region& region : served.target.regions().all()) {
      for (uint64_t first = region.first_page;
           (first = written->next_inside(first, region.end_page())) < region.end_page();) {
        const uint64_t end = written->next_outside(first, region.end_page());
        ranges.add({region.address_of(first), (end - first) * region.page_size});
        // Whoever writes before it is protected again has written before this returns.
        if (reset) written->remove(first, end - first);
        first = end;
      }
    }
  }
  for (const Range& range : ranges.all()) {
    if (reset && !served.uffd_let_go) protect(served, range);
  }
  return ranges.all();
}

Userfaultfd Manager::stop(ServedTarget& served) {
  check_stop(served);
  ends_.push(served, EndRequest::stop);
  std::unique_lock lock(served.mutex);
  served.changed.wait(lock, [&] { return served.stage != Stage::serving; });
  return std::move(served.target.uffd());
}

void Manager::discard(ServedTarget& served) {
  if (served.stage == Stage::serving) ends_.push(served, EndRequest::discard);
  std::unique_lock lock(served.mutex);
  served.changed.wait(lock, [&] { return served.stage != Stage::serving; });
}

Handler& Manager::least_busy_handler() const {
  return **std::min_element(handlers_.begin(), handlers_.end(), [](const auto& a, const auto& b) {
    return a->targets() < b->targets();
  });
}

}  // namespace uffd
