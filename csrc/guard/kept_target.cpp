#include "guard/kept_target.hpp"

#include <sys/stat.h>

#include <utility>

namespace uffd::guard {
KeptTarget::KeptTarget(const GuardMessage& message, Fd uffd, Fd memory, Fd completion) noexcept
    : id_(message.target),
      owner_(message.owner),
      after_(message.after),
      uffd_(std::move(uffd)),
      memory_(std::move(memory)),
      completion_(std::move(completion)) {
  struct stat status{};
  if (::fstat(memory_.get(), &status) < 0) return;
  const auto length = static_cast<uint64_t>(status.st_size);
  if (length < sizeof(LedgerHeader)) return;
  void* const mapped =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
  if (mapped == MAP_FAILED) return;
  ledger_ = static_cast<LedgerHeader*>(mapped);
  if (is_sound(*ledger_, length)) return;
  ::munmap(std::exchange(ledger_, nullptr), length);
}

KeptTarget::~KeptTarget() {
  if (ledger_) ::munmap(ledger_, ledger_->length);
}

void KeptTarget::swap(KeptTarget& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(owner_, other.owner_);
  std::swap(after_, other.after_);
  std::swap(uffd_, other.uffd_);
  std::swap(memory_, other.memory_);
  std::swap(completion_, other.completion_);
  std::swap(ledger_, other.ledger_);
}

bool KeptTarget::is_ours() const noexcept {
  return !ledger_ || ledger_->owner.load(std::memory_order_acquire) == owner_;
}

// A COPY of bytes that cannot be read: whether the address space lives is looked at first.
bool KeptTarget::is_gone() const noexcept {
  constexpr uint64_t some_address = 1 << 30;
  uffdio_copy request{};
  request.dst = some_address;
  request.len = sys::page_size();
  return sys::ioctl(uffd_.get(), UFFDIO_COPY, &request) == -ESRCH;
}

PageWords KeptTarget::words(uint64_t offset) const noexcept {
  return reinterpret_cast<PageWords>(reinterpret_cast<std::byte*>(ledger_) + offset);
}

bool KeptTarget::is_unsafe(uint64_t page) const noexcept {
  const auto holds = [page](PageWords words) {
    return ((words[page / 64].load(std::memory_order_acquire) >> (page % 64)) & 1) != 0;
  };
  return !holds(words(ledger_->settled_at)) || holds(words(ledger_->poisoned_at));
}

KeptTarget::Run KeptTarget::next_unsafe(uint64_t from, uint64_t end) const noexcept {
  while (from < end && !is_unsafe(from)) ++from;
  Run run{from, from};
  while (run.end < end && is_unsafe(run.end)) ++run.end;
  return run;
}

KeptTarget::Gap KeptTarget::gap(uint64_t from, uint64_t end) const noexcept {
  Gap found{from, end};
  for (uint64_t slot = 0; slot < used_places(); ++slot) {
    const Place& named = place(slot);
    if (named.size() == 0) continue;
    if (named.facts.start <= from && from < named.end()) return {named.end(), named.end()};
    if (named.facts.start > from && named.facts.start < found.end) found.end = named.facts.start;
  }
  return found;
}

Place& KeptTarget::place(uint64_t slot) const noexcept {
  return reinterpret_cast<Place*>(reinterpret_cast<std::byte*>(ledger_) + ledger_->places_at)[slot];
}

uint64_t KeptTarget::used_places() const noexcept {
  const uint64_t used = ledger_->used_places.load(std::memory_order_acquire);
  return used < ledger_->places ? used : ledger_->places;
}

bool KeptTarget::add_place(PlaceFacts facts, uint64_t length) noexcept {
  const uint64_t slot = used_places();
  if (slot == ledger_->places) return false;
  place(slot).facts = facts;
  place(slot).length = length;
  ledger_->used_places = slot + 1;
  return true;
}

}  // namespace uffd::guard
