// The engine's own tests, and with "watch" the watcher of adopted threads. Exits with 77 (ctest:
// skipped) where this user may open no userfaultfd.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "engine/linux/error.hpp"
#include "engine/linux/userfaultfd.hpp"
#include "engine/serve/adoption/adoption_watcher.hpp"

int main(int argc, char** argv) {
  if (argc == 6 && std::string_view(argv[1]) == "watch") {
    const auto fd = [&](int argument) { return uffd::Fd(std::atoi(argv[argument])); };
    uffd::watch_adoptions(fd(2), fd(3), fd(4), fd(5));
    return 0;
  }
  try {
    uffd::Userfaultfd::open(uffd::Access::best, 0);
  } catch (const uffd::UnsupportedError& error) {
    std::fprintf(stderr, "skipped: %s\n", error.text().c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
