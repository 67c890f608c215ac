#include "engine/probe/release_generation.hpp"

#include <sys/utsname.h>

#include <array>
#include <cstdio>
#include <tuple>

namespace uffd {
namespace {

using Version = std::tuple<int, int, int>;

struct Backport {
  int major, minor, patch;
};

// The stable series that took fe4cdc2c4e24, and from which release on.
constexpr std::array<Backport, 4> kBackports{{{6, 6, 88}, {6, 12, 24}, {6, 13, 12}, {6, 14, 3}}};

}  // namespace

ReleaseGeneration release_generation(const std::string& kernel_release) noexcept {
  int major = 0, minor = 0, patch = 0;
  std::sscanf(kernel_release.c_str(), "%d.%d.%d", &major, &minor, &patch);
  const Version version{major, minor, patch};
  if (version >= Version{6, 15, 0}) return ReleaseGeneration::retry;
  for (const Backport& from : kBackports) {
    if (major == from.major && minor == from.minor && patch >= from.patch)
      return ReleaseGeneration::retry;
  }
  return version >= Version{4, 14, 0} ? ReleaseGeneration::nopage : ReleaseGeneration::sigbus;
}

const char* name(ReleaseGeneration generation) noexcept {
  switch (generation) {
    case ReleaseGeneration::sigbus:
      return "sigbus";
    case ReleaseGeneration::nopage:
      return "nopage";
    case ReleaseGeneration::retry:
      return "retry";
  }
  return "";
}

std::optional<ReleaseGeneration> generation_named(std::string_view wanted) noexcept {
  for (const auto generation :
       {ReleaseGeneration::sigbus, ReleaseGeneration::nopage, ReleaseGeneration::retry}) {
    if (wanted == name(generation)) return generation;
  }
  return std::nullopt;
}

std::string kernel_release() {
  utsname names{};
  ::uname(&names);
  return names.release;
}

}  // namespace uffd
