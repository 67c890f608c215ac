// Manager::written(): what a target wrote to in write-protected regions.
#include "engine/linux/syscall.hpp"
#include "engine/serve/manager/manager.hpp"

namespace uffd {
namespace {

// With forget, pages are forgotten before they are write-protected again: a write in between is one
// that came before written() returned.
RangeSet collect(ServedTarget& served, PageSet& written, bool forget) {
  RangeSet ranges;
  const auto shared = served.installing();
  for (const Region& region : served.target.regions().all()) {
    for (uint64_t first = region.first_page;
         (first = written.next_inside(first, region.end_page())) < region.end_page();) {
      const uint64_t end = written.next_outside(first, region.end_page());
      ranges.add({region.address_of(first), (end - first) * region.page_size});
      if (forget) written.remove(first, end - first);
      first = end;
    }
  }
  return ranges;
}

// One attempt, under a lease: true where it need not be tried again.
bool try_protect(ServedTarget& served, const Range& range) {
  const Lease lease(served);
  if (!lease) return true;
  const auto shared = served.installing();
  return served.target.uffd().writeprotect(range.start, range.length,
                                           UFFDIO_WRITEPROTECT_MODE_WP) != -EAGAIN;
}

void protect(ServedTarget& served, const Range& range) {
  for (Patience patience; !try_protect(served, range);) {
    if (patience.at_once()) {
      ::sched_yield();
    } else {
      const auto pause = std::chrono::ceil<std::chrono::milliseconds>(patience.pause());
      served.life.wait(pause, [&] { return served.life.stage() != Stage::serving; });
    }
  }
}

}  // namespace

std::vector<Range> Manager::written(ServedTarget& served, bool reset) {
  PageSet* const written = served.target.written();
  if (!written)
    throw std::logic_error("no region of this target is write-protected: give mode='missing+wp'");
  const RangeSet ranges = collect(served, *written, reset);
  for (const Range& range : ranges.all()) {
    if (reset) protect(served, range);
  }
  return ranges.all();
}

}  // namespace uffd
