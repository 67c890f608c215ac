// What Manager::add() refuses: each refusal names the wrong value and what to do instead.
#pragma once

#include "engine/serve/manager/placement.hpp"
#include "engine/serve/manager/target_options.hpp"
#include "engine/target/region_table.hpp"

namespace uffd {

// The checks throw std::invalid_argument or UnsupportedError, and change nothing. Any thread.
void check_options(const Userfaultfd& uffd, const TargetOptions& options, Placement placement);
void check_regions(const Userfaultfd& uffd, const RegionTable& regions,
                   const TargetOptions& options);
// What acts on a process, and not on its memory alone, must act on the one that has the memory: the
// pid of a hand-off may belong to another one by now. After what tells who lacks which permission.
void check_process(const RegionTable& regions, const TargetOptions& options, Placement placement);
// pidfd: of the target, or -1 where there is none.
void check_collapse(const RegionTable& regions, int pidfd, bool this_process);

// Whether a target of these options is this process.
bool is_this_process(const TargetOptions& options) noexcept;

}  // namespace uffd
