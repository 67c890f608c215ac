// What a source's function raised on a thread of the engine.
#pragma once

#include <exception>
#include <memory>

#include "bindings/common.hpp"
#include "bindings/dropped.hpp"

namespace uffd::bindings {

// A reference to an object, which any thread may let go of.
struct HeldObject final : Droppable {
  explicit HeldObject(PyObject* held) : object(held) {}
  void release() override { Py_DECREF(object); }
  PyObject* const object;
};

class RaisedOnFetcher final : public std::exception {
 public:
  // Takes the reference.
  explicit RaisedOnFetcher(PyObject* raised) : exception_(new HeldObject(raised), drop) {}

  const char* what() const noexcept override { return "the source's function failed"; }
  PyObject* exception() const noexcept { return exception_->object; }

 private:
  std::shared_ptr<HeldObject> exception_;
};

// Takes the exception that is set, with its traceback; a new reference. With the GIL.
PyObject* take_raised() noexcept;

// As an exception of Python; None for an empty one. With the GIL.
py::object to_exception(const std::exception_ptr& error);

}  // namespace uffd::bindings
