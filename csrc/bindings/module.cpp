#include "bindings/common.hpp"

namespace uffd::bindings {

PYBIND11_MODULE(_core, m) {
  py::options options;
  options.disable_function_signatures();  // docstrings bring theirs
  m.doc() = "The manager: private to pyuffd.";
  m.attr("__version__") = PYUFFD_VERSION;
  m.attr("build_type") = PYUFFD_BUILD_TYPE;
  bind_errors(m);
  bind_probe(m);
  bind_messages(m);
  bind_userfaultfd(m);
  bind_mapping(m);
  bind_sources(m);
  bind_callable_source(m);
  bind_shared_image(m);
  bind_region(m);
  bind_target(m);
  bind_manager(m);
  bind_inline(m);
  bind_journal(m);
}

}  // namespace uffd::bindings
