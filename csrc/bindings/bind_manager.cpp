#include "bindings/arguments.hpp"
#include "bindings/dropped.hpp"
#include "bindings/manager_handles.hpp"
#include "bindings/mapping_handle.hpp"
#include "bindings/userfaultfd_handle.hpp"
#include "engine/guard/guard_link.hpp"
#include "engine/serve/adoption/adoption.hpp"

namespace uffd::bindings {
namespace {

const Choices<Ending> kEndings{{"auto", Ending::automatic},
                               {"early-close", Ending::early_close},
                               {"unregister", Ending::unregister},
                               {"keep-open", Ending::keep_open}};

const Choices<Install> kInstalls{
    {"auto", Install::automatic}, {"copy", Install::copy}, {"move", Install::move}};

const Choices<Present> kPresent{{"keep", Present::keep}, {"refuse", Present::refuse}};

const Choices<Beyond> kBeyond{{"zero", Beyond::zero}, {"poison", Beyond::poison}};

const Choices<AfterDeath> kAfterDeath{{"poison", AfterDeath::poison},
                                      {"manager", AfterDeath::hand_over}};

const Choices<Placement> kPlacements{
    {"auto", Placement::automatic}, {"adopt", Placement::adopt}, {"free", Placement::free}};

std::unique_ptr<ManagerHandle> make_manager(const py::object& handlers, const py::object& fillers,
                                            const std::string& placement, std::vector<int> cpus,
                                            std::string guard, int guard_fd, size_t guards) {
  ManagerOptions options;
  options.handlers = unsigned_argument(handlers, "handlers");
  options.fillers = unsigned_argument(fillers, "fillers");
  options.placement = {choose("placement", placement, kPlacements), std::move(cpus)};
  options.guard = {std::move(guard), guard_fd};
  options.guards = guards;
  auto manager = without_gil([&] { return std::make_shared<Manager>(options); });
  return std::unique_ptr<ManagerHandle>(new ManagerHandle{OwnedByProcess(std::move(manager))});
}

std::shared_ptr<ServedTarget> add_with(const std::shared_ptr<Manager>& manager,
                                       UserfaultfdHandle& uffd_handle,
                                       const std::vector<Region>& regions,
                                       const TargetOptions& options) {
  Userfaultfd uffd = uffd_handle.take();
  try {
    return without_gil([&] { return manager->add(uffd, regions, options); });
  } catch (...) {
    uffd_handle.restore(std::move(uffd));
    throw;
  }
}

std::unique_ptr<TargetHandle> add(const ManagerHandle& handle, UserfaultfdHandle& uffd_handle,
                                  const py::object& regions_argument, pid_t pid,
                                  const std::string& ending, const py::object& fault_around,
                                  bool verify, bool awake, bool inline_faults, bool collapse,
                                  const std::string& install, bool registered,
                                  const std::string& present,
                                  const std::optional<std::string>& beyond,
                                  const std::optional<std::string>& guard, int completion,
                                  bool again, const std::optional<std::string>& trust) {
  release_dropped();
  const auto regions = py::isinstance<Regions>(regions_argument)
                           ? regions_argument.cast<const Regions&>().all
                           : regions_argument.cast<std::vector<Region>>();
  TargetOptions options;
  options.registered = registered;
  if (guard) options.guard = choose("guard", *guard, kAfterDeath);
  options.completion = completion;
  options.again = again;
  options.trusts_pagemap = trust.has_value();  // the only word is 'pagemap'
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
  auto served = add_with(manager.get(), uffd_handle, regions, options);
  if (pid == ::getpid()) {
    for (const Region& region : regions) note_served(region.range, served);
  }
  return std::unique_ptr<TargetHandle>(
      new TargetHandle{OwnedByProcess(manager.get()), OwnedByProcess(std::move(served))});
}

std::vector<std::unique_ptr<TargetHandle>> take_over(const ManagerHandle& handle,
                                                     const std::vector<UserfaultfdHandle*>& uffds,
                                                     const std::vector<int>& ledgers,
                                                     const std::vector<int>& completions,
                                                     const std::vector<SourcePtr>& sources) {
  release_dropped();
  const Kept<Manager> manager(handle.manager.get());
  std::vector<Manager::Heirloom> heirlooms;
  for (size_t i = 0; i < uffds.size(); ++i)
    heirlooms.push_back({uffds[i]->take(), Fd(ledgers.at(i)), Fd(completions.at(i))});
  std::vector<std::shared_ptr<ServedTarget>> all;
  const auto give_back = [&] {
    for (size_t i = 0; i < uffds.size(); ++i) {
      heirlooms[i].ledger.release();
      heirlooms[i].completion.release();
      if (heirlooms[i].uffd.is_open()) uffds[i]->restore(std::move(heirlooms[i].uffd));
    }
  };
  try {
    all = without_gil([&] { return manager->take_over(heirlooms, sources); });
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  std::vector<std::unique_ptr<TargetHandle>> handles;
  for (auto& served : all) {
    handles.push_back(std::unique_ptr<TargetHandle>(
        new TargetHandle{OwnedByProcess(manager.get()), OwnedByProcess(std::move(served))}));
  }
  return handles;
}

// mapping: a Mapping of this process, which holds the regions.
std::unique_ptr<ManagedMemory> add_memory(const ManagerHandle& handle, const py::object& mapping,
                                          UserfaultfdHandle& uffd_handle,
                                          const std::vector<Region>& regions, bool inline_faults) {
  release_dropped();
  TargetOptions options;
  options.pid = ::getpid();
  options.inline_faults = inline_faults;
  options.verify = false;
  const Kept<Manager> manager(handle.manager.get());
  auto served = add_with(manager.get(), uffd_handle, regions, options);
  return std::make_unique<ManagedMemory>(manager.get(), std::move(served), mapping);
}

}  // namespace

void bind_manager(py::module_& m) {
  using namespace py::literals;
  py::class_<ManagerHandle>(m, "Manager")
      .def(py::init(&make_manager), py::kw_only(), "handlers"_a, "fillers"_a, "placement"_a,
           "cpus"_a, "guard"_a, "guard_fd"_a, "guards"_a)
      .def("add", &add, "uffd"_a, "regions"_a, py::kw_only(), "pid"_a, "ending"_a, "fault_around"_a,
           "verify"_a, "keep_awake"_a, "inline"_a, "collapse"_a, "install"_a, "registered"_a,
           "present"_a, "beyond"_a, "guard"_a, "completion"_a, "again"_a, "trust"_a)
      .def("take_over", &take_over, "uffds"_a, "ledgers"_a, "completions"_a, "sources"_a)
      .def("start_guard",
           [](const ManagerHandle& handle) {
             const Kept<Manager> manager(handle.manager.get());
             without_gil([&] { manager->start_guard(); });
           })
      .def("add_memory", &add_memory, "mapping"_a, "uffd"_a, "regions"_a, "inline"_a);

  py::class_<ManagedMemory>(m, "ManagedMemory")
      .def_property_readonly("target", &ManagedMemory::target);

  m.def(
      "guard_listen",
      [](int listener, uint64_t seconds) { guard_link().listen(listener, seconds); }, "listener"_a,
      "seconds"_a);
}

}  // namespace uffd::bindings
