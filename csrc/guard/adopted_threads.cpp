#include "guard/adopted_threads.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/guard/adoption_ledger.hpp"

namespace uffd::guard {

bool AdoptedThreads::keep(uint64_t number, Fd ledger) noexcept {
  const auto place = std::ranges::find(kept_, 0U, &Kept::number);
  if (place == kept_.end() || !ledger) return false;
  *place = {number, std::move(ledger)};
  return true;
}

void AdoptedThreads::forget(uint64_t number) noexcept {
  const auto place = std::ranges::find(kept_, number, &Kept::number);
  if (place != kept_.end()) *place = {};
}

void AdoptedThreads::give_masks_back() noexcept {
  const auto any = std::ranges::any_of(kept_, [](const Kept& kept) { return kept.number != 0; });
  if (!any || ::fork() != 0) return;
  close_all_else();
  for (Kept& kept : kept_) {
    if (kept.number != 0) AdoptionLedger(std::move(kept.ledger)).give_back_all();
  }
  ::_exit(0);
}

// A userfaultfd that this process holds would not be released by its last owner.
void AdoptedThreads::close_all_else() noexcept {
  std::array<int, kMost> ledgers;
  std::ranges::transform(kept_, ledgers.begin(),
                         [](const Kept& kept) { return kept.ledger.get(); });
  std::ranges::sort(ledgers);
  int next = 0;
  for (const int ledger : ledgers) {
    if (ledger > next) ::syscall(SYS_close_range, next, ledger - 1, 0);
    next = std::max(next, ledger + 1);
  }
  ::syscall(SYS_close_range, next, ~0u, 0);
}

}  // namespace uffd::guard
