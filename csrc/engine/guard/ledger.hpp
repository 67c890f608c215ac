// The ledger of a target, as its manager writes it.
//
// Owned by the target. Any thread marks pages; the places are changed as the target's regions are:
// by its handler, alone in the event gate.
#pragma once

#include <span>
#include <vector>

#include "engine/guard/ledger_layout.hpp"
#include "engine/linux/fd.hpp"
#include "engine/linux/range.hpp"

namespace uffd {

class Ledger {
 public:
  struct Facts {
    uint64_t target = 0;
    uint64_t parent = 0;
    pid_t pid = 0;
    uint64_t pages = 0;
    size_t regions = 0;
    bool tracks_writes = false;
  };

  // Throws SystemError.
  explicit Ledger(const Facts& facts);
  // That of a manager that has died. Throws std::invalid_argument where it is none, or of another
  // version.
  explicit Ledger(Fd memory);
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;
  ~Ledger();

  int fd() const noexcept { return memory_.get(); }
  // Nobody is given the ledger any more; what it says is kept as long as this lives.
  void close() noexcept { memory_.close(); }
  LedgerHeader& header() noexcept { return *header_; }
  const LedgerHeader& header() const noexcept { return *header_; }
  PageWords settled() const noexcept { return words_at(header_->settled_at); }
  PageWords poisoned() const noexcept { return words_at(header_->poisoned_at); }
  // nullptr where writes are not tracked.
  PageWords written() const noexcept {
    return header_->written_at == 0 ? nullptr : words_at(header_->written_at);
  }

  // Where the kernel writes messages to. All are clear before a read.
  std::span<uffd_msg> messages() noexcept { return header_->messages; }
  // A message is being applied; is applied and noted; all of a read are.
  void begin(size_t message) noexcept { header_->applying = static_cast<uint32_t>(message) * 4; }
  void reach(LedgerHeader::Phase phase) noexcept;
  void clear(size_t message) noexcept;
  void end() noexcept { header_->applying = LedgerHeader::kNothing; }
  // How far the first message that is not clear was applied when its manager died.
  LedgerHeader::Phase phase_of(size_t message) const noexcept;

  void set_registered(bool registered) noexcept { header_->registered = registered; }
  void set_incomplete() noexcept { header_->incomplete = 1; }

  using Slot = uint32_t;
  static constexpr Slot kNone = UINT32_MAX;
  // kNone where no slot is left: the ledger is incomplete then.
  Slot note(const PlaceFacts& facts, uint64_t length) noexcept;
  void amend(Slot slot, const PlaceFacts& facts) noexcept;  // before it is served
  void shorten(Slot slot, uint64_t length) noexcept;
  void forget(Slot slot) noexcept;
  // Notes ranges in place of all others of a kind that has no pages.
  void replace(PlaceFacts::Kind kind, std::span<const Range> ranges) noexcept;
  // The slots that are used or were; a free one has the length 0.
  std::span<Place> places() const noexcept { return {places_, header_->used_places}; }

 private:
  void map(uint64_t length);
  PageWords words_at(uint64_t offset) const noexcept {
    return reinterpret_cast<PageWords>(bytes_ + offset);
  }

  Fd memory_;
  std::byte* bytes_ = nullptr;
  LedgerHeader* header_ = nullptr;
  Place* places_ = nullptr;
  std::vector<Slot> free_;
};

}  // namespace uffd
