#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/mapping_handle.hpp"

namespace uffd::bindings {

const Choices<MemoryKind> kMemoryKinds{{"anonymous", MemoryKind::anonymous},
                                       {"memfd", MemoryKind::memfd},
                                       {"hugetlb", MemoryKind::hugetlb}};

void bind_mapping(py::module_& m) {
  using namespace py::literals;
  py::class_<MappingHandle>(m, "Mapping", doc("Mapping"))
      .def(py::init([](const py::object& length, const py::object& kind, const py::object& shared) {
             return std::make_unique<MappingHandle>(Mapping(
                 unsigned_argument(length, "length"), word_argument(kind, "kind", kMemoryKinds),
                 flag_argument(shared, "shared")));
           }),
           "length"_a, "kind"_a = "anonymous", "shared"_a = false, doc("Mapping.__init__"))
      .def_property_readonly(
          "address", [](const MappingHandle& handle) { return handle.use().address(); },
          doc("Mapping.address"))
      .def_property_readonly(
          "length", [](const MappingHandle& handle) { return handle.use().length(); },
          doc("Mapping.length"))
      .def_property_readonly(
          "page_size", [](const MappingHandle& handle) { return handle.use().page_size(); },
          doc("Mapping.page_size"))
      .def_property_readonly("array", &MappingHandle::array, doc("Mapping.array"))
      .def_property_readonly("closed", &MappingHandle::closed, doc("Mapping.closed"))
      .def("close", &MappingHandle::close, doc("Mapping.close"))
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](MappingHandle& handle, const py::args&) { handle.close(); })
      .def("__repr__", [](const MappingHandle& handle) -> std::string {
        if (handle.closed()) return "<pyuffd.Mapping closed>";
        return py::str("<pyuffd.Mapping address={:#x} length={} page_size={}>")
            .format(handle.use().address(), handle.use().length(), handle.use().page_size());
      });
}

}  // namespace uffd::bindings
