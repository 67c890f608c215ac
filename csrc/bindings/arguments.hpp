// Arguments of public functions: each is refused with a sentence that says what it is and what it
// must be. With the GIL; they throw TypeError and std::invalid_argument.
#pragma once

#include <optional>
#include <string>

#include "bindings/choice.hpp"
#include "bindings/common.hpp"
#include "engine/source/source.hpp"

namespace uffd::bindings {

// A TypeError: "NAME is VALUE; it must be WHAT".
[[noreturn]] void refuse_type(const char* name, const py::handle& value, const std::string& what);

// An integer, or what has __index__, as an address, a length or a count.
uint64_t unsigned_argument(const py::object& value, const char* name);

// The same, as a descriptor or a process.
int small_argument(const py::object& value, const char* name);

// True or False, and nothing that is like them.
bool flag_argument(const py::object& value, const char* name);

// Seconds; empty for None.
std::optional<double> seconds_argument(const py::object& value, const char* name);

// A source; empty for None.
std::shared_ptr<Source> source_argument(const py::object& value, const char* name);

// One of a few words.
template <typename Value>
Value word_argument(const py::object& value, const char* name, const Choices<Value>& choices) {
  if (!py::isinstance<py::str>(value)) refuse_type(name, value, "one of " + names_of(choices));
  return choose(name, value.cast<std::string>(), choices);
}

}  // namespace uffd::bindings
