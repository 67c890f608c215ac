#include "bindings/common.hpp"
#include "engine/ending/release_generation.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd::bindings {
namespace {

py::dict probe() {
  const OpenAttempts attempts = try_opening();
  py::dict found;
  found["kernel"] = kernel_release();
  found["release_generation"] = name(running_release_generation());
  found["page_size"] = sys::page_size();
  found["hugetlb_page_size"] = hugetlb_page_size();
  found["device"] = attempts.device;
  found["syscall"] = attempts.syscall;
  found["user_mode_only"] = attempts.user_mode_only;
  found["unprivileged_userfaultfd"] = unprivileged_sysctl();
  found["features"] = offered_features();
  return found;
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("probe", &probe);
  m.def("page_size", &sys::page_size);
  m.def("feature_names", &feature_names);
}

}  // namespace uffd::bindings
