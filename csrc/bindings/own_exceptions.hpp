// Each module translates what it throws itself.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

namespace uffd::bindings {

// pybind11 leaves standard exceptions to the module that was imported first. Where each module has
// a C++ runtime of its own (libc++, linked statically) that one does not know the types of another.
inline void translate_own_exceptions(void (*of_the_engine)(std::exception_ptr)) {
  pybind11::register_local_exception_translator(pybind11::detail::translate_exception);
  pybind11::register_local_exception_translator(std::move(of_the_engine));  // is asked first
}

}  // namespace uffd::bindings
