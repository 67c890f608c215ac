// Bits of the kernel as the enumerations of pyuffd/_flags.py.
#pragma once

#include "bindings/common.hpp"

namespace uffd::bindings {

// kind: the class, as "Feature". Bits that it does not know are kept. With the GIL.
inline py::object as_flags(const char* kind, uint64_t bits) {
  return py::module_::import("pyuffd._flags").attr(kind)(bits);
}

}  // namespace uffd::bindings
