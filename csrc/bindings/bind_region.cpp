#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/held_buffer.hpp"
#include "bindings/manager_handles.hpp"
#include "bindings/mapping_handle.hpp"
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

// A range of memory, and what keeps it mapped.
struct HeldMemory {
  Range range;
  std::shared_ptr<const void> owner;
};

Region region_of(const HeldMemory& memory, const py::object& source,
                 const py::object& source_offset, uint64_t page_size, const py::object& mode,
                 const py::object& on_remove) {
  Region region(memory.range, source_argument(source, "source"),
                unsigned_argument(source_offset, "source_offset"), page_size,
                word_argument(mode, "mode", kModes),
                word_argument(on_remove, "on_remove", kOnRemove));
  region.memory = memory.owner;
  return region;
}

HeldMemory memory_of(const py::object& object) {
  if (py::isinstance<MappingHandle>(object)) {
    const auto& handle = object.cast<const MappingHandle&>();
    const Mapping& mapping = handle.use();
    return {{mapping.address(), mapping.length()}, handle.shared()};
  }
  if (!PyObject_CheckBuffer(object.ptr()))
    refuse_type("memory", object, "a pyuffd.Mapping, an array, or another writable buffer");
  try {
    const HeldBuffer held = hold_buffer(object, PyBUF_WRITABLE);
    return {{reinterpret_cast<uintptr_t>(held.bytes.data()), held.bytes.size()}, held.owner};
  } catch (const py::error_already_set& error) {
    throw py::value_error(std::string("memory cannot be served: ") +
                          py::str(error.value()).cast<std::string>());
  }
}

uint64_t start_argument(const py::object& start) {
  const bool is_memory = py::isinstance<MappingHandle>(start) || PyObject_CheckBuffer(start.ptr());
  if (is_memory && !PyIndex_Check(start.ptr()))
    refuse_type("start", start, "an address; Region.of(memory, source) takes the memory itself");
  return unsigned_argument(start, "start");
}

using Column = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

Regions regions_of(const Column& starts, const Column& lengths, const Column& offsets,
                   const Column& numbers, const std::vector<SourcePtr>& sources) {
  const auto start = starts.unchecked<1>(), length = lengths.unchecked<1>();
  const auto offset = offsets.unchecked<1>(), number = numbers.unchecked<1>();
  const py::ssize_t count = start.shape(0);
  if (length.shape(0) != count || offset.shape(0) != count || number.shape(0) != count)
    throw py::value_error("the columns have different lengths");
  Regions regions;
  regions.all.reserve(static_cast<size_t>(count));
  for (py::ssize_t i = 0; i < count; ++i) {
    regions.all.emplace_back(Range{start(i), length(i)}, sources.at(number(i)), offset(i),
                             sys::page_size(), kMissingFaults, OnRemove::decide);
  }
  return regions;
}

// That of the mapping in which it lies, if that is one of ours.
uint64_t page_size_at(const Range& range) {
  const auto mapping = mapping_at(range);
  return mapping ? mapping->mapping.page_size() : sys::page_size();
}

}  // namespace

void bind_region(py::module_& m) {
  using namespace py::literals;
  py::class_<Regions>(m, "Regions")
      .def(py::init(&regions_of), "start"_a, "length"_a, "offset"_a, "number"_a, "sources"_a)
      .def("__len__", [](const Regions& regions) { return regions.all.size(); });
  py::class_<Region>(m, "Region", doc("Region"))
      .def(py::init([](const py::object& start, const py::object& length, const py::object& source,
                       const py::object& source_offset, const py::object& page_size,
                       const py::object& mode, const py::object& on_remove) {
             const Range range{start_argument(start), unsigned_argument(length, "length")};
             return region_of({range, mapping_at(range)}, source, source_offset,
                              unsigned_argument(page_size, "page_size"), mode, on_remove);
           }),
           "start"_a, "length"_a, "source"_a, "source_offset"_a = 0,
           "page_size"_a = sys::page_size(), py::kw_only(), "mode"_a = "missing",
           "on_remove"_a = "auto", doc("Region.__init__"))
      .def_static(
          "of",
          [](const py::object& memory, const py::object& source, const py::object& source_offset,
             const py::object& mode, const py::object& on_remove) {
            const HeldMemory held = memory_of(memory);
            return region_of(held, source, source_offset, page_size_at(held.range), mode,
                             on_remove);
          },
          "memory"_a, "source"_a, "source_offset"_a = 0, py::kw_only(), "mode"_a = "missing",
          "on_remove"_a = "auto", doc("Region.of"))
      .def_property_readonly(
          "start", [](const Region& region) { return region.range.start; }, doc("Region.start"))
      .def_property_readonly(
          "length", [](const Region& region) { return region.range.length; }, doc("Region.length"))
      .def_property_readonly(
          "source",
          [](const Region& region) { return std::const_pointer_cast<Source>(region.source); },
          doc("Region.source"))
      .def_readonly("source_offset", &Region::source_offset, doc("Region.source_offset"))
      .def_readonly("page_size", &Region::page_size, doc("Region.page_size"))
      .def_property_readonly(
          "mode", [](const Region& region) { return name_of(region.modes, kModes); },
          doc("Region.mode"))
      .def_property_readonly(
          "on_remove", [](const Region& region) { return name_of(region.on_remove, kOnRemove); },
          doc("Region.on_remove"))
      .def("__repr__", [](const Region& region) {
        return py::str(
                   "<pyuffd.Region start={:#x} length={} source_offset={} page_size={} mode={}>")
            .format(region.range.start, region.range.length, region.source_offset, region.page_size,
                    name_of(region.modes, kModes));
      });
}

}  // namespace uffd::bindings
