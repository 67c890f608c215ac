#include "bindings/common.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/flags.hpp"
#include "engine/linux/message.hpp"

namespace uffd::bindings {
namespace {

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%#llx", static_cast<unsigned long long>(value));
  return text;
}

template <typename Event>
std::string range_repr(const char* name, const Event& event) {
  return std::string(name) + "(start=" + hex(event.start) + ", end=" + hex(event.end) + ")";
}

}  // namespace

void bind_messages(py::module_& m) {
  py::class_<Fault>(m, "Fault", doc("Fault"))
      .def_readonly("address", &Fault::address, doc("Fault.address"))
      .def_property_readonly(
          "flags", [](const Fault& fault) { return as_flags("FaultFlag", fault.flags); },
          doc("Fault.flags"))
      .def_readonly("thread", &Fault::thread, doc("Fault.thread"))
      .def("__repr__", [](const Fault& fault) {
        return "Fault(address=" + hex(fault.address) + ", flags=" + std::to_string(fault.flags) +
               ", thread=" + std::to_string(fault.thread) + ")";
      });
  py::class_<RemapEvent>(m, "RemapEvent", doc("RemapEvent"))
      .def_readonly("from_", &RemapEvent::from, doc("RemapEvent.from_"))
      .def_readonly("to", &RemapEvent::to, doc("RemapEvent.to"))
      .def_readonly("length", &RemapEvent::length, doc("RemapEvent.length"))
      .def("__repr__", [](const RemapEvent& event) {
        return "RemapEvent(from_=" + hex(event.from) + ", to=" + hex(event.to) +
               ", length=" + std::to_string(event.length) + ")";
      });
  py::class_<RemoveEvent>(m, "RemoveEvent", doc("RemoveEvent"))
      .def_readonly("start", &RemoveEvent::start, doc("RemoveEvent.start"))
      .def_readonly("end", &RemoveEvent::end, doc("RemoveEvent.end"))
      .def("__repr__", [](const RemoveEvent& event) { return range_repr("RemoveEvent", event); });
  py::class_<UnmapEvent>(m, "UnmapEvent", doc("UnmapEvent"))
      .def_readonly("start", &UnmapEvent::start, doc("UnmapEvent.start"))
      .def_readonly("end", &UnmapEvent::end, doc("UnmapEvent.end"))
      .def("__repr__", [](const UnmapEvent& event) { return range_repr("UnmapEvent", event); });
  py::class_<UnknownEvent>(m, "UnknownEvent", doc("UnknownEvent"))
      .def_readonly("event", &UnknownEvent::event, doc("UnknownEvent.event"))
      .def("__repr__", [](const UnknownEvent& event) {
        return "UnknownEvent(event=" + std::to_string(event.event) + ")";
      });
}

}  // namespace uffd::bindings
