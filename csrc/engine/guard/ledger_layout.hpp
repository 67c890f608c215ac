// What is known of a target, in memory that its manager shares with the guard and with the manager
// that comes after it.
//
// One memfd a target: a header; the messages that were read last; the places where its pages lie;
// and sets of pages, one bit each. The manager writes, and may be killed at any instruction. Who
// reads afterwards may rely on this:
//  * A page that is noted as settled is settled. A page that is not may be present: COPY and POISON
//    then say EEXIST.
//  * The kernel writes the messages of a living target straight into the ledger. Each is cleared
//    when its event was applied and noted, so none is lost between its read and its note.
//  * Memory that moves is noted at its new place before it is forgotten at the old one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "engine/linux/uapi.hpp"

namespace uffd {

// Where pages [first_page, first_page + length / page_size) of the target lie, and what they are.
struct PlaceFacts {
  enum class Kind : uint32_t {
    region,
    alias,          // another place of shared pages
    beyond,         // registered memory outside all regions, which is to be poisoned; without pages
    unmap_to_come,  // an UNMAP event of it is still to come, and means what lay there before
  };

  uint64_t start = 0;
  uint64_t page_size = 0;
  uint64_t first_page = 0;
  uint64_t source_offset = 0;
  uint32_t source = 0;  // its number among the target's sources; kNoSource
  uint32_t modes = 0;
  uint32_t on_remove = 0;
  uint32_t shared = 0;
  Kind kind = Kind::region;

  static constexpr uint32_t kNoSource = UINT32_MAX;
};

// A slot of the ledger: free where length, in bytes, is 0. length is written last.
struct Place {
  std::atomic<uint64_t> length{0};
  PlaceFacts facts;

  uint64_t size() const noexcept { return length.load(std::memory_order_acquire); }
  uint64_t end() const noexcept { return facts.start + size(); }
};

// How the target is served.
struct LedgerSettings {
  uint32_t ending = 0;
  uint32_t fault_around = 0;  // pages; 0: learned
  uint32_t verify = 0;
  uint32_t collapse = 0;
  uint32_t beyond = 0;
  uint32_t after_death = 0;
  // Registered memory that no place names is to be poisoned. A living target's is in the places.
  uint32_t poison_unnamed = 0;
  uint32_t trusts_pagemap = 0;
};

struct LedgerHeader {
  static constexpr uint64_t kMagic = 0x7265676465666675;  // "uffedger"
  static constexpr uint32_t kVersion = 2;
  static constexpr size_t kMessages = 64;
  static constexpr uint32_t kNothing = UINT32_MAX;

  // How far a REMAP event is applied.
  enum Phase : uint32_t {
    begun,   // what lay at the new place may still be noted there
    moving,  // what is noted at the new place has been moved there
    moved,   // all is noted
  };

  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  int32_t pid = 0;  // of the target; -1: not known
  uint64_t target = 0;
  uint64_t length = 0;  // of the ledger, in bytes
  uint64_t pages = 0;
  // The offsets of what follows the header.
  uint64_t places_at = 0, settled_at = 0, poisoned_at = 0;
  uint64_t written_at = 0;  // 0: writes are not tracked
  uint64_t places = 0;      // slots
  uint64_t parent = 0;      // the target whose fork child this one is; 0: none
  LedgerSettings settings;

  // The process that manages the target. Only its guard acts: a manager that takes over has its own
  // guard hold the target first, and then writes its number here.
  std::atomic<uint64_t> owner{0};
  std::atomic<uint32_t> registered{0};  // the owner has registered the regions
  // Where memory was short, or a table was full: what the places say is not all there is.
  std::atomic<uint32_t> incomplete{0};
  std::atomic<uint64_t> used_places{0};  // slots from this one on were never used
  // The message that is being applied, times 4, and its Phase; kNothing.
  std::atomic<uint32_t> applying{kNothing};
  std::array<uffd_msg, kMessages> messages{};
};

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// Whether the header describes what the memory, of so many bytes, holds.
inline bool is_sound(const LedgerHeader& header, uint64_t length) noexcept {
  const uint64_t set = (header.pages / 64 + 1) * sizeof(uint64_t);
  const auto fits = [length](uint64_t at, uint64_t bytes) {
    return at >= sizeof(LedgerHeader) && at <= length && bytes <= length - at;
  };
  return header.magic == LedgerHeader::kMagic && header.version == LedgerHeader::kVersion &&
         header.length == length && header.places <= length / sizeof(Place) &&
         fits(header.places_at, header.places * sizeof(Place)) && fits(header.settled_at, set) &&
         fits(header.poisoned_at, set) && (header.written_at == 0 || fits(header.written_at, set));
}

// The sets are arrays of such words; page p is bit p % 64 of word p / 64.
using PageWords = std::atomic<uint64_t>*;

}  // namespace uffd
