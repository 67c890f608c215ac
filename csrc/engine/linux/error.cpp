#include "engine/linux/error.hpp"

#include <cstdio>

namespace uffd {

SystemError::SystemError(int error, const std::string& text)
    : std::system_error(error, std::generic_category(), text), text_(text) {}

std::string range_text(unsigned long long start, unsigned long long length) {
  char text[64];
  std::snprintf(text, sizeof text, "%#llx-%#llx", start, start + length);
  return text;
}

std::string errno_text(int error) {
  return std::generic_category().message(error);
}

void throw_errno(const char* what) {
  const int error = errno;
  throw SystemError(error, std::string(what) + ": " + errno_text(error));
}

}  // namespace uffd
