#include "engine/linux/userfaultfd.hpp"

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <stdexcept>

#include "engine/linux/fdinfo.hpp"

namespace uffd {
namespace {

constexpr const char* kDevice = "/dev/userfaultfd";
constexpr int kOpenFlags = O_CLOEXEC | O_NONBLOCK;

struct FeatureName {
  uint64_t bit;
  const char* name;
};

constexpr std::array<FeatureName, 17> kFeatureNames{{
    {UFFD_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP"},
    {UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"},
    {UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"},
    {UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE"},
    {UFFD_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS"},
    {UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM"},
    {UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP"},
    {UFFD_FEATURE_SIGBUS, "SIGBUS"},
    {UFFD_FEATURE_THREAD_ID, "THREAD_ID"},
    {UFFD_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS"},
    {UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM"},
    {UFFD_FEATURE_EXACT_ADDRESS, "EXACT_ADDRESS"},
    {UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM"},
    {UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"},
    {UFFD_FEATURE_POISON, "POISON"},
    {UFFD_FEATURE_WP_ASYNC, "WP_ASYNC"},
    {UFFD_FEATURE_MOVE, "MOVE"},
}};

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

std::string refusal(const OpenAttempts& attempts) {
  std::string text =
      std::string("userfaultfd cannot be opened: ") + kDevice + ": " + errno_text(attempts.device) +
      "; userfaultfd(2): " + errno_text(attempts.syscall) + " (vm.unprivileged_userfaultfd is " +
      std::to_string(unprivileged_sysctl()) + "). ";
  if (attempts.syscall == ENOSYS || (attempts.user_mode_only != 0 && attempts.syscall == EPERM)) {
    text +=
        "The kernel lacks CONFIG_USERFAULTFD, or a seccomp filter (a container's default profile) "
        "forbids the "
        "call: allow userfaultfd there. ";
  }
  text += std::string("To permit it, do one of: give this user read and write access to ") +
          kDevice + "; set the sysctl vm.unprivileged_userfaultfd to 1; grant CAP_SYS_PTRACE";
  if (attempts.user_mode_only == 0) {
    text +=
        "; or open with user_mode_only=True, where kernel accesses to missing pages fail with "
        "EFAULT";
  }
  return text;
}

std::string api_refusal(int error, uint64_t features) {
  if (error == EPERM && (features & UFFD_FEATURE_EVENT_FORK)) {
    return "UFFDIO_API: the feature EVENT_FORK needs CAP_SYS_PTRACE: grant it, or open without "
           "EVENT_FORK (a fork "
           "child of the target then reads zeros in missing pages)";
  }
  const uint64_t unknown = features & ~offered_features();
  if (unknown) return "UFFDIO_API: this kernel lacks the feature " + feature_names(unknown);
  return "UFFDIO_API refused the features " + feature_names(features);
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
    if (!fd && (error == EMFILE || error == ENFILE || error == ENOMEM))
      throw SystemError(error, "userfaultfd cannot be opened");
  }
  if (!fd) throw UnsupportedError(attempts.syscall, refusal(attempts));

  Userfaultfd opened(std::move(fd), user_mode_only);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  const int result = sys::ioctl(opened.fd(), UFFDIO_API, &api);
  if (result < 0) throw UnsupportedError(-result, api_refusal(-result, features));
  opened.features_ = features;
  return opened;
}

Userfaultfd Userfaultfd::adopt(Fd fd) {
  const std::string number = std::to_string(fd.get());
  const auto info = read_fdinfo(fd.get());
  if (!info) throw std::invalid_argument("descriptor " + number + " is not a userfaultfd");
  if (!(info->features & kFeatureInitialized)) {
    throw std::invalid_argument("descriptor " + number +
                                " is a userfaultfd whose UFFDIO_API was not done by its opener");
  }
  const int flags = or_throw(::fcntl(fd.get(), F_GETFL), "fcntl(F_GETFL)");
  or_throw(::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK), "fcntl(F_SETFL)");
  Userfaultfd adopted(ForkClosedFd([&] { return fd.release(); }), false);
  adopted.received_ = true;
  adopted.features_ = info->features & ~kFeatureInitialized;
  return adopted;
}

Userfaultfd Userfaultfd::of_fork(int fd, const Userfaultfd& parent, const HeldForks& held_forks) {
  Userfaultfd child(ForkClosedFd(fd, held_forks), parent.user_mode_only_);
  child.features_ = parent.features_;
  return child;
}

namespace {

ssize_t messages_in(ssize_t bytes) noexcept {
  return bytes < 0 ? bytes : bytes / static_cast<ssize_t>(sizeof(uffd_msg));
}

// Before Linux 6.10 a userfaultfd has no RWF_NOWAIT.
std::atomic<bool> lacks_nowait{false};

}  // namespace

ssize_t Userfaultfd::read(std::span<uffd_msg> messages) const noexcept {
  if (received_ && may_look()) {
    const ssize_t count = look(messages);
    if (may_look()) return count;
  }
  return messages_in(sys::read(fd(), messages.data(), messages.size_bytes()));
}

ssize_t Userfaultfd::look(std::span<uffd_msg> messages) const noexcept {
  const iovec place{messages.data(), messages.size_bytes()};
  const ssize_t bytes = sys::or_errno(::preadv2(fd(), &place, 1, -1, RWF_NOWAIT));
  if (bytes != -EOPNOTSUPP) return messages_in(bytes);
  lacks_nowait = true;
  return -EAGAIN;
}

bool Userfaultfd::may_look() noexcept {
  return !lacks_nowait.load(std::memory_order_relaxed);
}

ssize_t Userfaultfd::read_waiting(std::span<uffd_msg> messages) const noexcept {
  return messages_in(sys::read(fd(), messages.data(), messages.size_bytes()));
}

int Userfaultfd::register_range(uint64_t start, uint64_t length, uint64_t mode,
                                uint64_t* ioctls) const noexcept {
  uffdio_register request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_REGISTER, &request);
  *ioctls = request.ioctls;
  return result;
}

int Userfaultfd::unregister(uint64_t start, uint64_t length) const noexcept {
  uffdio_range range{start, length};
  return sys::ioctl(fd(), UFFDIO_UNREGISTER, &range);
}

int Userfaultfd::wake(uint64_t start, uint64_t length) const noexcept {
  uffdio_range range{start, length};
  return sys::ioctl(fd(), UFFDIO_WAKE, &range);
}

namespace {

// The out field is 0 before the call: kernels before 6.15 leave it untouched on EAGAIN. It may be a
// negated errno.
Progress progress(int result, int64_t out) noexcept {
  return {result < 0 ? result : 0, out > 0 ? static_cast<uint64_t>(out) : 0};
}

}  // namespace

Progress Userfaultfd::copy(uint64_t destination, uint64_t source, uint64_t length,
                           uint64_t mode) const noexcept {
  uffdio_copy request{};
  request.dst = destination;
  request.src = source;
  request.len = length;
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_COPY, &request);
  return progress(result, request.copy);
}

Progress Userfaultfd::zeropage(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_zeropage request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_ZEROPAGE, &request);
  return progress(result, request.zeropage);
}

int Userfaultfd::writeprotect(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_writeprotect request{};
  request.range = {start, length};
  request.mode = mode;
  return sys::ioctl(fd(), UFFDIO_WRITEPROTECT, &request);
}

Progress Userfaultfd::continue_(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_continue request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_CONTINUE, &request);
  return progress(result, request.mapped);
}

Progress Userfaultfd::poison(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_poison request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_POISON, &request);
  return progress(result, request.updated);
}

Progress Userfaultfd::move(uint64_t destination, uint64_t source, uint64_t length,
                           uint64_t mode) const noexcept {
  uffdio_move request{};
  request.dst = destination;
  request.src = source;
  request.len = length;
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_MOVE, &request);
  return progress(result, request.move);
}

OpenAttempts try_opening() noexcept {
  OpenAttempts attempts;
  Fd(attempt(open_device(0), attempts.device));
  Fd(attempt(open_syscall(0), attempts.syscall));
  Fd(attempt(open_syscall(UFFD_USER_MODE_ONLY), attempts.user_mode_only));
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

std::string feature_names(uint64_t features) {
  std::string names;
  const auto append = [&names](const std::string& name) {
    if (!names.empty()) names += ", ";
    names += name;
  };
  for (const auto& feature : kFeatureNames) {
    if (features & feature.bit) append(feature.name);
    features &= ~feature.bit;
  }
  if (features) append("unknown bits " + std::to_string(features));
  return names.empty() ? "none" : names;
}

int unprivileged_sysctl() noexcept {
  const Fd file(sys::open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY));
  char digit = 0;
  if (!file || sys::read(file.get(), &digit, 1) != 1) return -1;
  return digit - '0';
}

}  // namespace uffd
