#include "bindings/common.hpp"
#include "engine/linux/dma_latency.hpp"
#include "engine/linux/features.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/userfaultfd.hpp"
#include "engine/probe/known_release.hpp"
#include "engine/probe/wake_up.hpp"

namespace uffd::bindings {
namespace {

py::object lost_wakes_to_python(const std::optional<LostWakes>& counted) {
  if (!counted) return py::none();
  return py::make_tuple(counted->rounds, counted->lost);
}

py::dict probe() {
  const OpenAttempts attempts = try_opening();
  py::dict found;
  found["kernel"] = kernel_release();
  found["page_size"] = sys::page_size();
  found["hugetlb_page_size"] = hugetlb_page_size();
  found["device"] = attempts.device;
  found["syscall"] = attempts.syscall;
  found["user_mode_only"] = attempts.user_mode_only;
  found["fork_events"] = attempts.fork_events;
  found["unprivileged_userfaultfd"] = unprivileged_sysctl();
  found["features"] = offered_features();
  return found;
}

py::dict release() {
  const KnownRelease known = known_release();
  py::dict found;
  found["generation"] = name(known.generation);
  found["by_experiment"] = known.by_experiment;
  found["rounds"] = known.rounds;
  found["minor_faults"] = known.minor_faults;
  found["lost_wakes"] = lost_wakes_to_python(known.lost_wakes);
  return found;
}

py::dict release_experiment(double lost_wake_seconds) {
  const std::chrono::milliseconds limit(static_cast<int64_t>(lost_wake_seconds * 1e3));
  const auto [finding, lost_wakes] = without_gil([limit] {
    const ReleaseFinding release = probe_release();
    const auto counted = probe_lost_wakes(limit);
    remember_release(release, counted);
    return std::pair(release, counted);
  });
  py::dict found;
  found["generation"] =
      finding.generation ? py::object(py::str(name(*finding.generation))) : py::none();
  found["reason"] = finding.reason;
  found["rounds"] = finding.rounds;
  found["minor_faults"] = finding.minor_faults;
  found["seconds"] = finding.seconds;
  found["lost_wakes"] = lost_wakes_to_python(lost_wakes);
  return found;
}

// Of an idle CPU; of one that is kept awake; and the errno where that is refused.
std::tuple<std::optional<uint64_t>, std::optional<uint64_t>, int> wake_ups() {
  return without_gil([]() -> std::tuple<std::optional<uint64_t>, std::optional<uint64_t>, int> {
    const auto idle = wake_up_ns(Idle::halts);
    try {
      const DmaLatency held;
      return {idle, wake_up_ns(Idle::is_awake), 0};
    } catch (const SystemError& error) {
      return {idle, std::nullopt, error.code().value()};
    }
  });
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("probe", &probe);
  m.def("release", &release, "What is known of this kernel: no experiment.");
  m.def("release_experiment", &release_experiment, py::arg("lost_wake_seconds"),
        "Find it out, and keep it for this boot.");
  m.def("release_by_version", [] { return name(release_generation(kernel_release())); });
  m.def("wake_ups", &wake_ups);
  m.def("page_size", &sys::page_size);
  m.def("offered_features", &offered_features);
  m.def("feature_names", &feature_names);
}

}  // namespace uffd::bindings
