#include "bindings/common.hpp"
#include "engine/linux/mapping.hpp"

namespace uffd::bindings {
namespace {

// A mapping and how many arrays view it. Arrays keep it mapped, whatever becomes of the handle.
struct SharedMapping {
  Mapping mapping;
  size_t views = 0;  // under the GIL
};

class MappingHandle {
 public:
  MappingHandle(uint64_t length, MemoryKind kind, bool shared)
      : shared_(std::make_shared<SharedMapping>(SharedMapping{Mapping(length, kind, shared)})) {}

  const Mapping& use() const {
    if (!shared_) throw std::invalid_argument("this mapping is closed");
    return shared_->mapping;
  }
  bool closed() const { return !shared_; }

  py::array array() {
    const Mapping& mapping = use();
    auto owner = std::make_unique<std::shared_ptr<SharedMapping>>(shared_);
    const py::capsule view(owner.get(), [](void* pointer) {
      const std::unique_ptr<std::shared_ptr<SharedMapping>> last(
          static_cast<std::shared_ptr<SharedMapping>*>(pointer));
      --(*last)->views;
    });
    ++(*owner.release())->views;
    return py::array_t<uint8_t>({mapping.length()}, {1},
                                reinterpret_cast<uint8_t*>(mapping.address()), view);
  }

  void close() {
    if (!shared_) return;
    if (shared_->views > 0) {
      PyErr_Format(PyExc_BufferError,
                   "%zu arrays still view this mapping: delete them before you close it",
                   shared_->views);
      throw py::error_already_set();
    }
    const auto last = std::exchange(shared_, nullptr);
    without_gil([&] { last->mapping.unmap(); });
  }

 private:
  std::shared_ptr<SharedMapping> shared_;
};

MemoryKind kind_of(const std::string& kind) {
  if (kind == "anonymous") return MemoryKind::anonymous;
  if (kind == "memfd") return MemoryKind::memfd;
  if (kind == "hugetlb") return MemoryKind::hugetlb;
  throw std::invalid_argument("kind is '" + kind +
                              "'; it must be 'anonymous', 'memfd' or 'hugetlb'");
}

}  // namespace

void bind_mapping(py::module_& m) {
  using namespace py::literals;
  py::class_<MappingHandle>(m, "Mapping")
      .def(py::init([](const py::object& length, const std::string& kind, bool shared) {
             return std::make_unique<MappingHandle>(unsigned_argument(length, "length"),
                                                    kind_of(kind), shared);
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
