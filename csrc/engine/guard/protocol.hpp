// What a manager and its guard say to each other: one packet a message, over a socket that only the
// two have.
#pragma once

#include <cstdint>

namespace uffd {

// The descriptors that the guard begins with: its socket, and a pidfd of its manager.
inline constexpr int kGuardSocket = 3, kGuardManager = 4;

// What the guard does about a target when its manager has died.
enum class AfterDeath : uint32_t {
  poison,    // what is missing
  hand_over  // to the next manager, for which it waits
};

struct GuardMessage {
  // The numbers stay what they are: the next manager may be of another version.
  enum class Kind : uint32_t {
    hello = 0,       // by the guard, once; with a pidfd of it
    keep = 1,        // with the userfaultfd and ledger of a target, and its completion, if any
    let_go = 2,      // the target is about to end: close its userfaultfd, and answer
    let_gone = 3,    // by the guard: it is closed
    listen = 4,      // with a listening socket, at which the next manager is awaited; target: how
                     // many seconds after the death of this one, 0: for ever
    keep_masks = 9,  // with the ledger of adopted threads (AdoptionLedger); target: its number
    forget_masks = 10,  // the same number: all masks are given back
    stand_in = 11,      // with a pidfd of another guard: act only when that has ended, too
    // To the next manager, over a connection to the listening socket:
    heirloom = 5,  // with what came with keep
    all = 6,       // there is no other
    taken = 7,     // by the next manager: it holds them, so the guard may end
    give_up = 8,   // instead: there will be no next manager, so poison what is missing
  };

  Kind kind = Kind::hello;
  AfterDeath after = AfterDeath::poison;  // of keep
  uint64_t target = 0;
  uint64_t owner = 0;  // of keep: see LedgerHeader::owner
};

}  // namespace uffd
