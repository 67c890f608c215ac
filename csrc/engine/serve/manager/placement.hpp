// Which CPU each thread of a manager runs on, and what is done about the threads of its targets.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/linux/thread.hpp"

namespace uffd {

enum class Placement {
  automatic,  // a target's threads are left alone; handlers are held to the given CPUs; without
              // any they are free, or one a CPU where they are many
  adopt,  // a handler is held on a CPU of its own, and with it the threads whose faults it serves
  free,   // the scheduler decides
};

struct PlacementOptions {
  Placement placement = Placement::automatic;
  // The CPUs to use, in turn: for handlers, and then for fillers. Empty: any CPU.
  std::vector<int> cpus = {};
};

struct Places {
  std::vector<std::optional<Cpu>> handlers, fillers;  // an empty place: the thread is free
};

// Throws std::invalid_argument that names the CPU, or the number of handlers, that cannot be.
Places place(const PlacementOptions& options, size_t handlers, size_t fillers);

}  // namespace uffd
