#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/held_buffer.hpp"
#include "engine/source/file_source.hpp"
#include "engine/source/memory_source.hpp"
#include "engine/source/zero_source.hpp"

namespace uffd::bindings {
namespace {

std::shared_ptr<MemorySource> memory_source(const py::object& object) {
  if (!PyObject_CheckBuffer(object.ptr()))
    refuse_type("buffer", object, "bytes, an array, or another C-contiguous buffer");
  const HeldBuffer held = hold_buffer(object, PyBUF_SIMPLE);
  return std::make_shared<MemorySource>(held.bytes, held.owner);
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
  const bool is_path = py::isinstance<py::str>(path) || py::isinstance<py::bytes>(path) ||
                       py::hasattr(path, "__fspath__");
  if (!is_path) refuse_type("path", path, "a path");
  auto text = py::module_::import("os").attr("fsencode")(path).cast<std::string>();
  if (text.find('\0') != std::string::npos)
    throw std::invalid_argument("embedded null byte in path");
  return text;
}

// A path as os.fsdecode() gives it.
py::object decoded(const std::string& path) {
  return py::module_::import("os").attr("fsdecode")(py::bytes(path));
}

}  // namespace

void bind_sources(py::module_& m) {
  using namespace py::literals;
  py::class_<Source, std::shared_ptr<Source>>(m, "Source", doc("Source"))
      .def_property_readonly(
          "length", [](const Source& source) { return source.length(); }, doc("Source.length"))
      .def("read", &read_source, "offset"_a, "length"_a, doc("Source.read"));
  py::class_<MemorySource, Source, std::shared_ptr<MemorySource>>(m, "MemorySource",
                                                                  doc("MemorySource"))
      .def(py::init(&memory_source), "buffer"_a, doc("MemorySource.__init__"))
      .def("__repr__", [](const MemorySource& source) {
        return "<pyuffd.MemorySource length=" + std::to_string(source.length()) + ">";
      });
  py::class_<FileSource, Source, std::shared_ptr<FileSource>>(m, "FileSource", doc("FileSource"))
      .def(py::init([](const py::object& path, const py::object& direct) {
             const bool past_cache = flag_argument(direct, "direct");
             return without_gil([name = path_of(path), past_cache] {
               return std::make_shared<FileSource>(name, past_cache);
             });
           }),
           "path"_a, py::kw_only(), "direct"_a = false, doc("FileSource.__init__"))
      .def_property_readonly(
          "path", [](const FileSource& source) { return decoded(source.path()); },
          doc("FileSource.path"))
      .def("__repr__", [](const FileSource& source) {
        return "<pyuffd.FileSource path=" + py::repr(decoded(source.path())).cast<std::string>() +
               " length=" + std::to_string(source.length()) + ">";
      });
  py::class_<ZeroSource, Source, std::shared_ptr<ZeroSource>>(m, "ZeroSource", doc("ZeroSource"))
      .def(py::init<>(), doc("ZeroSource.__init__"))
      .def("__repr__", [](const ZeroSource&) { return "<pyuffd.ZeroSource>"; });
}

}  // namespace uffd::bindings
