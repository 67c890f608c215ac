// The engine's own tests. Exits with 77 (ctest: skipped) where this user may open no userfaultfd.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "engine/linux/error.hpp"
#include "engine/linux/userfaultfd.hpp"

int main(int argc, char** argv) {
  try {
    uffd::Userfaultfd::open(uffd::Access::best, 0);
  } catch (const uffd::UnsupportedError& error) {
    std::fprintf(stderr, "skipped: %s\n", error.text().c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
