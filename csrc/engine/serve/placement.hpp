// Which CPU each thread of a manager runs on, and what is done about the threads of its targets.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/linux/thread.hpp"

namespace uffd {

enum class Placement {
  automatic,  // no thread of a target is touched; handlers are free, or one a CPU where they are
              // many
  adopt,      // each handler is held on a CPU of its own, and the threads that fault with it
  free,       // the scheduler decides
  fixed,      // handlers are held to the given CPUs
};

struct PlacementOptions {
  Placement placement = Placement::automatic;
  // Those that may be used, in turn: for handlers, and then for fillers. Of Placement::fixed for
  // handlers alone. Empty: whichever.
  std::vector<int> cpus = {};
};

struct Places {
  std::vector<std::optional<Cpu>> handlers, fillers;  // empty ones are free
};

// Throws std::invalid_argument that names the CPU, or the number of handlers, that cannot be.
Places place(const PlacementOptions& options, size_t handlers, size_t fillers);

}  // namespace uffd
