#include "bindings/arguments.hpp"
#include "bindings/dropped.hpp"
#include "bindings/manager_handles.hpp"
#include "bindings/mapping_handle.hpp"
#include "bindings/userfaultfd_handle.hpp"
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

const Choices<Placement> kPlacements{
    {"auto", Placement::automatic}, {"adopt", Placement::adopt}, {"free", Placement::free}};

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
  auto served = add_with(manager.get(), uffd_handle, regions, options);
  if (pid == ::getpid()) {
    for (const Region& region : regions) note_served(region.range, served);
  }
  return std::unique_ptr<TargetHandle>(
      new TargetHandle{OwnedByProcess(manager.get()), OwnedByProcess(std::move(served))});
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
           "cpus"_a, "watcher"_a)
      .def("add", &add, "uffd"_a, "regions"_a, py::kw_only(), "pid"_a, "ending"_a, "fault_around"_a,
           "verify"_a, "keep_awake"_a, "inline"_a, "collapse"_a, "install"_a, "registered"_a,
           "present"_a, "beyond"_a)
      .def("add_memory", &add_memory, "mapping"_a, "uffd"_a, "regions"_a, "inline"_a);

  py::class_<ManagedMemory>(m, "ManagedMemory")
      .def_property_readonly("target", &ManagedMemory::target);

  m.def(
      "watch_adoptions",
      [](int process, int ledger, int done, int ready) {
        without_gil([&] { watch_adoptions(Fd(process), Fd(ledger), Fd(done), Fd(ready)); });
      },
      "process"_a, "ledger"_a, "done"_a, "ready"_a);
}

}  // namespace uffd::bindings
