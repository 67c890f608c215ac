// What a dead manager's ledger says of where its target's memory lies.
#pragma once

#include <span>

#include "engine/guard/ledger.hpp"
#include "engine/target/range_set.hpp"
#include "engine/target/region_table.hpp"

namespace uffd {

struct Restored {
  RegionTable regions, aliases;
  RangeSet beyond, unmaps_to_come;
};

// First undoes what the manager had begun to note of a move, or of a split, when it died; its
// message is still in the ledger. sources: by their numbers. Throws std::invalid_argument that
// names what is wrong: a place of the ledger, or the number of sources.
Restored restore(Ledger& ledger, std::span<const SourcePtr> sources);

}  // namespace uffd
