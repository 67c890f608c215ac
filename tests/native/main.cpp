// The engine's own tests; with "manage" a manager that is killed by a test. Exits with 77 (ctest:
// skipped) where this user may open no userfaultfd.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string_view>

#include "doomed_manager.hpp"
#include "engine/linux/error.hpp"
#include "engine/linux/userfaultfd.hpp"

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "manage")
    return uffd::test::manage({argv + 2, argv + argc});
  try {
    uffd::Userfaultfd::open(uffd::Access::best, 0);
  } catch (const uffd::UnsupportedError& error) {
    std::fprintf(stderr, "skipped: %s\n", error.text().c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
