#include "engine/serve/manager/placement.hpp"

namespace uffd {
namespace {

std::vector<int> usable_cpus() {
  cpu_set_t mask;
  or_throw(::sched_getaffinity(0, sizeof mask, &mask), "sched_getaffinity");
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &mask)) cpus.push_back(cpu);
  }
  return cpus;
}

// The places of count threads, which are numbered from first on: the CPUs in turn.
std::vector<std::optional<Cpu>> in_turn(const std::vector<int>& cpus, size_t first, size_t count) {
  std::vector<std::optional<Cpu>> places(count);
  for (size_t i = 0; i < count && !cpus.empty(); ++i)
    places[i] = Cpu(cpus[(first + i) % cpus.size()]);
  return places;
}

}  // namespace

Places place(const PlacementOptions& options, size_t handlers, size_t fillers) {
  const std::vector<int>& given = options.cpus;
  switch (options.placement) {
    case Placement::free:
      break;
    case Placement::automatic:
      if (given.empty() && handlers > 1 && handlers <= usable_cpus().size())
        return {in_turn(usable_cpus(), 0, handlers), in_turn({}, 0, fillers)};
      return {in_turn(given, 0, handlers), in_turn(given, handlers, fillers)};
    case Placement::adopt: {
      const std::vector<int> cpus = given.empty() ? usable_cpus() : given;
      if (handlers > cpus.size()) {
        throw std::invalid_argument(
            "placement 'adopt' has one handler for each CPU, but handlers is " +
            std::to_string(handlers) + " and there are " + std::to_string(cpus.size()) +
            " CPUs: give fewer handlers");
      }
      return {in_turn(cpus, 0, handlers), in_turn(given, handlers, fillers)};
    }
  }
  return {in_turn({}, 0, handlers), in_turn({}, 0, fillers)};
}

}  // namespace uffd
