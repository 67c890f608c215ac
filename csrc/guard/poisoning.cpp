#include "guard/poisoning.hpp"

#include <sched.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "engine/linux/wake_everything.hpp"

namespace uffd::guard {
namespace {

constexpr unsigned kMostReads = 4096;   // of messages, at a time
constexpr unsigned kMostTries = 65536;  // of one page

struct Progress {
  int error;
  uint64_t bytes;
};

Progress poison_range(int uffd, uint64_t start, uint64_t length) noexcept {
  uffdio_poison request{};
  request.range = {start, length};
  const int error = sys::ioctl(uffd, UFFDIO_POISON, &request);
  return {error, request.updated > 0 ? static_cast<uint64_t>(request.updated) : 0};
}

void wake(int uffd, uint64_t start, uint64_t length) noexcept {
  uffdio_range range{start, length};
  sys::ioctl(uffd, UFFDIO_WAKE, &range);
}

// Never waits: the manager that died may have taken O_NONBLOCK away, and the target may.
ssize_t read_now(int uffd, std::span<uffd_msg> messages) noexcept {
  const iovec place{messages.data(), messages.size_bytes()};
  const ssize_t bytes = sys::or_errno(::preadv2(uffd, &place, 1, -1, RWF_NOWAIT));
  if (bytes != -EOPNOTSUPP) return bytes;
  ::fcntl(uffd, F_SETFL, ::fcntl(uffd, F_GETFL) | O_NONBLOCK);  // before Linux 6.10
  return sys::read(uffd, messages.data(), messages.size_bytes());
}

}  // namespace

Result Poisoning::run() noexcept {
  const Result result = poison_all();
  // The manager, or this process, has read faults that it did not answer.
  if (result != Result::gone) sys::wake_everything(uffd_);
  return result;
}

Result Poisoning::poison_all() noexcept {
  if (!target_.ledger()) return Result::on_touch;
  apply_unread();
  Result result = poison_places(uffd_);
  // An event that comes meanwhile may move what is missing, or bear a child that misses it.
  while (result == Result::done && !drain(false)) {
    if (std::exchange(moved_, false)) result = poison_places(uffd_);
  }
  if (gone_) return Result::gone;
  if (result != Result::done) return result;
  if (lost_track_ || target_.ledger()->incomplete || !target_.ledger()->registered)
    return Result::on_touch;
  return poison_unnamed();
}

Result Poisoning::serve() noexcept {
  drain(true);
  if (gone_) return Result::gone;
  return unable_ ? Result::unable : Result::on_touch;
}

Result Poisoning::poison_places(int uffd) noexcept {
  for (uint64_t slot = 0; slot < target_.used_places(); ++slot) {
    const Place& place = target_.place(slot);
    if (place.size() == 0 || place.facts.page_size == 0) continue;
    if (const Result result = poison_place(uffd, place); result != Result::done) return result;
  }
  return Result::done;
}

Result Poisoning::poison_place(int uffd, const Place& place) noexcept {
  const uint64_t start = place.facts.start, page_size = place.facts.page_size;
  const uint64_t first_page = place.facts.first_page;
  switch (place.facts.kind) {
    case PlaceFacts::Kind::unmap_to_come:
      return Result::done;
    case PlaceFacts::Kind::beyond:
      return poison(uffd, start, place.size(), page_size);
    case PlaceFacts::Kind::region:
    case PlaceFacts::Kind::alias:
      break;
  }
  const uint64_t end = std::min(first_page + place.size() / page_size, target_.ledger()->pages);
  for (auto run = target_.next_unsafe(first_page, end); run.first < run.end;
       run = target_.next_unsafe(run.end, end)) {
    const Result result = poison(uffd, start + (run.first - first_page) * page_size,
                                 (run.end - run.first) * page_size, page_size);
    if (result != Result::done) return result;
  }
  return Result::done;
}

Result Poisoning::poison_unnamed() noexcept {
  const LedgerHeader& header = *target_.ledger();
  if (!header.settings.poison_unnamed) return Result::done;
  RegisteredMemory memory(header.pid);
  if (!memory.readable()) return target_.is_gone() ? Result::gone : Result::on_touch;
  for (auto mapping = memory.next(); mapping.start < mapping.end; mapping = memory.next()) {
    if (const Result result = poison_unnamed_of(mapping); result != Result::done) return result;
  }
  return Result::done;
}

Result Poisoning::poison_unnamed_of(const RegisteredMemory::Mapping& mapping) noexcept {
  for (uint64_t start = mapping.start; start < mapping.end;) {
    const KeptTarget::Gap gap = target_.gap(start, mapping.end);
    if (gap.start < gap.end) {
      const Result result = poison(uffd_, gap.start, gap.end - gap.start, mapping.page_size);
      if (result != Result::done) return result;
    }
    start = gap.end;
  }
  return Result::done;
}

Result Poisoning::poison(int uffd, uint64_t start, uint64_t length, uint64_t page_size) noexcept {
  unsigned tries = 0;
  const uint64_t end = start + length;
  for (uint64_t limit = end; start < end;) {
    const Progress progress = poison_range(uffd, start, limit - start);
    start += progress.bytes;
    poisoned_ += progress.bytes / page_size;
    if (progress.bytes > 0) {
      limit = end;
      continue;
    }
    // The kernel refuses a run that lies in several mappings as a whole.
    if (progress.error == -ENOENT && limit - start > page_size) {
      limit = start + (limit - start) / page_size / 2 * page_size;
      continue;
    }
    switch (-progress.error) {
      case EAGAIN:
        if (++tries > kMostTries) return Result::on_touch;
        if (drain(false)) ::sched_yield();
        if (gone_) return Result::gone;
        continue;
      case ESRCH:
        gone_ = true;
        return Result::gone;
      case EEXIST:  // it is present
      case ENOENT:  // it is not registered any more, or not yet
      case EFAULT:
        wake(uffd, start, page_size);
        start += page_size;
        limit = end;
        continue;
      case ENOMEM:
        if (++tries > kMostTries) return Result::on_touch;
        ::sched_yield();
        continue;
      default:
        unable_ = true;
        return Result::unable;
    }
  }
  return Result::done;
}

// Messages that the manager had read, and had not yet noted.
void Poisoning::apply_unread() noexcept {
  for (const uffd_msg& message : target_.ledger()->messages) {
    if (message.event == UFFD_EVENT_FORK) ++lost_children_;
    if (message.event == UFFD_EVENT_REMAP)
      move(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
  }
}

// What lies at the new place lies at the old one, too, as far as the guard knows: to poison a page
// where it does not lie any more does nothing.
void Poisoning::move(uint64_t from, uint64_t to, uint64_t length) noexcept {
  const uint64_t used = target_.used_places();
  for (uint64_t slot = 0; slot < used; ++slot) {
    const Place& place = target_.place(slot);
    const uint64_t start = std::max(place.facts.start, from);
    const uint64_t end = std::min(place.end(), from + length);
    if (start >= end || place.facts.page_size == 0) continue;
    PlaceFacts moved = place.facts;
    moved.start = to + (start - from);
    moved.first_page += (start - place.facts.start) / place.facts.page_size;
    if (!target_.add_place(moved, end - start)) lost_track_ = true;
    moved_ = true;
  }
}

bool Poisoning::drain(bool poisons_faults) noexcept {
  std::array<uffd_msg, 64> messages;
  for (unsigned reads = 0; reads < kMostReads; ++reads) {
    const ssize_t bytes = read_now(uffd_, messages);
    if (bytes == -EMFILE || bytes == -ENFILE || bytes == -ENOMEM) lost_track_ = true;
    if (bytes <= 0) return true;
    const auto count = static_cast<size_t>(bytes) / sizeof(uffd_msg);
    for (size_t i = 0; i < count; ++i) {
      if (messages[i].event != UFFD_EVENT_PAGEFAULT) {
        apply(messages[i]);
      } else if (poisons_faults) {
        answer(messages[i]);
      }
    }
    if (moved_ && !poisons_faults) return false;
  }
  return true;
}

void Poisoning::apply(const uffd_msg& message) noexcept {
  if (message.event == UFFD_EVENT_REMAP && target_.ledger())
    return move(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
  if (message.event != UFFD_EVENT_FORK) return;
  const int child = static_cast<int>(message.arg.fork.ufd);
  // Where what the child misses is not known, it stays open: its threads sleep.
  if (!target_.ledger() || poison_places(child) != Result::done) return;
  sys::wake_everything(child);
  ::close(child);
}

// A fault, where what is missing is not known.
void Poisoning::answer(const uffd_msg& message) noexcept {
  const uint64_t page_size = page_size_at(message.arg.pagefault.address);
  const uint64_t start = message.arg.pagefault.address & ~(page_size - 1);
  if (unable_) return;
  const Progress progress = poison_range(uffd_, start, page_size);
  poisoned_ += progress.bytes / page_size;
  gone_ = gone_ || progress.error == -ESRCH;
  unable_ = progress.error == -EINVAL || progress.error == -ENOTTY;
  if (progress.bytes == 0 && !unable_) wake(uffd_, start, page_size);
}

uint64_t Poisoning::page_size_at(uint64_t address) const noexcept {
  for (uint64_t slot = 0; target_.ledger() && slot < target_.used_places(); ++slot) {
    const Place& place = target_.place(slot);
    if (address - place.facts.start < place.size()) return place.facts.page_size;
  }
  return sys::page_size();
}

}  // namespace uffd::guard
