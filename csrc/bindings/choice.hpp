// Arguments that are one of a few names.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

namespace uffd::bindings {

template <typename Value>
using Choices = std::map<std::string, Value>;

template <typename Value>
Value chosen(const Choices<Value>& choices, const std::string& given, const char* argument) {
  const auto found = choices.find(given);
  if (found != choices.end()) return found->second;
  std::string names;
  for (const auto& [name, value] : choices) names += (names.empty() ? "'" : ", '") + name + "'";
  throw std::invalid_argument(std::string(argument) + " is '" + given + "'; it must be one of " +
                              names);
}

template <typename Value>
std::string named(const Choices<Value>& choices, const Value& value) {
  for (const auto& [name, other] : choices) {
    if (other == value) return name;
  }
  return "";
}

}  // namespace uffd::bindings
