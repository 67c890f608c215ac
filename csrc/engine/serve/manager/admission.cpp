#include "engine/serve/manager/admission.hpp"

#include <signal.h>
#include <sys/mman.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "engine/linux/blank.hpp"
#include "engine/linux/huge_pages.hpp"
#include "engine/linux/smaps.hpp"
#include "engine/source/shared_image.hpp"
#include "engine/target/registration.hpp"
#include "engine/target/target.hpp"

namespace uffd {
namespace {

std::string name_of(const Region& region) {
  return "region " + range_text(region.range.start, region.range.length);
}

void refuse_features(uint64_t features, bool inline_faults) {
  if ((features & UFFD_FEATURE_SIGBUS) && !inline_faults) {
    throw std::invalid_argument(
        "this userfaultfd has the feature SIGBUS, so its faults reach no manager: serve it with "
        "inline=True, or open it without the feature");
  }
  if (!inline_faults) return;
  if (!(features & UFFD_FEATURE_SIGBUS)) {
    throw std::invalid_argument(
        "inline=True resolves faults in signal handlers: open the userfaultfd with Feature.SIGBUS");
  }
  if (features & kEventFeatures) {
    throw std::invalid_argument(
        "inline=True does not permit event features: open the userfaultfd with only "
        "Feature.SIGBUS");
  }
}

void refuse_inline(const TargetOptions& options, Placement placement) {
  if (!is_this_process(options) || options.received)
    throw std::invalid_argument("inline=True is for memory of this process: leave inline out");
  if (options.ending == Ending::early_close || options.ending == Ending::keep_open) {
    throw std::invalid_argument(
        std::string("ending is '") + name(options.ending) +
        "', but with inline=True a fault that meets this ending is a SIGBUS: "
        "give 'auto' or 'unregister'");
  }
  if (placement == Placement::adopt)
    throw std::invalid_argument(
        "inline=True has no handler, which placement 'adopt' needs: give another placement");
}

void refuse_inline_regions(const RegionTable& regions) {
  for (const Region& region : regions.all()) {
    if (region.modes != UFFDIO_REGISTER_MODE_MISSING)
      throw std::invalid_argument(name_of(region) + ": inline=True is for mode='missing' only");
    if (region.late()) {
      throw std::invalid_argument(name_of(region) +
                                  ": inline=True is for sources whose bytes are at hand: give "
                                  "FileSource without direct=True, or MemorySource");
    }
  }
}

void refuse_unnamed_threads(const Userfaultfd& uffd) {
  if (uffd.features() & UFFD_FEATURE_THREAD_ID) return;
  throw std::invalid_argument(
      "placement 'adopt' must know which thread faults, but this userfaultfd was opened without "
      "the feature THREAD_ID: open it with Feature.THREAD_ID, or give placement 'auto'");
}

void refuse_pid(pid_t pid) {
  if (pid > 0 && (::kill(pid, 0) == 0 || errno != ESRCH)) return;
  throw std::invalid_argument("pid is " + std::to_string(pid) +
                              ", but there is no such process: give the pid of the target, or "
                              "None for this process");
}

// A Python function needs the GIL, and a thread of this process may hold the GIL while it sleeps
// for the page.
void refuse_late(const RegionTable& regions, bool this_process) {
  for (const Region& region : regions.all()) {
    if (!region.late()) continue;
    const bool waits_for_page = this_process && region.source->calls_user();
    if (!waits_for_page && (!region.minor() || region.image())) continue;
    throw std::invalid_argument(
        name_of(region) +
        (waits_for_page
             ? " is of this process, and its source is a CallableSource: a thread that touches "
               "the memory can hold the GIL, which the function needs. Give another source"
             : " has minor faults, and the bytes of its source are not at hand: give another "
               "source, or mode='missing'"));
  }
}

// CONTINUE maps the image's own pages, so every fault on them must be told, missing or minor.
void refuse_modes_of_images(const RegionTable& regions) {
  for (const Region& region : regions.all()) {
    const SharedImage* const image = region.image();
    if (!image) continue;
    const std::string name = name_of(region);
    if (region.modes != (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR))
      throw std::invalid_argument(name + " has a SharedImage: give it mode='missing+minor'");
    if (region.page_size != image->page_size() || region.source_offset % region.page_size != 0) {
      throw std::invalid_argument(name + " has page_size " + std::to_string(region.page_size) +
                                  " and source_offset " + std::to_string(region.source_offset) +
                                  ", but its SharedImage has pages of " +
                                  std::to_string(image->page_size()) +
                                  " bytes: give that page_size, and a multiple of it as "
                                  "source_offset");
    }
  }
}

void refuse_unmapped(const RegionTable& regions) {
  for (const Region& region : regions.all()) {
    void* const start = reinterpret_cast<void*>(region.range.start);
    if (::msync(start, region.range.length, MS_ASYNC) == 0 || errno != ENOMEM) continue;
    throw SystemError(EINVAL,
                      "cannot register " + name_of(region) + ": it is not mapped. Map it first");
  }
}

void refuse_other_process(pid_t pid) {
  throw std::invalid_argument("pid is " + std::to_string(pid) +
                              ", but this process opened the userfaultfd, which serves only memory "
                              "of this process: leave pid out. Another process must open a "
                              "userfaultfd of its own and hand it over");
}

// Hugetlb memory takes whole pages only, and ordinary memory takes small ones. Asks the kernel by
// COPYs that install nothing: for each large page, since the sender may be wrong about any.
void refuse_page_size(const Userfaultfd& uffd, const RegionTable& table) {
  bool asked = false;
  for (const Region& region : table.all()) {
    const bool is_small = region.page_size == sys::page_size();
    if (is_small && std::exchange(asked, true)) continue;
    const auto takes = [&](uint64_t length) {
      return uffd.copy(region.range.start, unreadable_address(), length, 0).error != -EINVAL;
    };
    if (takes(region.page_size) && (is_small || !takes(sys::page_size()))) continue;
    throw std::invalid_argument(
        name_of(region) + ": page_size is " + std::to_string(region.page_size) +
        ", which does not fit its memory: give " + std::to_string(sys::page_size()) +
        ", and for hugetlb memory the page size of its pool");
  }
}

// A userfaultfd whose regions another process registered mostly manages that process's memory.
void refuse_foreign(const RegionTable& regions) {
  if (any_registered(0, regions.ranges()).value_or(true)) return;
  throw std::invalid_argument(
      "another process opened this userfaultfd, and no region is registered in this process: "
      "give the target's pid, which handoff.receive() returns");
}

void refuse_registered_later(const TargetOptions& options) {
  if (options.registered) return;
  if (!options.received) {
    throw std::invalid_argument(
        "registered=False is for a userfaultfd that another process opened: leave it out, because "
        "serve() registers the regions of a userfaultfd of this process");
  }
}

void refuse_again(const Userfaultfd& uffd, const TargetOptions& options) {
  if (!options.again) {
    if (!options.trusts_pagemap) return;
    throw std::invalid_argument(
        "trust='pagemap' is for a target that another manager has served before: give again=True, "
        "or leave trust out");
  }
  if (!options.received || !options.registered) {
    throw std::invalid_argument(
        "again=True is for a target of another process, which has registered its memory: leave "
        "again out");
  }
  if (options.trusts_pagemap || !(uffd.features() & UFFD_FEATURE_EVENT_REMOVE)) return;
  throw std::invalid_argument(
      "this target was served before, and its userfaultfd has EVENT_REMOVE: a page that is missing "
      "now was never installed, or the target has dropped it since, and reads as zeros. Nobody can "
      "tell which. Give trust='pagemap' if it is right to install all missing pages");
}

void refuse_no_regions(const RegionTable& regions, const TargetOptions& options) {
  if (!regions.empty() || options.received) return;
  throw std::invalid_argument(
      "a target needs at least one region, unless its userfaultfd was received from its owner");
}

void refuse_beyond(const TargetOptions& options) {
  if (options.beyond != Beyond::poison || (offered_features() & UFFD_FEATURE_POISON)) return;
  throw UnsupportedError(EOPNOTSUPP,
                         "beyond='poison' needs UFFDIO_POISON (Linux 6.6), which this kernel "
                         "lacks: give beyond='zero' if zeros are right, or leave beyond out. "
                         "Threads that touch such memory then sleep",
                         {"Linux 6.6"});
}

}  // namespace

bool is_this_process(const TargetOptions& options) noexcept {
  return options.pid == 0 || options.pid == ::getpid();
}

void check_options(const Userfaultfd& uffd, const TargetOptions& options, Placement placement) {
  refuse_features(uffd.features(), options.inline_faults);
  if (options.fault_around == 0u)
    throw std::invalid_argument("fault_around is 0 pages; it must be at least 1");
  if (options.pid != 0) refuse_pid(options.pid);
  refuse_registered_later(options);
  refuse_again(uffd, options);
  refuse_beyond(options);
  if (options.inline_faults) refuse_inline(options, placement);
  if (placement == Placement::adopt && !options.inline_faults) refuse_unnamed_threads(uffd);
}

void check_regions(const Userfaultfd& uffd, const RegionTable& regions,
                   const TargetOptions& options) {
  const bool this_process = is_this_process(options);
  refuse_no_regions(regions, options);
  if (options.inline_faults) refuse_inline_regions(regions);
  refuse_late(regions, this_process);
  refuse_modes_of_images(regions);
  check_modes(uffd, regions);
  if (!options.received && !this_process) refuse_other_process(options.pid);
  if (!options.received) refuse_unmapped(regions);
  if (!options.received || !options.registered || regions.empty()) return;
  if (this_process) refuse_foreign(regions);
  refuse_page_size(uffd, regions);
}

void check_process(const RegionTable& regions, const TargetOptions& options, Placement placement) {
  if (is_this_process(options) || !options.registered || regions.empty()) return;
  if (placement != Placement::adopt && !options.collapse) return;
  if (any_registered(options.pid, regions.ranges()).value_or(false)) return;
  throw std::invalid_argument(
      "pid is " + std::to_string(options.pid) +
      ", and by its smaps that process has registered none of the regions, or its smaps may not be "
      "read: placement 'adopt' and collapse=True act on the process, so give the target's pid, or "
      "leave them out");
}

void check_collapse(const RegionTable& regions, int pidfd, bool this_process) {
  for (const Region& region : regions.all()) {
    if (region.page_size == sys::page_size()) continue;
    throw std::invalid_argument(name_of(region) + " is hugetlb memory already: leave collapse out");
  }
  if (!this_process && pidfd < 0)
    throw UnsupportedError(
        ENOSYS, "collapse=True needs a pidfd of the target (Linux 5.3): leave collapse out",
        {"Linux 5.3"});
  switch (-may_collapse(this_process ? -1 : pidfd)) {
    case 0:
    case ESRCH:  // the target is about to end
      return;
    case EPERM:
    case EACCES:
      throw UnsupportedError(EPERM,
                             "collapse=True for another process needs CAP_SYS_NICE and ptrace "
                             "permission: leave collapse out, or let the target call MADV_COLLAPSE",
                             {"CAP_SYS_NICE"});
    default:
      throw UnsupportedError(EOPNOTSUPP,
                             "this kernel lacks MADV_COLLAPSE (Linux 6.1, with transparent huge "
                             "pages): leave collapse out",
                             {"Linux 6.1"});
  }
}

}  // namespace uffd
