#include <sys/eventfd.h>
#include <sys/utsname.h>

#include <cstdio>
#include <fstream>

#include "engine/linux/child.hpp"
#include "engine/linux/features.hpp"
#include "engine/linux/fork_closed_fd.hpp"
#include "engine/linux/holders.hpp"
#include "engine/linux/message.hpp"
#include "engine/linux/sigbus.hpp"
#include "engine/linux/smaps.hpp"
#include "engine/linux/task_state.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/time_slice.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

int open_null() {
  return sys::open("/dev/null", O_RDONLY);
}

Fd raw_userfaultfd() {
  return Fd(or_throw(sys::userfaultfd(O_CLOEXEC | UFFD_USER_MODE_ONLY), "userfaultfd"));
}

bool since_6_12() {
  utsname kernel;
  ::uname(&kernel);
  int major = 0, minor = 0;
  std::sscanf(kernel.release, "%d.%d", &major, &minor);
  return std::pair(major, minor) >= std::pair(6, 12);
}

}  // namespace

TEST_SUITE("linux") {
  TEST_CASE("an Fd closes once, and moves") {
    Fd first(open_null());
    const int number = first.get();
    Fd second(std::move(first));
    CHECK(!first);
    CHECK(second.get() == number);
    second.close();
    CHECK(!is_open(number));
    second.close();
    Fd third(open_null());
    const Fd released(third.release());
    CHECK(!third);
    CHECK(is_open(released.get()));
  }

  TEST_CASE("a fork child closes a ForkClosedFd at once, and its destructor closes nothing") {
    auto fd = std::make_unique<ForkClosedFd>([] { return open_null(); });
    REQUIRE(static_cast<bool>(*fd));
    const int number = fd->get();
    CHECK(in_child([&] {
            if (is_open(number)) return 1;
            if (*fd) return 2;
            // The number goes to another file, which the inherited object must leave alone.
            const int other = open_null();
            if (::dup2(other, number) != number) return 3;
            fd.reset();
            if (!is_open(number)) return 4;
            ForkClosedFd own([] { return open_null(); });
            if (!own) return 5;
            // A grandchild has neither.
            const pid_t grandchild = ::fork();
            if (grandchild == 0) ::_exit(own || is_open(own.get()) ? 1 : 0);
            int status = 0;
            ::waitpid(grandchild, &status, 0);
            return status == 0 ? 0 : 6;
          }) == 0);
    CHECK(is_open(number));
    fd->close();
    CHECK(!is_open(number));
    fd->close();
  }

  TEST_CASE("a ForkClosedFd moves, and one that is left open is closed in a child still") {
    ForkClosedFd fd([] { return open_null(); });
    ForkClosedFd moved(std::move(fd));
    CHECK(!fd);
    CHECK(static_cast<bool>(moved));
    const int number = moved.get();
    moved.leave_open();
    CHECK(!moved);
    CHECK(is_open(number));
    CHECK(in_child([&] { return is_open(number) ? 1 : 0; }) == 0);
    ::close(number);
    const ForkClosedFd refused([] { return -ENOENT; });
    CHECK(!refused);
    CHECK(refused.get() == -ENOENT);
  }

  TEST_CASE("a userfaultfd opens with the features that it is asked for, and adopts") {
    Userfaultfd uffd = open_uffd(UFFD_FEATURE_THREAD_ID);
    CHECK(uffd.is_open());
    CHECK(uffd.features() == UFFD_FEATURE_THREAD_ID);
    CHECK((::fcntl(uffd.fd(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((::fcntl(uffd.fd(), F_GETFL) & O_NONBLOCK) != 0);
    uffd_msg message;
    CHECK(uffd.read(std::span(&message, 1)) == -EAGAIN);

    const Userfaultfd adopted = Userfaultfd::adopt(Fd(::fcntl(uffd.fd(), F_DUPFD_CLOEXEC, 0)));
    CHECK(adopted.features() == UFFD_FEATURE_THREAD_ID);
    const int number = uffd.fd();
    uffd.close();
    CHECK(!uffd.is_open());
    CHECK(!is_open(number));
  }

  TEST_CASE("what cannot be adopted is refused and closed") {
    const int other = ::eventfd(0, EFD_CLOEXEC);
    CHECK_THROWS_WITH_AS(Userfaultfd::adopt(Fd(other)), doctest::Contains("is not a userfaultfd"),
                         std::invalid_argument);
    CHECK(!is_open(other));
    const int raw = raw_userfaultfd().release();
    CHECK_THROWS_WITH_AS(Userfaultfd::adopt(Fd(raw)), doctest::Contains("UFFDIO_API"),
                         std::invalid_argument);
    CHECK(!is_open(raw));
    CHECK_THROWS_AS(Userfaultfd::adopt(Fd()), std::invalid_argument);
  }

  TEST_CASE("a feature that no kernel has is named") {
    const uint64_t unknown = uint64_t{1} << 45;
    CHECK_THROWS_WITH_AS(open_uffd(unknown), doctest::Contains("unknown bits 35184372088832"),
                         UnsupportedError);
    CHECK(feature_names(0) == "none");
    CHECK(feature_names(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_POISON) == "EVENT_FORK, POISON");
  }

  TEST_CASE("ways of opening: user-mode-only needs no permission") {
    const OpenAttempts attempts = try_opening();
    CHECK(attempts.user_mode_only == 0);
    CHECK(Userfaultfd::open(Access::user_mode_only, 0).user_mode_only());
    CHECK((offered_features() & UFFD_FEATURE_EVENT_REMOVE) != 0);
    CHECK(unprivileged_sysctl() >= -1);
    if (attempts.device != 0 && attempts.syscall != 0) {
      MESSAGE("skipped: this user may open no full userfaultfd");
      return;
    }
    CHECK(!Userfaultfd::open(Access::full, 0).user_mode_only());
    CHECK(!Userfaultfd::open(Access::best, 0).user_mode_only());
  }

  TEST_CASE("fdinfo counts faults, queued and read") {
    const Memory memory(2);
    const HandTarget hand(memory);
    const Userfaultfd& uffd = hand.target.uffd();
    CHECK(read_fdinfo(uffd.fd())->pending == 0);
    CHECK(read_fdinfo(uffd.fd())->features == kFeatureInitialized);
    Toucher toucher(memory.at(1));
    until([&] { return read_fdinfo(uffd.fd())->pending == 1; });
    uffd_msg message;
    REQUIRE(uffd.read(std::span(&message, 1)) == 1);
    CHECK(std::get<Fault>(decode(message)).address == memory.at(1));
    CHECK(read_fdinfo(uffd.fd())->pending == 0);
    CHECK(read_fdinfo(uffd.fd())->total == 1);
    CHECK(uffd.zeropage(memory.at(1), page(), 0).bytes == page());
    toucher.join();
    CHECK(read_fdinfo(uffd.fd())->total == 0);
    CHECK(!read_fdinfo(raw_userfaultfd().release() + 1000));
  }

  TEST_CASE("smaps tells what is registered") {
    const Memory memory(4);
    const Range range{memory.at(0), 4 * page()};
    CHECK(any_registered(0, std::span(&range, 1)) == false);
    {
      const HandTarget hand(memory);
      CHECK(any_registered(0, std::span(&range, 1)) == true);
      CHECK(any_registered(::getpid(), std::span(&range, 1)) == true);
      const Range elsewhere{memory.image.address(), page()};
      CHECK(any_registered(0, std::span(&elsewhere, 1)) == false);
      const Range both[] = {
          std::min(range, elsewhere, [](auto& a, auto& b) { return a.start < b.start; }),
          std::max(range, elsewhere, [](auto& a, auto& b) { return a.start < b.start; })};
      CHECK(any_registered(0, both) == true);
    }
    CHECK(any_registered(0, std::span(&range, 1)) == false);
    CHECK(!any_registered(1 << 29, std::span(&range, 1)).has_value());
  }

  TEST_CASE("holders: sole, and shared through a dup or a child") {
    const Userfaultfd uffd = open_uffd();
    const Userfaultfd another = open_uffd();
    CHECK(find_holders(uffd.fd(), 0) == Holders::sole);
    {
      const Fd twin(::fcntl(uffd.fd(), F_DUPFD_CLOEXEC, 0));
      CHECK(find_holders(uffd.fd(), 0) == Holders::shared);
      CHECK(find_holders(uffd.fd(), ::getpid()) == Holders::shared);
    }
    CHECK(find_holders(uffd.fd(), 0) == Holders::sole);

    // A child with a dup that pthread_atfork knows nothing of holds it; we alone do not see that.
    Fd twin(::fcntl(uffd.fd(), F_DUPFD_CLOEXEC, 0));
    int wait_here[2];
    REQUIRE(::pipe2(wait_here, O_CLOEXEC) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      char byte;
      ::close(wait_here[1]);
      (void)!::read(wait_here[0], &byte, 1);
      ::_exit(0);
    }
    twin.close();
    CHECK(find_holders(uffd.fd(), 0) == Holders::sole);
    CHECK(find_holders(uffd.fd(), child) == Holders::shared);
    ::close(wait_here[0]);
    ::close(wait_here[1]);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    CHECK(find_holders(uffd.fd(), child) == Holders::sole);
  }

  TEST_CASE("mappings") {
    Mapping mapping(1, MemoryKind::anonymous, false);
    CHECK(mapping.length() == page());
    CHECK(mapping.page_size() == page());
    Mapping moved(std::move(mapping));
    CHECK(mapping.address() == 0);
    CHECK(moved.address() != 0);
    moved.unmap();
    CHECK(moved.address() == 0);
    moved.unmap();
    CHECK_THROWS_AS(Mapping(0, MemoryKind::anonymous, false), std::invalid_argument);
    CHECK_THROWS_AS(Mapping(UINT64_MAX, MemoryKind::anonymous, false), std::invalid_argument);
    CHECK_THROWS_AS(Mapping(uint64_t{1} << 62, MemoryKind::anonymous, false), SystemError);
    const Mapping shared(3 * page(), MemoryKind::memfd, true);
    CHECK(shared.length() == 3 * page());
  }

  TEST_CASE("a CPU that this thread may not use is refused, and threads take no signals") {
    CHECK_THROWS_AS(Cpu(-1), std::invalid_argument);
    CHECK_THROWS_AS(Cpu(CPU_SETSIZE), std::invalid_argument);
    CHECK_THROWS_WITH_AS(Cpu(CPU_SETSIZE - 1), doctest::Contains("affinity"),
                         std::invalid_argument);
    cpu_set_t allowed;
    REQUIRE(::sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    int number = 0;
    while (!CPU_ISSET(static_cast<size_t>(number), &allowed)) ++number;
    cpu_set_t held;
    sigset_t blocked;
    std::thread thread = start_thread("uffd-test", Cpu(number), [&] {
      ::sched_getaffinity(0, sizeof held, &held);
      ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    });
    thread.join();
    CHECK(CPU_COUNT(&held) == 1);
    CHECK(CPU_ISSET(static_cast<size_t>(number), &held));
    CHECK(::sigismember(&blocked, SIGINT) == 1);
    CHECK(::sigismember(&blocked, SIGTERM) == 1);
  }

  TEST_CASE("a wake fd is drained by one read") {
    WakeFd wake;
    const auto readable = [&] {
      pollfd descriptor{wake.get(), POLLIN, 0};
      return ::poll(&descriptor, 1, 0) == 1;
    };
    CHECK(!readable());
    wake.signal();
    wake.signal();
    CHECK(readable());
    wake.drain();
    CHECK(!readable());
    wake.drain();
  }

  TEST_CASE("a child's output and end are told") {
    using End = ChildOutcome::End;
    const std::chrono::milliseconds limit(5000), short_limit(200);
    const auto says = [](int fd, const char* text) { (void)!::write(fd, text, std::strlen(text)); };
    const auto well = run_in_child(limit, [&](int fd) { says(fd, "well"); });
    CHECK(well.end == End::exited);
    CHECK(well.code == 0);
    CHECK(well.output == "well");
    const auto thrown = run_in_child(limit, [](int) { throw std::runtime_error("no luck"); });
    CHECK(thrown.code == 1);
    CHECK(thrown.output == "no luck");
    const auto killed = run_in_child(limit, [](int) { ::raise(SIGKILL); });
    CHECK(killed.end == End::signalled);
    CHECK(killed.code == SIGKILL);
    const auto hung = run_in_child(short_limit, [&](int fd) {
      says(fd, "before");
      for (;;) ::pause();
    });
    CHECK(hung.end == End::timed_out);
    CHECK(hung.output == "before");
    CHECK(text(hung, limit) == "hung for 5 s");
  }

  TEST_CASE("SIGBUS is survived, and the disposition comes back") {
#ifdef __SANITIZE_THREAD__
    MESSAGE(
        "skipped: ThreadSanitizer blocks all signals while it handles one, and survives() restores "
        "no mask");
    return;
#endif
    const int outcome = in_child([] {
      const Mapping memory(page(), MemoryKind::memfd, true);
      struct sigaction before, after;
      ::sigaction(SIGBUS, nullptr, &before);
      {
        const SigbusCatcher catcher;
        const Fd empty(::memfd_create("empty", MFD_CLOEXEC));
        void* beyond = ::mmap(nullptr, page(), PROT_READ, MAP_SHARED, empty.get(), 0);
        for (int i = 0; i < 3; ++i) {
          if (survives([&] { (void)*static_cast<volatile char*>(beyond); })) return 1;
          if (!survives([&] { (void)*reinterpret_cast<volatile char*>(memory.address()); }))
            return 2;
        }
      }
      ::sigaction(SIGBUS, nullptr, &after);
      return before.sa_handler == after.sa_handler ? 0 : 3;
    });
    CHECK(outcome == 0);
  }

  TEST_CASE("a thread of ours may survive SIGBUS") {
#ifdef __SANITIZE_THREAD__
    return;  // as above
#endif
    const int outcome = in_child([] {
      const SigbusCatcher catcher;
      const Fd empty(::memfd_create("empty", MFD_CLOEXEC));
      void* beyond = ::mmap(nullptr, page(), PROT_READ, MAP_SHARED, empty.get(), 0);
      bool alive = true;
      start_thread("test", std::nullopt, [&] {
        alive = survives([&] { (void)*static_cast<volatile char*>(beyond); });
      }).join();
      return alive ? 1 : 0;
    });
    CHECK(outcome == 0);
  }

  TEST_CASE("a thread gets the time slices that it asks for") {
    std::thread([] {
      ask_for_time_slices(std::chrono::microseconds(200));
      std::ifstream scheduling("/proc/thread-self/sched");
      std::string name, colon, value;
      while (scheduling >> name && name != "se.slice") {
      }
      if (!(scheduling >> colon >> value)) {
        MESSAGE("skipped: this kernel does not show time slices (CONFIG_SCHED_DEBUG)");
        return;
      }
      CHECK((value == "200000") == since_6_12());
    }).join();
  }

  TEST_CASE("a thread's state is told") {
    CHECK(task_state(static_cast<pid_t>(::syscall(SYS_gettid))) == 'R');
    CHECK(task_state(0) == '?');
  }
}

}  // namespace uffd::test
