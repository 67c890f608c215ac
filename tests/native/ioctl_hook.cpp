#include "ioctl_hook.hpp"

#include <atomic>
#include <cerrno>
#include <cstdarg>

extern "C" int __real_ioctl(int fd, unsigned long request, ...);

namespace uffd::test {
namespace {

std::atomic<const Hook*> current{nullptr};

}  // namespace

int kernel_ioctl(int fd, unsigned long request, void* argument) {
  return __real_ioctl(fd, request, argument);
}

IoctlHook::IoctlHook(Hook hook) {
  current = new Hook(std::move(hook));
}

IoctlHook::~IoctlHook() {
  delete current.exchange(nullptr);
}

}  // namespace uffd::test

extern "C" int __wrap_ioctl(int fd, unsigned long request, ...);

extern "C" int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (const uffd::test::Hook* hook = uffd::test::current) {
    if (const auto result = (*hook)(fd, request, argument)) {
      if (*result >= 0) return *result;
      errno = -*result;
      return -1;
    }
  }
  return __real_ioctl(fd, request, argument);
}
