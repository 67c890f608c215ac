// What is done with a target's regions before its first message is read: checked, registered,
// looked at. By the thread that adds the target.
#pragma once

#include <optional>
#include <vector>

#include "engine/target/target.hpp"

namespace uffd {

// Throws UnsupportedError where this kernel, or this userfaultfd, cannot do a region's modes.
void check_modes(const Userfaultfd& uffd, const RegionTable& regions);

// Registers the regions in their modes; those registered before are let go again when one is
// refused. Throws SystemError or std::invalid_argument that names the region and the reason.
void register_regions(const Userfaultfd& uffd, const RegionTable& regions);

// What must be known of a living target before its first event: which memory is shared, and what is
// registered beyond its regions, where that matters. Empty where maps or smaps may not be read.
struct LivingLook {
  std::optional<std::vector<Range>> shared, registered;
};
// Reads maps and smaps, which takes milliseconds where there are many mappings, and does not look
// at the target's regions.
LivingLook look_at_living(const Target& target);
// Decides what is to become of pages that are removed. Throws UnsupportedError where a page would
// have to be poisoned and this kernel cannot.
void apply_look(const LivingLook& look, Target& target);
// The same of a fork child, of which the kernel tells no pid: what is known of its parent.
void look_at_child(Target& child, const Target& parent);

}  // namespace uffd
