#include "bindings/common.hpp"
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
  py::class_<Fault>(
      m, "Fault",
      "A thread sleeps on this page until it is resolved (uffd_msg, UFFD_EVENT_PAGEFAULT).")
      .def_readonly("address", &Fault::address)
      .def_readonly("flags", &Fault::flags)
      .def_readonly("thread", &Fault::thread)
      .def("__repr__", [](const Fault& fault) {
        return "Fault(address=" + hex(fault.address) + ", flags=" + std::to_string(fault.flags) +
               ", thread=" + std::to_string(fault.thread) + ")";
      });
  py::class_<RemapEvent>(m, "RemapEvent", "The target moved memory (UFFD_EVENT_REMAP).")
      .def_readonly("from_", &RemapEvent::from)
      .def_readonly("to", &RemapEvent::to)
      .def_readonly("length", &RemapEvent::length)
      .def("__repr__", [](const RemapEvent& event) {
        return "RemapEvent(from_=" + hex(event.from) + ", to=" + hex(event.to) +
               ", length=" + std::to_string(event.length) + ")";
      });
  py::class_<RemoveEvent>(m, "RemoveEvent", "The target dropped pages (UFFD_EVENT_REMOVE).")
      .def_readonly("start", &RemoveEvent::start)
      .def_readonly("end", &RemoveEvent::end)
      .def("__repr__", [](const RemoveEvent& event) { return range_repr("RemoveEvent", event); });
  py::class_<UnmapEvent>(m, "UnmapEvent", "The target unmapped memory (UFFD_EVENT_UNMAP).")
      .def_readonly("start", &UnmapEvent::start)
      .def_readonly("end", &UnmapEvent::end)
      .def("__repr__", [](const UnmapEvent& event) { return range_repr("UnmapEvent", event); });
  py::class_<UnknownEvent>(m, "UnknownEvent", "An event that this version does not know.")
      .def_readonly("event", &UnknownEvent::event);
}

}  // namespace uffd::bindings
