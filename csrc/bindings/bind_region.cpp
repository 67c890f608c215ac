#include "bindings/choice.hpp"
#include "bindings/common.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/target/region.hpp"

namespace uffd::bindings {
namespace {

constexpr uint64_t kMissingFaults = UFFDIO_REGISTER_MODE_MISSING;

const Choices<uint64_t> kModes{{"missing", kMissingFaults},
                               {"minor", UFFDIO_REGISTER_MODE_MINOR},
                               {"missing+minor", kMissingFaults | UFFDIO_REGISTER_MODE_MINOR},
                               {"missing+wp", kMissingFaults | UFFDIO_REGISTER_MODE_WP}};

const Choices<OnRemove> kOnRemove{{"auto", OnRemove::decide},
                                  {"keep", OnRemove::keep},
                                  {"zero", OnRemove::zero},
                                  {"poison", OnRemove::poison}};

}  // namespace

void bind_region(py::module_& m) {
  using namespace py::literals;
  py::class_<Region>(m, "Region")
      .def(py::init([](const py::object& start, const py::object& length,
                       const std::shared_ptr<Source>& source, const py::object& source_offset,
                       const py::object& page_size, const std::string& mode,
                       const std::string& on_remove) {
             const Range range{unsigned_argument(start, "start"),
                               unsigned_argument(length, "length")};
             return Region(range, source, unsigned_argument(source_offset, "source_offset"),
                           unsigned_argument(page_size, "page_size"), choose("mode", mode, kModes),
                           choose("on_remove", on_remove, kOnRemove));
           }),
           "start"_a, "length"_a, "source"_a, "source_offset"_a = 0,
           "page_size"_a = sys::page_size(), py::kw_only(), "mode"_a = "missing",
           "on_remove"_a = "auto")
      .def_property_readonly("start", [](const Region& region) { return region.range.start; })
      .def_property_readonly("length", [](const Region& region) { return region.range.length; })
      .def_property_readonly(
          "source",
          [](const Region& region) { return std::const_pointer_cast<Source>(region.source); })
      .def_readonly("source_offset", &Region::source_offset)
      .def_readonly("page_size", &Region::page_size)
      .def_property_readonly("mode",
                             [](const Region& region) { return name_of(region.modes, kModes); })
      .def_property_readonly(
          "on_remove", [](const Region& region) { return name_of(region.on_remove, kOnRemove); })
      .def("__repr__", [](const Region& region) {
        return py::str(
                   "<pyuffd.Region start={:#x} length={} source_offset={} page_size={} mode={}>")
            .format(region.range.start, region.range.length, region.source_offset, region.page_size,
                    name_of(region.modes, kModes));
      });
}

}  // namespace uffd::bindings
