// What is done with a target's regions before its first message is read: checked, registered,
// looked at. By the thread that adds the target.
#pragma once

#include "engine/target/target.hpp"

namespace uffd {

// Throws UnsupportedError where this kernel, or this userfaultfd, cannot do a region's modes.
void check_modes(const Userfaultfd& uffd, const RegionTable& regions);

// Registers the regions in their modes; those registered before are let go again when one is
// refused. Throws SystemError or std::invalid_argument that names the region and the reason.
void register_regions(const Userfaultfd& uffd, const RegionTable& regions);

// Finds out what must be known of a living target before its first event: which regions are
// shared, what is to become of pages that are removed from them, and what memory is registered
// beyond them. Reads maps and smaps. Throws UnsupportedError where a page would have to be poisoned
// and this kernel cannot.
void look_at_living(Target& target);

}  // namespace uffd
