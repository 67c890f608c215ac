// The table of the targets of this process that are served inline, and the process's disposition of
// SIGBUS. Any thread may call. In a fork child the table is empty, and SIGBUS is still handled
// here.
#pragma once

#include "engine/linux/range.hpp"

namespace uffd {

struct ServedTarget;

namespace inline_targets {

// Adds a target, before its regions are registered; the first one takes over SIGBUS. Throws
// SystemError where there are too many targets.
void add(ServedTarget& served);
// When this returns no signal handler uses the target any more. A thread whose fault is not
// resolved yet touches again.
void remove(ServedTarget& served) noexcept;

// Where somebody has taken SIGBUS over while targets are served inline: takes it back, and passes
// on to their signal handler what is not ours. Whether it had to.
bool regain_signal() noexcept;

// Installs the missing pages of the range in all targets; false as InlineFaults::install.
bool install(const Range& range) noexcept;

}  // namespace inline_targets

}  // namespace uffd
