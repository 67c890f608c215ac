// A manager in a process of its own, which parks at a named instruction until it is killed.
#pragma once

#include <string>
#include <vector>

#include "engine/linux/fd.hpp"
#include "support.hpp"

namespace uffd::test {

// Where it parks.
enum class Moment {
  before_install,  // a fault was read
  after_install,   // its page is there, and not noted
  in_fill,         // some chunks are installed
  in_ending,       // some regions are unregistered, and the guard has let go
};

// What "uffd_tests manage" does with its arguments, which DoomedManager makes.
int manage(const std::vector<std::string>& arguments);

// Has another process serve memory of this one, with a guard, up to the moment.
class DoomedManager {
 public:
  // The memory is registered with a userfaultfd that this process does not keep.
  DoomedManager(const Memory& memory, Moment moment);
  DoomedManager(const DoomedManager&) = delete;
  DoomedManager& operator=(const DoomedManager&) = delete;
  ~DoomedManager();

  // After this the memory is served.
  void await_serving();
  void await_parked();
  void kill();

 private:
  char heard();

  Fd words_;
  pid_t child_ = 0;
};

}  // namespace uffd::test
