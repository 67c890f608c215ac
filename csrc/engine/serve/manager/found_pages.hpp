// Pages that are present when serving begins, though nobody of ours installed them: a touch of one
// is no fault, and nobody vouches for its bytes.
//
// Memory that pyuffd made (Mapping) and that is served whole is proved empty: what the kernel has
// populated behind our back (transparent huge pages, mlockall) holds zeros, and is dropped. Pages
// that its user has written to, and pages found in any other memory, are kept or refused.
#pragma once

#include "engine/serve/manager/target_options.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

// Drops the pages of zeros of mappings that pyuffd made and that these regions cover from end to
// end. Called while nobody has to read an event of that: before they are registered, or where the
// userfaultfd has no event features. Throws std::invalid_argument that names the region where they
// cannot be dropped.
void empty_whole_mappings(const RegionTable& regions);

// Called after the target's regions are registered, and before it is served. Pages that are kept
// count as resident. Throws std::invalid_argument that names the region under Present::refuse;
// UnsupportedError where the pagemap may not be read.
void settle_found_pages(ServedTarget& served, Present present);

// Marks the pages that the manager before installed and had not noted when it died, before the
// target is served. Where the pagemap may not be read they stay missing until they are filled.
void note_present_pages(ServedTarget& served);

}  // namespace uffd
