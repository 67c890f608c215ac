#include "bindings/common.hpp"
#include "engine/source/file_source.hpp"
#include "engine/source/memory_source.hpp"
#include "engine/source/zero_source.hpp"

namespace uffd::bindings {
namespace {

// A buffer's last owner may be a thread of the engine, which must never wait for the GIL: then the
// main thread releases it at its next opportunity.
void release_buffer(Py_buffer* buffer) {
  const auto release = [](void* pointer) {
    const std::unique_ptr<Py_buffer> owned(static_cast<Py_buffer*>(pointer));
    PyBuffer_Release(owned.get());
    return 0;
  };
  if (!Py_IsInitialized()) return;
  if (PyGILState_Check()) {
    release(buffer);
  } else {
    Py_AddPendingCall(release, buffer);
  }
}

std::shared_ptr<MemorySource> memory_source(const py::object& object) {
  auto buffer = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object.ptr(), buffer.get(), PyBUF_SIMPLE) != 0)
    throw py::error_already_set();
  const std::span bytes(static_cast<const std::byte*>(buffer->buf),
                        static_cast<size_t>(buffer->len));
  const std::shared_ptr<void> owner(
      buffer.release(), [](void* pointer) { release_buffer(static_cast<Py_buffer*>(pointer)); });
  return std::make_shared<MemorySource>(bytes, owner);
}

py::bytes read_source(const Source& source, const py::object& offset, const py::object& length) {
  const uint64_t from = unsigned_argument(offset, "offset");
  const uint64_t wanted = unsigned_argument(length, "length");
  if (wanted > source.length()) {
    throw std::out_of_range("length is " + std::to_string(wanted) + ", but the source has " +
                            std::to_string(source.length()) + " bytes");
  }
  std::string bytes(wanted, '\0');
  without_gil([&] { source.read(from, std::as_writable_bytes(std::span(bytes))); });
  return py::bytes(bytes);
}

std::string path_of(const py::object& path) {
  auto text = py::module_::import("os").attr("fsencode")(path).cast<std::string>();
  if (text.find('\0') != std::string::npos)
    throw std::invalid_argument("embedded null byte in path");
  return text;
}

}  // namespace

void bind_sources(py::module_& m) {
  using namespace py::literals;
  py::class_<Source, std::shared_ptr<Source>>(m, "Source")
      .def_property_readonly("length", [](const Source& source) { return source.length(); })
      .def("read", &read_source, "offset"_a, "length"_a);
  py::class_<MemorySource, Source, std::shared_ptr<MemorySource>>(m, "MemorySource")
      .def(py::init(&memory_source), "buffer"_a);
  py::class_<FileSource, Source, std::shared_ptr<FileSource>>(m, "FileSource")
      .def(py::init(
               [](const py::object& path) { return std::make_shared<FileSource>(path_of(path)); }),
           "path"_a);
  py::class_<ZeroSource, Source, std::shared_ptr<ZeroSource>>(m, "ZeroSource").def(py::init<>());
}

}  // namespace uffd::bindings
