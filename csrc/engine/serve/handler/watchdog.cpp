#include "engine/serve/handler/watchdog.hpp"

#include <new>

#include "engine/linux/fdinfo.hpp"
#include "engine/serve/served/journal.hpp"
#include "engine/serve/served/statistics.hpp"

namespace uffd::watchdog {
namespace {

uint64_t unseen_sleepers(const Charge& charge) {
  ServedTarget& served = *charge.served;
  if (served.outstanding_fetches > 0 || !charge.pending.empty()) return 0;
  // A thread that touches what can be neither supplied nor poisoned sleeps for good, and rightly.
  if (count(served, Count::failed) > 0) return 0;
  const auto info = read_fdinfo(served.target.uffd().fd());
  return info && info->total > info->pending ? info->total - info->pending : 0;
}

}  // namespace

bool is_gone(const ServedTarget& served) noexcept {
  return !served.target.is_this_process() && served.target.address_space_gone();
}

void check_sleepers(Charge& charge) {
  ServedTarget& served = *charge.served;
  const uint64_t before = charge.unseen_sleepers;
  charge.unseen_sleepers = unseen_sleepers(charge);
  if (before == 0 || charge.unseen_sleepers == 0) return;
  served.handler_counters.add(Count::lost_wakes, charge.unseen_sleepers);
  journal().write({News::lost_wakes, served.target.id(), charge.unseen_sleepers});
  charge.unseen_sleepers = 0;
  wake_all(served.target);
}

}  // namespace uffd::watchdog
