#include "engine/serve/manager/install_choice.hpp"

#include <stdexcept>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/huge_pages.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/serve/fill/staging.hpp"

namespace uffd {
namespace {

[[noreturn]] void refuse(const Region& region, const std::string& why) {
  throw std::invalid_argument("install is 'move', but region " +
                              range_text(region.range.start, region.range.length) + " " + why);
}

// Why nothing can be moved into the region, as far as one can tell without asking the kernel; empty
// where there is no reason.
std::string obstacle(const Region& region) {
  if (!region.late()) {
    return "has a source whose bytes are at hand, so there is no buffer to move: give 'auto' or "
           "'copy'";
  }
  if (region.page_size != sys::page_size()) return "is hugetlb memory: give 'auto' or 'copy'";
  // A page that is moved in is not write-protected: no write to it would be noted.
  if (region.modes != UFFDIO_REGISTER_MODE_MISSING)
    return "does not have mode='missing': give 'auto' or 'copy'";
  if (region.on_remove == OnRemove::keep) {
    return "has on_remove='keep', so its bytes can be needed twice, and UFFDIO_MOVE does not keep "
           "them: give 'auto' or 'copy'";
  }
  return {};
}

void refuse_all(const Userfaultfd& uffd, bool this_process) {
  const std::string asked = "install is 'move', but ";
  if (!this_process)
    throw std::invalid_argument(asked +
                                "UFFDIO_MOVE works only in this process: give 'auto' or 'copy'");
  if (!(uffd.features() & UFFD_FEATURE_MOVE)) {
    throw std::invalid_argument(
        asked +
        "the userfaultfd was opened without Feature.MOVE (Linux 6.8): open it with the feature");
  }
  if (huge_page_size() == 0)
    throw UnsupportedError(
        EOPNOTSUPP, asked + "this kernel has no transparent huge pages: give 'auto' or 'copy'",
        {"CONFIG_TRANSPARENT_HUGEPAGE"});
  if (huge_page_size() > Staging::kMostUnit) {
    throw UnsupportedError(EOPNOTSUPP,
                           asked + "this kernel's huge pages have " +
                               std::to_string(huge_page_size()) +
                               " bytes, which pyuffd cannot read at once: give 'auto' or "
                               "'copy'",
                           {});
  }
}

// Memory for a whole huge page that was never touched, as the origin of a MOVE that moves nothing.
// It must be untouched: where the kernel has page tables for the origin it makes some at the
// destination, too, and then no huge page fits there any more.
class Hole {
 public:
  explicit Hole(uint64_t unit)
      : memory_(2 * unit, MemoryKind::anonymous, false),
        start_((memory_.address() + unit - 1) / unit * unit) {}

  // Asks the kernel by a MOVE that moves nothing.
  bool may_be_moved_into(const Userfaultfd& uffd, const Region& region) const noexcept {
    return uffd.move(region.range.start, start_, sys::page_size(), 0).error != -EINVAL;
  }

 private:
  Mapping memory_;
  uint64_t start_;
};

}  // namespace

void choose_moves(const Userfaultfd& uffd, RegionTable& regions, bool this_process,
                  Install install) {
  const bool forced = install == Install::move;
  if (forced) refuse_all(uffd, this_process);
  const uint64_t unit = huge_page_size();
  if (install == Install::copy || !this_process || !(uffd.features() & UFFD_FEATURE_MOVE) ||
      unit == 0 || unit > Staging::kMostUnit || (!forced && !huge_pages_admitted()))
    return;
  const Hole hole(unit);
  regions.for_each([&](Region& region) {
    if (const std::string why = obstacle(region); !why.empty()) {
      if (forced) refuse(region, why);
    } else if (hole.may_be_moved_into(uffd, region)) {
      region.move_unit = unit;
    } else if (forced) {
      refuse(
          region,
          "is not private anonymous memory that is readable, writable and not locked (mlock). The "
          "kernel moves pages only into such memory (EINVAL): give 'auto' or 'copy'");
    }
  });
}

}  // namespace uffd
