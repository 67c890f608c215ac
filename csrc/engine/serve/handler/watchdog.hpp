// Looks after a target: is its address space still there, and does nobody sleep unseen?
//
// The handler's thread asks once a second for each of its targets, between two batches.
#pragma once

#include "engine/serve/handler/charge.hpp"

namespace uffd::watchdog {

// No message tells of death or exec: the userfaultfd's next ioctl does.
bool is_gone(const ServedTarget& served) noexcept;

// Between batches every fault that was read is resolved, waits for a fetch or is to be tried again.
// A thread that sleeps without such a fault is lost: its message was read by another process, or
// its wake-up was lost. Where there were such threads at two looks in a row, they are counted, and
// all threads are woken and fault again.
void check_sleepers(Charge& charge);

}  // namespace uffd::watchdog
