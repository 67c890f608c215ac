#include "bindings/bind_workload.hpp"
#include "engine/probe/lost_wake.hpp"
#include "workload/close_race.hpp"

namespace uffd::workload {
namespace {

const Choices<MemoryKind> kKinds{{"anonymous", MemoryKind::anonymous},
                                 {"memfd", MemoryKind::memfd},
                                 {"hugetlb", MemoryKind::hugetlb}};
const Choices<Release> kReleases{{"unregister", Release::unregister},
                                 {"unregister-and-wake", Release::unregister_and_wake},
                                 {"close", Release::close}};

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

py::dict race_closes_of(size_t threads, uint64_t pages, const std::string& kind, bool shared,
                        bool thp, bool write, bool complete, uint64_t closes, double seconds) {
  CloseRacePlan plan;
  plan.threads = threads;
  plan.pages = pages;
  plan.kind = choose("kind", kind, kKinds);
  plan.shared = shared;
  plan.thp = thp;
  plan.write = write;
  plan.complete = complete;
  plan.closes = closes;
  plan.limit = milliseconds(seconds);
  CloseRaceResult result;
  {
    const py::gil_scoped_release released;
    result = race_closes(plan);
  }
  py::dict found;
  found["closes"] = result.closes;
  found["raced"] = result.raced;
  found["accesses"] = result.accesses;
  found["sigbus"] = result.sigbus;
  found["wrong"] = result.wrong;
  found["lost"] = result.lost;
  found["elapsed_ns"] = result.elapsed_ns;
  return found;
}

std::pair<uint64_t, uint64_t> count_lost_wakes_of(const std::string& release, size_t threads,
                                                  uint64_t pages, uint64_t rounds, double seconds) {
  LostWakePlan plan;
  plan.release = choose("release", release, kReleases);
  plan.threads = threads;
  plan.pages = pages;
  plan.rounds = rounds;
  plan.limit = milliseconds(seconds);
  const py::gil_scoped_release released;
  const LostWakes counted = count_lost_wakes(plan);
  return {counted.rounds, counted.lost};
}

}  // namespace

void bind_races(py::module_& m) {
  m.def("race_closes", &race_closes_of, py::kw_only(), py::arg("threads"), py::arg("pages"),
        py::arg("kind") = "anonymous", py::arg("shared") = false, py::arg("thp") = false,
        py::arg("write") = false, py::arg("complete") = true, py::arg("closes"),
        py::arg("seconds") = 60.0,
        "Closes raced by threads that touch the pages. SIGBUS is caught meanwhile.");
  m.def("count_lost_wakes", &count_lost_wakes_of, py::arg("release"), py::kw_only(),
        py::arg("threads") = 4, py::arg("pages") = 64, py::arg("rounds"), py::arg("seconds") = 60.0,
        "Threads left asleep by a release; returns (rounds, lost).");
}

}  // namespace uffd::workload
