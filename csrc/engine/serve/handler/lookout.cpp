#include "engine/serve/handler/lookout.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "engine/serve/adoption/adoption.hpp"
#include "engine/serve/handler/watchdog.hpp"
#include "engine/serve/served/journal.hpp"

namespace uffd {
namespace {

// How many targets are looked at in one go: a look takes some 15 us, and a fault may wait for all
// of them.
constexpr size_t kAtOnce = 16;
constexpr auto kEveryNs = static_cast<uint64_t>(Lookout::kEvery.count());

}  // namespace

void Lookout::look(std::span<const std::unique_ptr<Charge>> charges, uint64_t now) noexcept {
  if (now >= watch_at_) watch(charges, now);
  if (now >= review_at_) review_adoptions(charges, now);
}

void Lookout::expect_review(uint64_t now) noexcept {
  review_at_ = std::min(review_at_, now + Adoption::kReviewNs);
}

namespace {

// Where its guard has ended, another one is to hold the target, or the masks of its threads.
void see_to_guard(ServedTarget& served) noexcept {
  if (!served.target.ledger() && !served.adoption) return;
  const bool runs = guard_link().look();
  if (!served.target.ledger()) return;
  if (runs && served.guarded_by == guard_link().generation()) return;
  const bool was_guarded = std::exchange(served.guarded_by, 0) != 0;
  if (runs && served.keep_guarded()) {
    journal().write({News::guarded, served.target.id()});
  } else if (was_guarded) {
    journal().write({News::unguarded, served.target.id()});
  }
}

}  // namespace

void Lookout::watch(std::span<const std::unique_ptr<Charge>> charges, uint64_t now) noexcept {
  const size_t some = std::min(charges.size(), kAtOnce);
  watch_at_ = now + (some == 0 ? kEveryNs : kEveryNs * some / charges.size());
  for (size_t i = 0; i < some; ++i) {
    next_ = (next_ + 1) % charges.size();
    Charge& charge = *charges[next_];
    try {
      if (watchdog::is_gone(*charge.served)) {
        charge.served->tell_gone();
      } else {
        watchdog::check_sleepers(charge);
        see_to_guard(*charge.served);
      }
    } catch (const std::bad_alloc&) {
      return;  // they are looked at the next time
    }
  }
}

void Lookout::review_adoptions(std::span<const std::unique_ptr<Charge>> charges,
                               uint64_t now) noexcept {
  bool holds = false;
  for (const auto& charge : charges) {
    Adoption* const adoption = charge->served->adoption.get();
    if (!adoption) continue;
    adoption->review_when_due(now);
    holds = holds || adoption->held() > 0;
  }
  review_at_ = now + (holds ? Adoption::kReviewNs : kEveryNs);
}

}  // namespace uffd
