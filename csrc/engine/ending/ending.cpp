#include "engine/ending/ending.hpp"

#include <utility>

#include "engine/linux/holders.hpp"
#include "engine/linux/smaps.hpp"
#include "engine/probe/known_release.hpp"

namespace uffd {

const char* name(Ending ending) noexcept {
  switch (ending) {
    case Ending::automatic:
      return "auto";
    case Ending::early_close:
      return "early-close";
    case Ending::unregister:
      return "unregister";
    case Ending::keep_open:
      return "keep-open";
  }
  return "";
}

Choice choose_ending(Ending asked, const Target& target) {
  if (asked != Ending::automatic) return {asked, "asked for"};
  const KnownRelease known = known_release();
  const ReleaseGeneration generation = known.generation;
  const std::string kernel = "Linux " + kernel_release() + " is of release generation " +
                             name(generation) +
                             (known.by_experiment ? " (by experiment)" : " (by its version)");
  if (generation == ReleaseGeneration::sigbus) {
    return {Ending::unregister, kernel + ": a fault that meets an early close gets SIGBUS"};
  }
  if (generation == ReleaseGeneration::nopage) {
    return {
        Ending::unregister,
        kernel +
            ": a GUP user of the target (KVM, mlock, O_DIRECT) would livelock with an early close"};
  }
  if (target.pid() == kUnknownPid)
    return {Ending::early_close, kernel + ", and nobody was given a fork child's userfaultfd"};
  switch (find_holders(target.uffd().fd(), target.pid())) {
    case Holders::sole:
      return {Ending::early_close, kernel + ", and nobody else holds the userfaultfd"};
    case Holders::shared:
      return {Ending::unregister,
              "another descriptor holds the userfaultfd, so closing ours releases nothing"};
    case Holders::unknown:
      break;
  }
  return {Ending::unregister,
          "the target's descriptors may not be compared (kcmp needs ptrace permission), so another "
          "may hold the userfaultfd"};
}

EndingReport let_go(Target& target, const Choice& choice) {
  EndingReport report;
  report.ending = choice.ending;
  report.reason = choice.reason;
  report.regions = target.regions().size();
  const uint64_t began = sys::monotonic_ns();
  if (choice.ending == Ending::unregister) {
    for (const RegionTable* table : {&std::as_const(target).regions(), &target.aliases()}) {
      for (const Region& region : table->all()) unregister_and_wake(target.uffd(), region.range);
    }
  }
  if (choice.before_close) choice.before_close();
  target.uffd().close();
  const uint64_t ended = sys::monotonic_ns();
  report.began = static_cast<double>(began) * 1e-9;
  report.seconds = static_cast<double>(ended - began) * 1e-9;
  return report;
}

bool is_registered(const Target& target) {
  return any_registered(target.pid(), target.regions().ranges()).value_or(true);
}

std::optional<bool> verify_released(const Target& target) {
  const auto registered = any_registered(target.pid(), target.regions().ranges());
  if (!registered) return std::nullopt;
  return !*registered;
}

}  // namespace uffd
