#include <unistd.h>

#include "bindings/choice.hpp"
#include "bindings/dropped.hpp"
#include "bindings/userfaultfd_handle.hpp"
#include "engine/serve/adoption/adoption.hpp"
#include "engine/serve/manager/manager.hpp"
#include "engine/serve/served/statistics.hpp"

namespace uffd::bindings {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSlice{50};  // how long a wait goes on before it looks for signals

// An object whose threads live in the process that made it. A fork child must not run its
// destructor.
template <typename Held>
class OwnedByProcess {
 public:
  explicit OwnedByProcess(std::shared_ptr<Held> held)
      : held_(std::move(held)), owner_(::getpid()) {}
  OwnedByProcess(const OwnedByProcess&) = delete;
  OwnedByProcess& operator=(const OwnedByProcess&) = delete;
  ~OwnedByProcess() { release(); }

  void release() {
    auto held = std::move(held_);
    if (::getpid() != owner_) {
      new std::shared_ptr<Held>(std::move(held));  // left to the child's exit
    } else if (held) {
      without_gil([&] { held.reset(); });
      release_dropped();
    }
  }

  const std::shared_ptr<Held>& get() const {
    if (::getpid() != owner_) {
      throw std::runtime_error(
          "this belongs to the process that this one was forked from: make a new one here");
    }
    return held_;
  }
  // Empty after release().
  const std::shared_ptr<Held>& held() const { return held_; }
  Held& operator*() const { return *get(); }
  Held* operator->() const { return get().get(); }

 private:
  std::shared_ptr<Held> held_;
  pid_t owner_;
};

// Keeps an object during a call that releases the GIL: its handle may let go of it meanwhile, and
// to end a manager takes long.
template <typename Held>
class Kept {
 public:
  explicit Kept(std::shared_ptr<Held> held) : held_(std::move(held)) {}
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    without_gil([&] { held_.reset(); });
  }
  Held* operator->() const { return held_.get(); }
  const std::shared_ptr<Held>& get() const { return held_; }

 private:
  std::shared_ptr<Held> held_;
};

struct ManagerHandle {
  OwnedByProcess<Manager> manager;
};

// Keeps its manager's threads alive as long as it may be served. Without a manager its target has
// ended, or was stopped.
struct TargetHandle {
  OwnedByProcess<Manager> manager;
  OwnedByProcess<ServedTarget> served;

  bool served_no_more() const {
    manager.get();  // refuses a fork child of ours
    return !manager.held();
  }
};

const Choices<Ending> kEndings{{"auto", Ending::automatic},
                               {"early-close", Ending::early_close},
                               {"unregister", Ending::unregister},
                               {"keep-open", Ending::keep_open}};

const Choices<Install> kInstalls{
    {"auto", Install::automatic}, {"copy", Install::copy}, {"move", Install::move}};

const Choices<Present> kPresent{{"keep", Present::keep}, {"refuse", Present::refuse}};

const Choices<Beyond> kBeyond{{"zero", Beyond::zero}, {"poison", Beyond::poison}};

const Choices<Missing> kMissing{{"raise", Missing::raise},
                                {"fill", Missing::fill},
                                {"zero", Missing::zero},
                                {"poison", Missing::poison}};

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

const Choices<Placement> kPlacements{{"auto", Placement::automatic},
                                     {"adopt", Placement::adopt},
                                     {"free", Placement::free},
                                     {"fixed", Placement::fixed}};

std::unique_ptr<ManagerHandle> make_manager(const py::object& handlers, const py::object& fillers,
                                            const std::string& placement, std::vector<int> cpus,
                                            std::vector<std::string> watcher) {
  ManagerOptions options;
  options.handlers = unsigned_argument(handlers, "handlers");
  options.fillers = unsigned_argument(fillers, "fillers");
  options.placement = {choose("placement", placement, kPlacements), std::move(cpus)};
  options.watcher = std::move(watcher);
  auto manager = without_gil([&] { return std::make_shared<Manager>(options); });
  return std::unique_ptr<ManagerHandle>(new ManagerHandle{OwnedByProcess(std::move(manager))});
}

