#include <cstring>

#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/raised.hpp"
#include "engine/source/callable_source.hpp"

namespace uffd::bindings {
namespace {

// How the function supplies its bytes. With the GIL; false with an exception set.
using Way = bool (*)(PyObject* function, uint64_t offset, std::span<std::byte> into);

// Has the function write into the place itself, which must not be used by anybody afterwards.
bool call_to_fill(PyObject* function, uint64_t offset, std::span<std::byte> into) {
  PyObject* const view = PyMemoryView_FromMemory(reinterpret_cast<char*>(into.data()),
                                                 static_cast<Py_ssize_t>(into.size()), PyBUF_WRITE);
  if (!view) return false;
  const unsigned long long from = offset;
  PyObject* result = PyObject_CallFunction(function, "KO", from, view);
  if (result) {
    Py_DECREF(result);
    result = PyObject_CallMethod(view, "release", nullptr);
  }
  const bool done = result != nullptr;
  Py_XDECREF(result);
  Py_DECREF(view);
  return done;
}

// Copies what the function returns.
bool call_to_copy(PyObject* function, uint64_t offset, std::span<std::byte> into) {
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
  Py_XDECREF(result);
  return done;
}

// On a thread of the engine: what was raised, or nullptr. An interpreter that ends
// meanwhile ends this thread where it stands (pthread_exit), so nothing here may have a destructor
// that needs the GIL.
PyObject* call_from_fetcher(PyObject* function, Way way, uint64_t offset,
                            std::span<std::byte> into) {
  if (!Py_IsInitialized()) throw std::runtime_error("Python has ended");
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* const raised = way(function, offset, into) ? nullptr : take_raised();
  PyGILState_Release(state);
  return raised;
}

// Nobody is there to raise to: Python's unraisable hook shows what went wrong. As
// call_from_fetcher().
void show(PyObject* function, const std::exception_ptr& error) {
  if (!Py_IsInitialized()) return;
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* const raised = to_exception(error).release().ptr();
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(raised)), raised);
  PyErr_WriteUnraisable(function);
  Py_DECREF(raised);
  PyGILState_Release(state);
}

std::optional<std::chrono::nanoseconds> limit_argument(const py::object& object, const char* name) {
  const std::optional<double> seconds = seconds_argument(object, name);
  if (!seconds) return std::nullopt;
  if (*seconds > 0 && *seconds < 1e9)
    return std::chrono::nanoseconds(static_cast<int64_t>(*seconds * 1e9));
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(*seconds) +
                              "; it must be a number of seconds between 0 and 1e9, or None");
}

Retry retry_argument(const py::object& retries, const py::object& retry_for) {
  Retry retry{.retries = std::nullopt, .within = limit_argument(retry_for, "retry_for")};
  if (!retries.is_none())
    retry.retries = static_cast<unsigned>(
        std::min<uint64_t>(unsigned_argument(retries, "retries"), UINT32_MAX));
  return retry;
}

std::shared_ptr<CallableSource> callable_source(const py::object& read, const py::object& length,
                                                const py::object& deadline,
                                                const py::object& retries,
                                                const py::object& retry_for,
                                                const py::object& block, bool into_view) {
  release_dropped();
  if (!PyCallable_Check(read.ptr()))
    refuse_type("read", read, "a function of offset and length that returns bytes");
  const auto wait = limit_argument(deadline, "deadline");
  const Retry retry = retry_argument(retries, retry_for);
  const uint64_t bytes = unsigned_argument(length, "length");
  if (bytes == 0) throw std::invalid_argument("length is 0; a source has at least one byte");
  auto held = std::make_unique<HeldObject>(read.ptr());
  read.inc_ref();
  const std::shared_ptr<HeldObject> function(held.release(), drop);
  const Way way = into_view ? call_to_fill : call_to_copy;
  const auto fetch = [function, way](uint64_t offset, std::span<std::byte> into) {
    if (PyGILState_GetThisThreadState() == nullptr) {
      if (PyObject* const raised = call_from_fetcher(function->object, way, offset, into))
        throw RaisedOnFetcher(raised);
      return;
    }
    const py::gil_scoped_acquire gil;
    if (!way(function->object, offset, into)) throw py::error_already_set();
  };
  const auto failed = [function](const std::exception_ptr& error) {
    show(function->object, error);
  };
  return std::make_shared<CallableSource>(fetch, failed, bytes, unsigned_argument(block, "block"),
                                          wait, retry);
}

}  // namespace

void bind_callable_source(py::module_& m) {
  using namespace py::literals;
  py::class_<CallableSource, Source, std::shared_ptr<CallableSource>>(m, "CallableSource",
                                                                      doc("CallableSource"))
      .def(py::init(&callable_source), "read"_a, "length"_a, py::kw_only(),
           "deadline"_a = py::none(), "retries"_a = 2, "retry_for"_a = py::none(), "block"_a = 0,
           "into"_a = false, doc("CallableSource.__init__"))
      .def("__repr__", [](const CallableSource& source) {
        return "<pyuffd.CallableSource length=" + std::to_string(source.length()) + ">";
      });
}

}  // namespace uffd::bindings
