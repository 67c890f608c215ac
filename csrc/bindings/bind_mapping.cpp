#include "bindings/mapping_handle.hpp"

namespace uffd::bindings {

MemoryKind kind_of(const std::string& kind) {
  if (kind == "anonymous") return MemoryKind::anonymous;
  if (kind == "memfd") return MemoryKind::memfd;
  if (kind == "hugetlb") return MemoryKind::hugetlb;
  throw std::invalid_argument("kind is '" + kind +
                              "'; it must be 'anonymous', 'memfd' or 'hugetlb'");
}

void bind_mapping(py::module_& m) {
  using namespace py::literals;
  py::class_<MappingHandle>(m, "Mapping")
      .def(py::init([](const py::object& length, const std::string& kind, bool shared) {
             return std::make_unique<MappingHandle>(
                 Mapping(unsigned_argument(length, "length"), kind_of(kind), shared));
           }),
           "length"_a, "kind"_a = "anonymous", "shared"_a = false)
      .def_property_readonly("address",
                             [](const MappingHandle& handle) { return handle.use().address(); })
      .def_property_readonly("length",
                             [](const MappingHandle& handle) { return handle.use().length(); })
      .def_property_readonly("page_size",
                             [](const MappingHandle& handle) { return handle.use().page_size(); })
      .def_property_readonly("array", &MappingHandle::array)
      .def_property_readonly("closed", &MappingHandle::closed)
      .def("close", &MappingHandle::close)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](MappingHandle& handle, const py::args&) { handle.close(); })
      .def("__repr__", [](const MappingHandle& handle) -> std::string {
        if (handle.closed()) return "<pyuffd.Mapping closed>";
        return py::str("<pyuffd.Mapping address={:#x} length={} page_size={}>")
            .format(handle.use().address(), handle.use().length(), handle.use().page_size());
      });
}

}  // namespace uffd::bindings
