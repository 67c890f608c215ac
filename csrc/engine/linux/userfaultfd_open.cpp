// How a userfaultfd is opened, and what is said where it cannot be.
#include <array>
#include <atomic>

#include "engine/linux/features.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd {
namespace {

constexpr const char* kDevice = "/dev/userfaultfd";
constexpr int kOpenFlags = O_CLOEXEC | O_NONBLOCK;

// These return a descriptor or -errno.
int open_device(int flags) noexcept {
  const int device = sys::open(kDevice, O_RDWR);
  if (device < 0) return device;
  const Fd owned(device);
  return sys::ioctl(device, USERFAULTFD_IOC_NEW, kOpenFlags | flags);
}

int open_syscall(int flags) noexcept {
  return sys::userfaultfd(kOpenFlags | flags);
}

// How to open, in order; each notes its error in the attempts and returns a descriptor or -errno.
int attempt(int fd, int& error) noexcept {
  error = fd < 0 ? -fd : 0;
  return fd;
}

int open_full(OpenAttempts& attempts) noexcept {
  const int device = attempt(open_device(0), attempts.device);
  if (device >= 0) return device;
  const int fd = attempt(open_syscall(0), attempts.syscall);
  if (fd < 0) Fd(attempt(open_syscall(UFFD_USER_MODE_ONLY), attempts.user_mode_only));
  return fd;
}

// Needs no permission, so the device matters only where seccomp forbids the system call.
int open_user_mode_only(OpenAttempts& attempts) noexcept {
  const int fd = attempt(open_syscall(UFFD_USER_MODE_ONLY), attempts.syscall);
  attempts.user_mode_only = attempts.syscall;
  return fd >= 0 ? fd : attempt(open_device(UFFD_USER_MODE_ONLY), attempts.device);
}

struct Refusal {
  std::string text;
  Needs needs;
};

Refusal open_refusal(const OpenAttempts& attempts) {
  Refusal refusal;
  std::string& text = refusal.text;
  text = "userfaultfd cannot be opened: /dev/userfaultfd: ";
  text += errno_text(attempts.device);
  text += "; userfaultfd(2): ";
  text += errno_text(attempts.syscall);
  text += ". ";
  if (attempts.syscall == ENOSYS && unprivileged_sysctl() < 0) {
    text += "The kernel lacks CONFIG_USERFAULTFD. ";
    refusal.needs = {"CONFIG_USERFAULTFD"};
  } else if (attempts.syscall == ENOSYS || attempts.user_mode_only != 0) {
    text += "A seccomp filter (a container's default profile) forbids the call: allow it there. ";
    refusal.needs = {kDevice, "seccomp"};
  } else {
    text +=
        "To permit it, do one of: give this user read and write access to /dev/userfaultfd; set "
        "the sysctl vm.unprivileged_userfaultfd to 1; grant CAP_SYS_PTRACE; or open with "
        "user_mode_only=True, where kernel accesses to missing pages fail with EFAULT. ";
    refusal.needs = {kDevice, "vm.unprivileged_userfaultfd=1", "CAP_SYS_PTRACE"};
  }
  text += "'pyuffd probe' has the command for each";
  return refusal;
}

Refusal api_refusal(int error, uint64_t features) {
  Refusal refusal;
  std::string& text = refusal.text;
  text = "UFFDIO_API: ";
  if (error == EPERM && (features & UFFD_FEATURE_EVENT_FORK)) {
    text +=
        "the feature EVENT_FORK needs CAP_SYS_PTRACE: grant it, or open without EVENT_FORK (a fork "
        "child of the target then reads zeros in missing pages)";
    refusal.needs = {"CAP_SYS_PTRACE"};
  } else if (const uint64_t unknown = features & ~offered_features()) {
    text += "this kernel lacks the feature ";
    text += feature_names(unknown);
    if (const char* const kernel = first_kernel_with(unknown)) {
      text += std::string(" (") + kernel + ")";
      refusal.needs = {kernel};
    }
  } else {
    text += "the kernel refused the features ";
    text += feature_names(features);
  }
  return refusal;
}

// -errno, or 0.
int try_features(const Fd& fd, uint64_t features) noexcept {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  return fd ? sys::ioctl(fd.get(), UFFDIO_API, &api) : -EBADF;
}

// Any descriptor does: the kernel looks at the user's capabilities alone.
int try_fork_events() noexcept {
  int fd = open_syscall(UFFD_USER_MODE_ONLY);
  if (fd < 0) fd = open_device(UFFD_USER_MODE_ONLY);
  const Fd owned(fd);
  return owned ? -try_features(owned, UFFD_FEATURE_EVENT_FORK) : -fd;
}

}  // namespace

Userfaultfd Userfaultfd::open(Access access, uint64_t features) {
  OpenAttempts attempts;
  bool user_mode_only = access == Access::user_mode_only;
  ForkClosedFd fd(
      [&] { return user_mode_only ? open_user_mode_only(attempts) : open_full(attempts); });
  if (!fd && access == Access::best) {
    fd = ForkClosedFd([] { return open_syscall(UFFD_USER_MODE_ONLY); });
    user_mode_only = true;
  }
  for (const int error : {attempts.device, attempts.syscall}) {
    if (fd || (error != EMFILE && error != ENFILE && error != ENOMEM)) continue;
    throw SystemError(error, error == EMFILE
                                 ? "userfaultfd cannot be opened: each target takes a descriptor "
                                   "while pages are missing; raise RLIMIT_NOFILE (ulimit -n)"
                                 : "userfaultfd cannot be opened");
  }
  if (!fd) {
    auto [text, needs] = open_refusal(attempts);
    throw UnsupportedError(attempts.syscall, text, std::move(needs));
  }

  Userfaultfd opened(std::move(fd), user_mode_only);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  const int result = sys::ioctl(opened.fd(), UFFDIO_API, &api);
  if (result < 0) {
    auto [text, needs] = api_refusal(-result, features);
    throw UnsupportedError(-result, text, std::move(needs));
  }
  opened.features_ = features;
  return opened;
}

OpenAttempts try_opening() noexcept {
  OpenAttempts attempts;
  Fd(attempt(open_device(0), attempts.device));
  Fd(attempt(open_syscall(0), attempts.syscall));
  Fd(attempt(open_syscall(UFFD_USER_MODE_ONLY), attempts.user_mode_only));
  attempts.fork_events = try_fork_events();
  return attempts;
}

namespace {

uint64_t ask_for_features() noexcept {
  int fd = open_syscall(UFFD_USER_MODE_ONLY);
  if (fd < 0) fd = open_syscall(0);
  if (fd < 0) fd = open_device(0);
  const Fd owned(fd);
  uffdio_api api{};
  api.api = UFFD_API;
  return fd >= 0 && sys::ioctl(fd, UFFDIO_API, &api) == 0 ? uint64_t{api.features} : 0;
}

}  // namespace

uint64_t offered_features() noexcept {
  static std::atomic<uint64_t> known{0};
  uint64_t features = known.load(std::memory_order_relaxed);
  if (features == 0) known.store(features = ask_for_features(), std::memory_order_relaxed);
  return features;
}

int unprivileged_sysctl() noexcept {
  const Fd file(sys::open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY));
  char digit = 0;
  if (!file || sys::read(file.get(), &digit, 1) != 1) return -1;
  return digit - '0';
}

}  // namespace uffd