std::unique_ptr<TargetHandle> add(const ManagerHandle& handle, UserfaultfdHandle& uffd_handle,
                                  const std::vector<Region>& regions, pid_t pid,
                                  const std::string& ending, const py::object& fault_around,
                                  bool verify, bool awake, bool inline_faults, bool collapse,
                                  const std::string& install, bool registered,
                                  const std::string& present,
                                  const std::optional<std::string>& beyond) {
  release_dropped();
  TargetOptions options;
  options.registered = registered;
  options.present = choose("present", present, kPresent);
  if (beyond) options.beyond = choose("beyond", *beyond, kBeyond);
  options.install = choose("install", install, kInstalls);
  options.collapse = collapse;
  options.inline_faults = inline_faults;
  options.awake = awake;
  options.pid = pid;
  options.ending = choose("ending", ending, kEndings);
  if (!fault_around.is_none()) {
    const uint64_t window = unsigned_argument(fault_around, "fault_around");
    options.fault_around = static_cast<uint32_t>(std::min<uint64_t>(window, UINT32_MAX));
  }
  options.received = uffd_handle.registered_by_sender();
  options.verify = verify;
  const Kept<Manager> manager(handle.manager.get());
  Userfaultfd uffd = uffd_handle.take();
  try {
    auto served = without_gil([&] { return manager->add(uffd, regions, options); });
    return std::unique_ptr<TargetHandle>(
        new TargetHandle{OwnedByProcess(manager.get()), OwnedByProcess(std::move(served))});
  } catch (...) {
    uffd_handle.restore(std::move(uffd));
    throw;
  }
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

std::string placement_text(const ServedTarget& served) {
  if (served.inline_faults) return "inline";
  std::string text = "free";
  if (const auto cpu = served.handler_cpu) {
    text = served.adoption ? "adopt: handler and threads on CPU " : "handler on CPU ";
    text += std::to_string(cpu->number());
  }
  return served.kept_awake ? text + ", idle CPUs kept awake" : text;
}

py::dict stats(const TargetHandle& handle) {
  const Stats stats = collect_stats(*handle.served);
  py::dict result;
  for (const auto& [name, which] : kCounts)
    result[name.c_str()] = stats.counts[static_cast<size_t>(which)];
  result["placement"] = placement_text(*handle.served);
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

}  // namespace

void bind_manager(py::module_& m) {
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
      .def_readonly("verified", &EndingReport::verified)
      .def_readonly("collapsed_bytes", &EndingReport::collapsed_bytes)
      .def_property_readonly("poisoned",
                             [](const EndingReport& report) { return pairs(report.poisoned); });

  py::class_<ManagerHandle>(m, "Manager")
      .def(py::init(&make_manager), py::kw_only(), "handlers"_a, "fillers"_a, "placement"_a,
           "cpus"_a, "watcher"_a)
      .def("add", &add, "uffd"_a, "regions"_a, py::kw_only(), "pid"_a, "ending"_a, "fault_around"_a,
           "verify"_a, "awake"_a, "inline"_a, "collapse"_a, "install"_a, "registered"_a,
           "present"_a, "beyond"_a);

  py::class_<TargetHandle>(m, "Target")
      .def("fill",
           [](const TargetHandle& handle) {
             Manager::check_fill(*handle.served);
             if (handle.served_no_more()) return;
             const Kept<Manager> manager(handle.manager.get());
             const std::shared_ptr<ServedTarget> served = handle.served.get();
             without_gil([&] { manager->fill(*served); });
           })
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
      .def("registered",
           [](const TargetHandle& handle) {
             if (handle.served_no_more()) return;
             const Kept<Manager> manager(handle.manager.get());
             const std::shared_ptr<ServedTarget> served = handle.served.get();
             without_gil([&] { manager->set_registered(*served); });
           })
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
      .def_property_readonly("id", [](const TargetHandle& handle) { return handle.served->id; })
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
  m.def(
      "watch_adoptions",
      [](int process, int ledger, int done, int ready) {
        without_gil([&] { watch_adoptions(Fd(process), Fd(ledger), Fd(done), Fd(ready)); });
      },
      "process"_a, "ledger"_a, "done"_a, "ready"_a);
}

}  // namespace uffd::bindings
