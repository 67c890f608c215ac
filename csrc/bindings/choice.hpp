// Arguments that are one of a few names.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace uffd::bindings {

template <typename Value>
using Choices = std::vector<std::pair<std::string, Value>>;

// "'a', 'b'".
template <typename Value>
std::string names_of(const Choices<Value>& choices) {
  std::string names;
  for (const auto& [choice, value] : choices) names += (names.empty() ? "'" : ", '") + choice + "'";
  return names;
}

// The value of a name; throws std::invalid_argument that lists the names.
template <typename Value>
Value choose(const char* parameter, const std::string& name, const Choices<Value>& choices) {
  for (const auto& [choice, value] : choices) {
    if (choice == name) return value;
  }
  throw std::invalid_argument(std::string(parameter) + " is '" + name + "'; it must be one of " +
                              names_of(choices));
}

template <typename Value>
std::string name_of(const Value& value, const Choices<Value>& choices) {
  for (const auto& [name, other] : choices) {
    if (other == value) return name;
  }
  return "";
}

}  // namespace uffd::bindings
