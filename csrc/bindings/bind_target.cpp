#include "bindings/cause_name.hpp"
#include "bindings/choice.hpp"
#include "bindings/manager_handles.hpp"
#include "bindings/raised.hpp"
#include "engine/serve/adoption/adoption.hpp"
#include "engine/serve/awake/vigil.hpp"
#include "engine/serve/served/statistics.hpp"

namespace uffd::bindings {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSlice{50};  // how long a wait goes on before it looks for signals

const Choices<Missing> kMissing{{"raise", Missing::raise},
                                {"fill", Missing::fill},
                                {"zero", Missing::zero},
                                {"poison", Missing::poison}};

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

EndingReport close(const TargetHandle& handle, const std::string& missing) {
  const Missing policy = choose("missing", missing, kMissing);
  if (handle.served_no_more()) {
    if (auto report = handle.served->life.report()) return *report;
  }
  const Kept<Manager> manager(handle.manager.get());
  const std::shared_ptr<ServedTarget> served = handle.served.get();
  without_gil([&] { manager->begin_close(*served, policy); });
  for (;;) {
    auto report = without_gil([&] { return manager->wait_closed(*served, policy, kSlice); });
    release_dropped();
    if (report) return *report;
    check_signals();
  }
}

std::unique_ptr<UserfaultfdHandle> stop(const TargetHandle& handle) {
  Manager::check_stop(*handle.served);
  const Kept<Manager> manager(handle.manager.get());
  const std::shared_ptr<ServedTarget> served = handle.served.get();
  Userfaultfd uffd = without_gil([&] { return manager->stop(*served); });
  return std::make_unique<UserfaultfdHandle>(std::move(uffd), true);
}

const Choices<Count> kCounts{{"faults", Count::faults},
                             {"reads", Count::reads},
                             {"copies", Count::copies},
                             {"zeropages", Count::zeropages},
                             {"continues", Count::continues},
                             {"moves", Count::moves},
                             {"moved_bytes", Count::moved_bytes},
                             {"fetches", Count::fetches},
                             {"pages", Count::pages},
                             {"bytes", Count::bytes},
                             {"minor_faults", Count::minor_faults},
                             {"write_faults", Count::write_faults},
                             {"eexist", Count::eexist},
                             {"found_present", Count::found_present},
                             {"enoent", Count::enoent},
                             {"eagain", Count::eagain},
                             {"events", Count::events},
                             {"forks", Count::forks},
                             {"remaps", Count::remaps},
                             {"removes", Count::removes},
                             {"unmaps", Count::unmaps},
                             {"dropped", Count::dropped},
                             {"blank", Count::blank},
                             {"poisoned", Count::poisoned},
                             {"lost_wakes", Count::lost_wakes},
                             {"failed", Count::failed}};

const WakefulnessNotes* keeper_notes(const ServedTarget& served) {
  return served.vigil_notes ? served.vigil_notes->keeper.get() : nullptr;
}

std::string placement_text(const ServedTarget& served) {
  if (served.inline_faults) return "inline";
  std::string text = "free";
  if (const auto cpu = served.handler_cpu) {
    text = served.adoption ? "adopt: handler and threads on CPU " : "handler on CPU ";
    text += std::to_string(cpu->number());
  }
  if (served.kept_awake) return text + ", idle CPUs kept awake";
  const WakefulnessNotes* const keeper = keeper_notes(served);
  return keeper ? text + "; " + keeper->text : text;
}

// CPU time of the handler that looked for faults and found none, and of the manager's warm thread.
uint64_t awake_ns(const ServedTarget& served) {
  if (!served.vigil_notes) return 0;
  const WakefulnessNotes* const keeper = keeper_notes(served);
  return served.vigil_notes->spun_ns + (keeper ? keeper->warm_cpu_ns.load() : 0);
}

py::dict stats(const TargetHandle& handle) {
  const Stats stats = collect_stats(*handle.served);
  py::dict result;
  for (const auto& [name, which] : kCounts)
    result[name.c_str()] = stats.counts[static_cast<size_t>(which)];
  result["placement"] = placement_text(*handle.served);
  result["wake_ns"] = handle.served->vigil_notes ? handle.served->vigil_notes->wake_ns.load() : 0;
  result["awake_ns"] = awake_ns(*handle.served);
  const Adoption* const adoption = handle.served->adoption.get();
  result["adopted"] = adoption ? adoption->adopted() : 0;
  result["held"] = adoption ? adoption->held() : 0;
  result["releases"] = adoption ? adoption->releases() : 0;
  result["latency"] =
      py::array_t<uint64_t>(static_cast<py::ssize_t>(stats.latency.size()), stats.latency.data());
  return result;
}

std::vector<std::unique_ptr<TargetHandle>> children_of(const TargetHandle& handle) {
  std::vector<std::unique_ptr<TargetHandle>> handles;
  for (auto& child : children(*handle.served)) {
    handles.push_back(std::unique_ptr<TargetHandle>(
        new TargetHandle{OwnedByProcess(handle.manager.held()), OwnedByProcess(std::move(child))}));
  }
  return handles;
}

std::optional<pid_t> pid_of(const TargetHandle& handle) {
  const Target& target = handle.served->target;
  if (target.is_this_process()) return ::getpid();
  return target.pid() == kUnknownPid ? std::nullopt : std::optional(target.pid());
}

std::vector<uint64_t> latency_bounds() {
  std::vector<uint64_t> bounds;
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i)
    bounds.push_back(LatencyHistogram::lower_bound(i));
  return bounds;
}

