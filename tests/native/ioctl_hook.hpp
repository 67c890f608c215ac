// The seam through which tests make ioctls fail, or park a thread before one: the linker sends
// every ioctl of this program here (--wrap), so that the engine itself knows nothing of it.
#pragma once

#include <functional>
#include <optional>

namespace uffd::test {

// Called before each ioctl, by any thread: 0 or -errno instead of the call, or nothing to let it
// pass. To call the kernel itself a hook uses kernel_ioctl.
using Hook = std::function<std::optional<int>(int fd, unsigned long request, void* argument)>;

int kernel_ioctl(int fd, unsigned long request, void* argument);

// Hooks as long as it lives: longer than any thread that the hook matters for.
class IoctlHook {
 public:
  explicit IoctlHook(Hook hook);
  ~IoctlHook();
};

}  // namespace uffd::test
