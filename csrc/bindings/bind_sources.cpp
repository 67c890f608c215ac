#include <cstring>

#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/held_buffer.hpp"
#include "engine/source/callable_source.hpp"
#include "engine/source/file_source.hpp"
#include "engine/source/memory_source.hpp"
#include "engine/source/zero_source.hpp"

namespace uffd::bindings {
namespace {

struct HeldObject final : Droppable {
  explicit HeldObject(PyObject* held) : object(held) {}
  void release() override { Py_DECREF(object); }
  PyObject* const object;
};

std::shared_ptr<MemorySource> memory_source(const py::object& object) {
  if (!PyObject_CheckBuffer(object.ptr()))
    refuse_type("buffer", object, "bytes, an array, or another C-contiguous buffer");
  const HeldBuffer held = hold_buffer(object, PyBUF_SIMPLE);
  return std::make_shared<MemorySource>(held.bytes, held.owner);
}

// Copies what the function returns; throws what it throws, or what is wrong with that.
void call(PyObject* function, uint64_t offset, std::span<std::byte> into) {
  const auto result = py::reinterpret_borrow<py::object>(function)(offset, into.size());
  const std::unique_ptr<Py_buffer, void (*)(Py_buffer*)> buffer(new Py_buffer, [](Py_buffer* held) {
    PyBuffer_Release(held);
    delete held;
  });
  *buffer = {};
  if (PyObject_GetBuffer(result.ptr(), buffer.get(), PyBUF_SIMPLE) != 0)
    throw py::error_already_set();
  if (static_cast<size_t>(buffer->len) != into.size()) {
    throw py::value_error("read(" + std::to_string(offset) + ", " + std::to_string(into.size()) +
                          ") returned " + std::to_string(buffer->len) +
                          " bytes; it must return as many as its second argument");
  }
  std::memcpy(into.data(), buffer->buf, into.size());
}

// As call(), on a thread of the engine; whether it did. Nobody is there to raise to: Python's
// unraisable hook shows what went wrong. An interpreter that ends meanwhile ends this thread where
// it stands (pthread_exit), so nothing here may have a destructor that needs the GIL.
bool call_from_fetcher(PyObject* function, uint64_t offset, std::span<std::byte> into) {
  if (!Py_IsInitialized()) return false;
  const PyGILState_STATE state = PyGILState_Ensure();
  const unsigned long long from = offset, wanted = into.size();
  PyObject* const result = PyObject_CallFunction(function, "KK", from, wanted);
  Py_buffer buffer;
  bool done = false;
  if (result && PyObject_GetBuffer(result, &buffer, PyBUF_SIMPLE) == 0) {
    done = static_cast<size_t>(buffer.len) == into.size();
    if (done) {
      std::memcpy(into.data(), buffer.buf, into.size());
    } else {
      PyErr_Format(
          PyExc_ValueError,
          "read(%llu, %llu) returned %zd bytes; it must return as many as its second argument",
          from, wanted, buffer.len);
    }
    PyBuffer_Release(&buffer);
  }
  if (!done) PyErr_WriteUnraisable(function);
  Py_XDECREF(result);
  PyGILState_Release(state);
  return done;
}

std::shared_ptr<CallableSource> callable_source(const py::object& read, const py::object& length,
                                                const py::object& seconds) {
  release_dropped();
  if (!PyCallable_Check(read.ptr()))
    refuse_type("read", read, "a function of offset and length that returns bytes");
  const std::optional<double> deadline = seconds_argument(seconds, "deadline");
  if (deadline && !(*deadline > 0 && *deadline < 1e9)) {
    throw std::invalid_argument("deadline is " + std::to_string(*deadline) +
                                "; it must be a number of seconds between 0 and 1e9, or None");
  }
  std::optional<std::chrono::nanoseconds> wait;
  if (deadline) wait = std::chrono::nanoseconds(static_cast<int64_t>(*deadline * 1e9));
  const uint64_t bytes = unsigned_argument(length, "length");
  if (bytes == 0) throw std::invalid_argument("length is 0; a source has at least one byte");
  auto held = std::make_unique<HeldObject>(read.ptr());
  read.inc_ref();
  const std::shared_ptr<HeldObject> function(held.release(), drop);
  const auto fetch = [function](uint64_t offset, std::span<std::byte> into) {
    if (PyGILState_GetThisThreadState() == nullptr) {
      if (call_from_fetcher(function->object, offset, into)) return;
      throw std::runtime_error("the source's function failed");
    }
    const py::gil_scoped_acquire gil;
    call(function->object, offset, into);
  };
  return std::make_shared<CallableSource>(fetch, bytes, wait);
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
  py::class_<CallableSource, Source, std::shared_ptr<CallableSource>>(m, "CallableSource",
                                                                      doc("CallableSource"))
      .def(py::init(&callable_source), "read"_a, "length"_a, py::kw_only(),
           "deadline"_a = py::none(), doc("CallableSource.__init__"))
      .def("__repr__", [](const CallableSource& source) {
        return "<pyuffd.CallableSource length=" + std::to_string(source.length()) + ">";
      });
  py::class_<ZeroSource, Source, std::shared_ptr<ZeroSource>>(m, "ZeroSource", doc("ZeroSource"))
      .def(py::init<>(), doc("ZeroSource.__init__"))
      .def("__repr__", [](const ZeroSource&) { return "<pyuffd.ZeroSource>"; });
}

}  // namespace uffd::bindings