std::vector<std::pair<uint64_t, uint64_t>> pairs(const std::vector<Range>& ranges) {
  std::vector<std::pair<uint64_t, uint64_t>> result;
  for (const Range& range : ranges) result.emplace_back(range.start, range.length);
  return result;
}

// The cause, the place in the source, the memory, and what was raised.
py::list source_failures(const TargetHandle& handle) {
  py::list failures;
  for (const SourceFailure& each : handle.served->target.source_failures().kept()) {
    failures.append(py::make_tuple(cause_name(each.blame.cause), each.offset, each.address,
                                   each.length, to_exception(each.blame.error)));
  }
  return failures;
}

}  // namespace

void bind_target(py::module_& m) {
  using namespace py::literals;
  py::class_<EndingReport>(m, "EndingReport")
      .def_property_readonly("ending",
                             [](const EndingReport& report) { return name(report.ending); })
      .def_readonly("reason", &EndingReport::reason)
      .def_readonly("seconds", &EndingReport::seconds)
      .def_readonly("began", &EndingReport::began)
      .def_readonly("regions", &EndingReport::regions)
      .def_readonly("missing_pages", &EndingReport::missing_pages)
      .def_readonly("absent_pages", &EndingReport::absent_pages)
      .def_readonly("found_present", &EndingReport::found_present)
      .def_readonly("trusted_pagemap", &EndingReport::trusted_pagemap)
      .def_readonly("verified", &EndingReport::verified)
      .def_readonly("collapsed_bytes", &EndingReport::collapsed_bytes)
      .def_property_readonly("poisoned",
                             [](const EndingReport& report) { return pairs(report.poisoned); });

  py::class_<TargetHandle>(m, "Target")
      .def(
          "fill",
          [](const TargetHandle& handle, bool when_idle) {
            Manager::check_fill(*handle.served);
            if (handle.served_no_more()) return;
            const Kept<Manager> manager(handle.manager.get());
            const std::shared_ptr<ServedTarget> served = handle.served.get();
            without_gil([&] { manager->fill(*served, when_idle); });
          },
          "when_idle"_a)
      .def(
          "wait",
          [](const TargetHandle& handle, double seconds) {
            const milliseconds timeout(static_cast<int64_t>(seconds * 1e3));
            const std::shared_ptr<ServedTarget> served = handle.served.get();
            const bool done = without_gil([&] { return Manager::wait(*served, timeout); });
            check_signals();
            return done;
          },
          "seconds"_a)
      .def(
          "registered",
          [](const TargetHandle& handle, bool check) {
            if (handle.served_no_more()) return;
            const Kept<Manager> manager(handle.manager.get());
            const std::shared_ptr<ServedTarget> served = handle.served.get();
            without_gil([&] { manager->set_registered(*served, check); });
          },
          "check"_a)
      .def("close", &close, "missing"_a)
      .def("stop", &stop)
      .def("discard",
           [](const TargetHandle& handle) {
             if (handle.served_no_more()) return;
             const Kept<Manager> manager(handle.manager.get());
             const std::shared_ptr<ServedTarget> served = handle.served.get();
             without_gil([&] { manager->discard(*served); });
           })
      .def("release_manager", [](TargetHandle& handle) { handle.manager.release(); })
      .def("stats", &stats)
      .def("children", &children_of)
      .def("source_failures", &source_failures)
      .def_property_readonly("pid", &pid_of)
      .def_property_readonly(
          "user_mode_only",
          [](const TargetHandle& handle) { return handle.served->target.uffd().user_mode_only(); })
      .def_property_readonly("id",
                             [](const TargetHandle& handle) { return handle.served->target.id(); })
      .def(
          "written",
          [](const TargetHandle& handle, bool reset) {
            const std::shared_ptr<ServedTarget> served = handle.served.get();
            return pairs(without_gil([&] { return Manager::written(*served, reset); }));
          },
          "reset"_a)
      .def_property_readonly(
          "pages",
          [](const TargetHandle& handle) { return handle.served->target.residency().pages(); })
      .def_property_readonly(
          "missing_pages",
          [](const TargetHandle& handle) { return handle.served->target.residency().missing(); })
      .def_property_readonly(
          "serving", [](const TargetHandle& handle) { return handle.served->life.is_served(); })
      .def_property_readonly("ended", [](const TargetHandle& handle) {
        return handle.served->life.stage() == Stage::ended;
      });
  m.def("latency_bounds", &latency_bounds);
}

}  // namespace uffd::bindings
