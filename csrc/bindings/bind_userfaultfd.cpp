#include <poll.h>

#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/flags.hpp"
#include "bindings/userfaultfd_handle.hpp"
#include "engine/linux/fdinfo.hpp"
#include "engine/linux/features.hpp"
#include "engine/linux/message.hpp"
#include "engine/linux/pagemap_scan.hpp"

namespace uffd::bindings {

std::shared_ptr<Userfaultfd> UserfaultfdHandle::use() const {
  if (taken_)
    throw std::invalid_argument("this userfaultfd belongs to a target now: open another one");
  if (!uffd_) throw std::invalid_argument("this userfaultfd is closed: open a new one");
  if (!uffd_->is_open()) {
    throw std::invalid_argument(
        "this userfaultfd belongs to the process that this one was forked from: open a new one "
        "here");
  }
  return uffd_;
}

void UserfaultfdHandle::require_idle(const char* call) const {
  if (uffd_.use_count() > 1) {
    throw std::runtime_error(std::string(call) +
                             ": another thread is inside a call of this userfaultfd, so the kernel "
                             "cannot release it: wait until that call returns");
  }
}

void UserfaultfdHandle::close() {
  if (!uffd_) return;
  require_idle("close()");
  const std::shared_ptr<Userfaultfd> last = std::move(uffd_);
  without_gil([&] { last->close(); });
}

Userfaultfd UserfaultfdHandle::take() {
  use();
  require_idle("serving");
  taken_ = true;
  return std::move(*std::exchange(uffd_, nullptr));
}

void UserfaultfdHandle::restore(Userfaultfd uffd) {
  taken_ = false;
  uffd_ = std::make_shared<Userfaultfd>(std::move(uffd));
}

namespace {

using Handle = UserfaultfdHandle;

std::unique_ptr<Handle> open(const py::object& features, const py::object& user_mode_only) {
  const uint64_t bits = unsigned_argument(features, "features");
  Access access = Access::best;
  if (!user_mode_only.is_none()) {
    const bool user = flag_argument(user_mode_only, "user_mode_only");
    access = user ? Access::user_mode_only : Access::full;
  }
  return std::make_unique<Handle>(Userfaultfd::open(access, bits), false);
}

[[noreturn]] void refuse(const char* call, uint64_t start, uint64_t length, int error) {
  throw SystemError(
      -error, std::string(call) + " of " + range_text(start, length) + ": " + errno_text(-error));
}

// A partial result is a result: an error is raised only when nothing was done.
uint64_t done(const char* call, uint64_t start, uint64_t length, const Progress& progress) {
  if (progress.bytes == 0 && progress.error < 0) refuse(call, start, length, progress.error);
  return progress.bytes;
}

uint64_t flag(bool on, uint64_t bit) {
  return on ? bit : 0;
}

py::object to_python(const uffd_msg& raw) {
  return std::visit(
      [](const auto& message) -> py::object {
        if constexpr (std::is_same_v<std::decay_t<decltype(message)>, ForkEvent>) {
          return py::cast(std::make_unique<Handle>(Userfaultfd::adopt(Fd(message.fd)), true));
        } else {
          return py::cast(message);
        }
      },
      decode(raw));
}

// Waits until there is a message or the time is over; Ctrl-C works.
bool wait_readable(const Userfaultfd& uffd, std::optional<double> timeout) {
  // A timeout of centuries, or of infinity, is none.
  const bool ends = timeout && *timeout < 1e9;
  const uint64_t end =
      ends ? sys::monotonic_ns() + static_cast<uint64_t>(*timeout * 1e9) : UINT64_MAX;
  for (;;) {
    const uint64_t now = sys::monotonic_ns();
    const uint64_t left_ms = end > now ? (end - now + 999'999) / 1'000'000 : 0;
    pollfd descriptor{uffd.fd(), POLLIN, 0};
    const int timeout_ms = static_cast<int>(std::min<uint64_t>(left_ms, 60'000));
    const int ready = without_gil([&] { return ::poll(&descriptor, 1, timeout_ms); });
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (ready > 0) return true;
    if (left_ms == 0) return false;
  }
}

py::list read(const Handle& handle, const py::object& count_of, const py::object& seconds) {
  const int most = small_argument(count_of, "most");
  const std::optional<double> timeout = seconds_argument(seconds, "timeout");
  if (most == 0) throw std::invalid_argument("most is 0; it must be at least 1");
  if (timeout && !(*timeout >= 0))
    throw std::invalid_argument("timeout is " + std::to_string(*timeout) +
                                "; it must be a number of seconds from 0 on, or None");
  const auto uffd = handle.use();
  std::vector<uffd_msg> messages(static_cast<size_t>(most));
  ssize_t count = uffd->read(messages);
  if (count == -EAGAIN && wait_readable(*uffd, timeout)) count = uffd->read(messages);
  if (count < 0 && count != -EAGAIN)
    throw SystemError(static_cast<int>(-count), "cannot read messages of the userfaultfd");
  py::list decoded;
  for (ssize_t i = 0; i < count; ++i) decoded.append(to_python(messages[static_cast<size_t>(i)]));
  return decoded;
}

uint64_t register_range(const Handle& handle, const py::object& start, const py::object& length,
                        const py::object& mode) {
  const uint64_t from = unsigned_argument(start, "start"),
                 bytes = unsigned_argument(length, "length"),
                 modes = unsigned_argument(mode, "mode");
  const auto uffd = handle.use();
  uint64_t ioctls = 0;
  const int result = without_gil([&] { return uffd->register_range(from, bytes, modes, &ioctls); });
  if (result < 0) refuse("UFFDIO_REGISTER", from, bytes, result);
  return ioctls;
}

// Binds a call on a range that answers 0 or -errno.
template <typename Call>
auto range_call(const char* name, Call call) {
  return [name, call](const Handle& handle, const py::object& start, const py::object& length) {
    const uint64_t from = unsigned_argument(start, "start"),
                   bytes = unsigned_argument(length, "length");
    const auto uffd = handle.use();
    const int result = without_gil([&] { return call(*uffd, from, bytes); });
    if (result < 0) refuse(name, from, bytes, result);
  };
}

// Binds a call on a range that answers with progress; flags is called with the range's keyword
// arguments.
template <typename Call>
auto fill_call(const char* name, uint64_t dontwake, Call call) {
  return [name, dontwake, call](const Handle& handle, const py::object& start,
                                const py::object& length, const py::object& wake) {
    const uint64_t from = unsigned_argument(start, "start"),
                   bytes = unsigned_argument(length, "length");
    const uint64_t mode = flag(!flag_argument(wake, "wake"), dontwake);
    const auto uffd = handle.use();
    const Progress progress = without_gil([&] { return call(*uffd, from, bytes, mode); });
    return done(name, from, bytes, progress);
  };
}

uint64_t copy(const Handle& handle, const py::object& destination, const py::object& source,
              const py::object& length, const py::object& wake, const py::object& write_protect) {
  const uint64_t to = unsigned_argument(destination, "destination"),
                 from = unsigned_argument(source, "source");
  const uint64_t bytes = unsigned_argument(length, "length");
  const uint64_t mode = flag(!flag_argument(wake, "wake"), UFFDIO_COPY_MODE_DONTWAKE) |
                        flag(flag_argument(write_protect, "write_protect"), UFFDIO_COPY_MODE_WP);
  const auto uffd = handle.use();
  return done("UFFDIO_COPY", to, bytes,
              without_gil([&] { return uffd->copy(to, from, bytes, mode); }));
}

uint64_t move(const Handle& handle, const py::object& destination, const py::object& source,
              const py::object& length, const py::object& wake, const py::object& allow_holes) {
  const uint64_t to = unsigned_argument(destination, "destination"),
                 from = unsigned_argument(source, "source");
  const uint64_t bytes = unsigned_argument(length, "length");
  const uint64_t mode =
      flag(!flag_argument(wake, "wake"), UFFDIO_MOVE_MODE_DONTWAKE) |
      flag(flag_argument(allow_holes, "allow_holes"), UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
  const auto uffd = handle.use();
  return done("UFFDIO_MOVE", to, bytes,
              without_gil([&] { return uffd->move(to, from, bytes, mode); }));
}

uint64_t continue_(const Handle& handle, const py::object& start, const py::object& length,
                   const py::object& wake, const py::object& write_protect) {
  const uint64_t from = unsigned_argument(start, "start"),
                 bytes = unsigned_argument(length, "length");
  const uint64_t mode =
      flag(!flag_argument(wake, "wake"), UFFDIO_CONTINUE_MODE_DONTWAKE) |
      flag(flag_argument(write_protect, "write_protect"), UFFDIO_CONTINUE_MODE_WP);
  const auto uffd = handle.use();
  return done("UFFDIO_CONTINUE", from, bytes,
              without_gil([&] { return uffd->continue_(from, bytes, mode); }));
}

void writeprotect(const Handle& handle, const py::object& start, const py::object& length,
                  const py::object& protect, const py::object& wake) {
  const uint64_t from = unsigned_argument(start, "start"),
                 bytes = unsigned_argument(length, "length");
  const uint64_t mode = flag(flag_argument(protect, "protect"), UFFDIO_WRITEPROTECT_MODE_WP) |
                        flag(!flag_argument(wake, "wake"), UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
  const auto uffd = handle.use();
  const int result = without_gil([&] { return uffd->writeprotect(from, bytes, mode); });
  if (result < 0) refuse("UFFDIO_WRITEPROTECT", from, bytes, result);
}

std::vector<std::pair<uint64_t, uint64_t>> written(const Handle& handle, const py::object& start,
                                                   const py::object& length,
                                                   const py::object& protect,
                                                   const py::object& pid) {
  const Range range{unsigned_argument(start, "start"), unsigned_argument(length, "length")};
  const bool again = flag_argument(protect, "protect");
  const pid_t process = small_argument(pid, "pid");
  handle.use();
  std::vector<std::pair<uint64_t, uint64_t>> pairs;
  for (const Range& found : without_gil([&] { return scan_written(process, range, again); }))
    pairs.emplace_back(found.start, found.length);
  return pairs;
}

py::tuple waiting(const Handle& handle) {
  const auto info = read_fdinfo(handle.use()->fd());
  if (!info)
    throw SystemError(ENOENT, "/proc/self/fdinfo does not show this userfaultfd: mount /proc");
  return py::make_tuple(info->pending, info->total);
}

}  // namespace

void bind_userfaultfd(py::module_& m) {
  using namespace py::literals;
  py::class_<Handle>(m, "Userfaultfd", doc("Userfaultfd"))
      .def(py::init(&open), "features"_a = 0, "user_mode_only"_a = py::none(),
           doc("Userfaultfd.__init__"))
      .def_static(
          "adopt",
          [](const py::object& fd) {
            return std::make_unique<Handle>(Userfaultfd::adopt(Fd(small_argument(fd, "fd"))), true);
          },
          "fd"_a, doc("Userfaultfd.adopt"))
      .def(
          "fileno", [](const Handle& handle) { return handle.use()->fd(); },
          doc("Userfaultfd.fileno"))
      .def("close", &Handle::close, doc("Userfaultfd.close"))
      .def_property_readonly("closed", &Handle::closed, doc("Userfaultfd.closed"))
      .def_property_readonly(
          "features",
          [](const Handle& handle) { return as_flags("Feature", handle.use()->features()); },
          doc("Userfaultfd.features"))
      .def_property_readonly(
          "user_mode_only", [](const Handle& handle) { return handle.use()->user_mode_only(); },
          doc("Userfaultfd.user_mode_only"))
      .def_property_readonly("registered_by_sender", &Handle::registered_by_sender,
                             doc("Userfaultfd.registered_by_sender"))
      .def("waiting", &waiting, doc("Userfaultfd.waiting"))
      .def("read", &read, "most"_a = 64, "timeout"_a = py::none(), doc("Userfaultfd.read"))
      .def("register", &register_range, "start"_a, "length"_a,
           "mode"_a = uint64_t{UFFDIO_REGISTER_MODE_MISSING}, doc("Userfaultfd.register"))
      .def("unregister",
           range_call("UFFDIO_UNREGISTER",
                      [](const Userfaultfd& uffd, uint64_t start, uint64_t length) {
                        return uffd.unregister(start, length);
                      }),
           "start"_a, "length"_a, doc("Userfaultfd.unregister"))
      .def("wake",
           range_call("UFFDIO_WAKE", [](const Userfaultfd& uffd, uint64_t start,
                                        uint64_t length) { return uffd.wake(start, length); }),
           "start"_a, "length"_a, doc("Userfaultfd.wake"))
      .def("copy", &copy, "destination"_a, "source"_a, "length"_a, py::kw_only(), "wake"_a = true,
           "write_protect"_a = false, doc("Userfaultfd.copy"))
      .def("zeropage",
           fill_call("UFFDIO_ZEROPAGE", UFFDIO_ZEROPAGE_MODE_DONTWAKE,
                     [](const Userfaultfd& uffd, uint64_t start, uint64_t length, uint64_t mode) {
                       return uffd.zeropage(start, length, mode);
                     }),
           "start"_a, "length"_a, py::kw_only(), "wake"_a = true, doc("Userfaultfd.zeropage"))
      .def("writeprotect", &writeprotect, "start"_a, "length"_a, "protect"_a, py::kw_only(),
           "wake"_a = true, doc("Userfaultfd.writeprotect"))
      .def("scan_written", &written, "start"_a, "length"_a, py::kw_only(), "protect"_a = false,
           "pid"_a = 0, doc("Userfaultfd.scan_written"))
      .def("continue_", &continue_, "start"_a, "length"_a, py::kw_only(), "wake"_a = true,
           "write_protect"_a = false, doc("Userfaultfd.continue_"))
      .def("poison",
           fill_call("UFFDIO_POISON", UFFDIO_POISON_MODE_DONTWAKE,
                     [](const Userfaultfd& uffd, uint64_t start, uint64_t length, uint64_t mode) {
                       return uffd.poison(start, length, mode);
                     }),
           "start"_a, "length"_a, py::kw_only(), "wake"_a = true, doc("Userfaultfd.poison"))
      .def("move", &move, "destination"_a, "source"_a, "length"_a, py::kw_only(), "wake"_a = true,
           "allow_holes"_a = false, doc("Userfaultfd.move"))
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Handle& handle, const py::args&) { handle.close(); })
      .def("__repr__", [](const Handle& handle) {
        if (handle.closed()) return std::string("<pyuffd.Userfaultfd closed>");
        const auto uffd = handle.use();
        return "<pyuffd.Userfaultfd fd=" + std::to_string(uffd->fd()) +
               " features=" + feature_names(uffd->features()) +
               (uffd->user_mode_only() ? " user_mode_only>" : ">");
      });
}

}  // namespace uffd::bindings
