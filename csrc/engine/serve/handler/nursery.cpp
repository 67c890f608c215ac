#include "engine/serve/handler/nursery.hpp"

#include <algorithm>
#include <new>

#include "engine/serve/handler/watchdog.hpp"

namespace uffd {
namespace {

constexpr uint64_t kLookEveryNs = 50'000'000;

// About the size of a copy of the target.
size_t size_of_books(const Target& target) {
  constexpr size_t bytes_of_region = 256;
  return target.residency().pages() / 8 + target.regions().size() * bytes_of_region +
         sizeof(ServedTarget);
}

bool is_fork_child(const ServedTarget& served) noexcept {
  return served.target.pid() == kUnknownPid;
}

}  // namespace

void Nursery::add(ServedTarget& parent, Userfaultfd uffd) noexcept {
  if (uffd.fd() < 0) return;
  try {
    born_.push_back(bear_within_quota(parent, uffd));
  } catch (const std::bad_alloc&) {
    parent.handler_counters.add(Count::failed, parent.target.residency().missing());
    uffd.leave_open();
  }
}

std::shared_ptr<ServedTarget> Nursery::bear_within_quota(ServedTarget& parent, Userfaultfd& uffd) {
  const size_t bytes = size_of_books(parent.target);
  if (used_->load() + bytes > kMostBytes) return bear(parent, uffd, Books::none);
  try {
    auto child = bear(parent, uffd, Books::copied);
    child->books = std::shared_ptr<void>(nullptr, [used = used_, bytes](void*) { *used -= bytes; });
    *used_ += bytes;
    return child;
  } catch (const std::bad_alloc&) {
    return bear(parent, uffd, Books::none);
  }
}

std::span<const std::shared_ptr<ServedTarget>> Nursery::born() noexcept {
  for (const auto& child : born_) {
    // Without a spare descriptor the child has taken the last one: unserved, it gives that back
    // soon.
    if (!spare_.take() && child->target.residency().pages() > 0) child->unserved = true;
  }
  return born_;
}

bool Nursery::make_room(std::span<const std::unique_ptr<Charge>> charges) noexcept {
  const auto is_leaving = [](const std::unique_ptr<Charge>& charge) {
    return charge->served->gone || charge->served->life.stage() == Stage::leaving;
  };
  const uint64_t now = sys::monotonic_ns();
  if (now >= look_at_) {
    look_at_ = now + kLookEveryNs;
    for (const auto& charge : charges) {
      if (is_fork_child(*charge->served) && watchdog::is_gone(*charge->served))
        charge->served->tell_gone();
    }
  }
  return std::none_of(charges.begin(), charges.end(), is_leaving) && spare_.give();
}

}  // namespace uffd
