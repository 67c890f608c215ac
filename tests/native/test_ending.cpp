// How targets are let go: each ending, each policy for what is missing, and each misfortune.
#include <sys/socket.h>

#include <random>

#include "engine/probe/release_probe.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

bool early_close_is_safe() {
  return std::string(name(
             choose_ending(Ending::automatic,
                           Target(RegionTable({Region({page(), page()},
                                                      std::make_shared<ZeroSource>(), 0, page())}),
                                  0))
                 .ending)) == "early-close";
}

void send_fd(int sock, int fd, uint64_t address) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  iovec text{&address, sizeof address};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(sock, &message, 0) < 0) ::_exit(3);
}

int receive_fd(int sock, uint64_t& address) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec text{&address, sizeof address};
  msghdr message{};
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  or_throw(::recvmsg(sock, &message, MSG_CMSG_CLOEXEC), "recvmsg");
  int fd;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

// A process with missing memory and, unless it hands the only one over, its userfaultfd. It sleeps
// until it is killed.
class Victim {
 public:
  Victim(uint64_t pages, bool keeps) {
    int sockets[2];
    or_throw(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), "socketpair");
    pid = ::fork();
    if (pid == 0) {
      const Mapping memory(pages * page(), MemoryKind::anonymous, false);
      const Userfaultfd own = open_uffd();
      uint64_t ioctls = 0;
      if (own.register_range(memory.address(), memory.length(), UFFDIO_REGISTER_MODE_MISSING,
                             &ioctls) < 0)
        ::_exit(2);
      send_fd(sockets[1], own.fd(), memory.address());
      if (!keeps) ::close(own.fd());
      ::close(sockets[0]);
      char byte;
      (void)!::read(sockets[1], &byte, 1);  // until the parent is gone too
      ::_exit(0);
    }
    ::close(sockets[1]);
    socket_ = Fd(sockets[0]);
    uffd = Userfaultfd::adopt(Fd(receive_fd(socket_.get(), address)));
  }
  ~Victim() { kill(); }

  void kill() {
    if (!alive_) return;
    alive_ = false;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }

  pid_t pid = 0;
  uint64_t address = 0;
  Userfaultfd uffd;

 private:
  Fd socket_;
  bool alive_ = true;
};

}  // namespace

TEST_SUITE("ending") {
  TEST_CASE("each ending lets go of a complete target, and says so") {
    for (const Ending ending : {Ending::automatic, Ending::early_close, Ending::unregister}) {
      CAPTURE(name(ending));
      const Memory memory(20);
      Manager manager({});
      auto served = add(manager, {memory.region()}, {.ending = ending});
      CHECK(memory.all_right());
      wait(*served);
      const EndingReport report = close(manager, *served, Missing::raise);
      CHECK(report.ending ==
            (ending == Ending::automatic
                 ? (early_close_is_safe() ? Ending::early_close : Ending::unregister)
                 : ending));
      CHECK(!report.reason.empty());
      CHECK(report.verified == true);
      CHECK(report.seconds > 0);
      CHECK(report.began > 0);
      CHECK(report.regions == 1);
      CHECK(report.missing_pages == 0);
      CHECK(report.poisoned.empty());
      CHECK(!served->target.uffd().is_open());
    }
  }

  TEST_CASE("each policy for what is missing, under each ending") {
    for (const Ending ending : {Ending::automatic, Ending::early_close, Ending::unregister}) {
      CAPTURE(name(ending));
      Manager manager({});
      const auto half = [&](const Memory& memory) {
        auto served = add(manager, {memory.region()}, {.ending = ending, .fault_around = 1});
        for (uint64_t i = 0; i < 10; ++i) CHECK(memory.right(i));
        return served;
      };
      {
        const Memory memory(20);
        auto served = half(memory);
        CHECK_THROWS_WITH_AS(manager.begin_close(*served, Missing::raise),
                             doctest::Contains("10 pages of 20 are missing"), MissingPagesError);
        CHECK(memory.right(15));  // served on
        const EndingReport report = close(manager, *served, Missing::fill);
        CHECK(report.missing_pages == 0);
        CHECK(report.verified == true);
        CHECK(memory.all_right());
      }
      {
        const Memory memory(20);
        auto served = half(memory);
        const EndingReport report = close(manager, *served, Missing::zero);
        CHECK(report.missing_pages == 10);
        CHECK(memory.right(3));
        CHECK(memory.zero(15));
      }
      if (!kernel_poisons()) continue;
      const Memory memory(20);
      auto served = half(memory);
      const EndingReport report = close(manager, *served, Missing::poison);
      CHECK(report.missing_pages == 0);
      REQUIRE(report.poisoned.size() == 1);
      CHECK(report.poisoned[0].start == memory.at(10));
      CHECK(report.poisoned[0].length == 10 * page());
      CHECK(memory.right(3));
      CHECK(!readable(memory.at(15)));
    }
  }

  TEST_CASE("another holder: auto unregisters, and an early close by order does nothing") {
    for (const Ending ending : {Ending::automatic, Ending::early_close}) {
      const Memory memory(4);
      Manager manager({});
      Userfaultfd uffd = open_uffd();
      Fd twin(::fcntl(uffd.fd(), F_DUPFD_CLOEXEC, 0));
      auto served = manager.add(uffd, {memory.region()}, {.ending = ending});
      CHECK(memory.all_right());
      wait(*served);
      const EndingReport report = close(manager, *served, Missing::raise);
      if (ending == Ending::automatic) {
        CHECK(report.ending == Ending::unregister);
        CHECK(report.verified == true);
      } else {
        CHECK(report.ending == Ending::early_close);
        CHECK(report.verified == false);
      }
    }
  }

  TEST_CASE("keep-open serves on until it is stopped, and another manager goes on from there") {
    const Memory memory(30);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.ending = Ending::keep_open, .fault_around = 1});
    CHECK(memory.right(0));
    const EndingReport open = close(manager, *served, Missing::raise);
    CHECK(open.ending == Ending::keep_open);
    CHECK(!open.seconds);
    CHECK(!open.verified);
    CHECK(open.missing_pages == 29);
    CHECK(memory.right(1));
    until([&] { return served->target.residency().missing() == 28; });  // marked after the wake
    CHECK(close(manager, *served, Missing::zero).missing_pages == 28);
    Userfaultfd uffd = manager.stop(*served);
    CHECK(uffd.is_open());
    CHECK(served->life.stage() == Stage::stopped);
    CHECK_THROWS_AS(manager.stop(*served), std::logic_error);
    CHECK_THROWS_AS(manager.fill(*served), std::logic_error);
    CHECK_THROWS_AS(manager.begin_close(*served, Missing::fill), std::logic_error);

    Toucher toucher(memory.at(20));
    until([&] { return sleepers(uffd) == 1; });
    CHECK(!toucher.done());
    Manager next({});
    auto again = next.add(uffd, {memory.region()}, {.received = true});
    toucher.join();
    CHECK(close(next, *again, Missing::fill).verified == true);
    CHECK(memory.all_right());
  }

  TEST_CASE("keep-open: complete, it may be waited for, filled and poisoned, and stays open") {
    const Memory memory(6);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.ending = Ending::keep_open});
    const EndingReport report = close(manager, *served, Missing::fill);
    CHECK(report.missing_pages == 0);
    CHECK(!report.seconds);
    wait(*served);
    CHECK(served->life.stage() == Stage::serving);
    REQUIRE(sys::madvise(memory.at(2), page(), MADV_DONTNEED) == 0);
    CHECK(memory.zero(2));
    CHECK(manager.stop(*served).is_open());
  }

  TEST_CASE("whoever closes a target that is stopped meanwhile is told") {
    const Memory memory(200);
    Manager manager({});
    auto gate = std::make_shared<GatedSource>(memory.source());
    auto served = add(manager, {memory.region(gate)}, {.ending = Ending::keep_open});
    bool told = false;
    std::thread closer([&] {
      try {
        close(manager, *served, Missing::fill);
      } catch (const std::logic_error&) {
        told = true;
      }
    });
    until([&] { return gate->asked() == 1; });  // the filler has its first chunk
    std::thread opener([&] { gate->open(); });
    const Userfaultfd uffd = manager.stop(*served);
    opener.join();
    closer.join();
    CHECK((told || served->target.residency().missing() == 0));
  }

  TEST_CASE("whoever waits for a target that is stopped meanwhile is told") {
    const Memory memory(4);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.ending = Ending::keep_open});
    const Userfaultfd uffd = manager.stop(*served);
    CHECK_THROWS_AS(Manager::wait(*served, std::chrono::milliseconds(1)), std::logic_error);
  }

  TEST_CASE("stop is for keep-open, and only while it is served") {
    const Memory memory(2);
    Manager manager({});
    auto served = add(manager, {memory.region()});
    CHECK_THROWS_WITH_AS(manager.stop(*served), doctest::Contains("keep-open"), std::logic_error);
    close(manager, *served, Missing::zero);
  }

  TEST_CASE("a discarded target is let go at once, whatever is missing") {
    const Memory memory(20);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.ending = Ending::keep_open});
    manager.discard(*served);
    CHECK(served->life.stage() == Stage::ended);
    CHECK(served->life.report()->missing_pages == 20);
    manager.discard(*served);
    CHECK(memory.zero(3));
  }

  TEST_CASE("a close twice returns the same report") {
    const Memory memory(2);
    Manager manager({});
    auto served = add(manager, {memory.region()});
    const EndingReport first = close(manager, *served, Missing::fill);
    const EndingReport second = close(manager, *served, Missing::raise);
    CHECK(first.began == second.began);
    manager.fill(*served);  // nothing to do
  }

  TEST_CASE("a manager that is destroyed fills what is missing") {
    const Memory memory(500), kept(500);
    std::shared_ptr<ServedTarget> served, open;
    {
      Manager manager({});
      served = add(manager, {memory.region()});
      open = add(manager, {kept.region()}, {.ending = Ending::keep_open});
    }
    CHECK(served->life.stage() == Stage::ended);
    CHECK(served->life.report()->missing_pages == 0);
    CHECK(open->life.stage() == Stage::ended);
    CHECK(memory.all_right());
    CHECK(kept.all_right());
  }

  TEST_CASE("managers that are destroyed right when their target ends") {
    for (int round = 0; round < 100; ++round) {
      const Memory memory(2);
      Manager manager({});
      auto served = add(manager, {memory.region()}, {.fault_around = 1, .verify = false});
      served.reset();
      CHECK(memory.right(0));
      CHECK(memory.right(1));
    }
  }

  TEST_CASE("a target whose memory is unmapped while it is served ends") {
    Memory memory(100);
    Manager manager({});
    auto served = add(manager, {memory.region()});
    CHECK(memory.right(50));
    memory.memory.unmap();
    const EndingReport report = close(manager, *served, Missing::fill);
    CHECK(report.missing_pages == 0);
    CHECK(count(*served, Count::enoent) > 0);
    CHECK(report.ending != Ending::keep_open);
  }

  // The handler is held at a gate with one fault, the other waits unread: whichever way they are
  // woken, both threads go on.
  TEST_CASE("a close while threads wait lets them go") {
    const Memory memory(4);
    Manager manager({});
    auto gate = std::make_shared<GatedSource>(memory.source());
    auto served = add(manager, {memory.region(gate)}, {.fault_around = 1});
    Toucher first(memory.at(0));
    until([&] { return gate->asked() == 1; });
    Toucher second(memory.at(3));
    until([&] { return sleepers(served->target.uffd()) == 2; });
    manager.begin_close(*served, Missing::zero);
    gate->open();
    const EndingReport report = close(manager, *served, Missing::zero);
    first.join();
    second.join();
    CHECK(report.missing_pages >= 2);
    CHECK(memory.right(0));
    CHECK((memory.zero(3) || memory.right(3)));
  }

  TEST_CASE("closes that race with eight faulting threads lose no thread and no byte") {
    for (const Ending ending : {Ending::early_close, Ending::unregister}) {
      Manager manager({});
      for (int round = 0; round < 25; ++round) {
        const Memory memory(64);
        auto served =
            add(manager, {memory.region()}, {.ending = ending, .fault_around = 1, .verify = false});
        std::atomic<uint64_t> wrong{0}, touched{0};
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < 8; ++i) {
          threads.emplace_back([&, i] {
            std::mt19937_64 random(i);
            for (int step = 0; step < 64; ++step) {
              const uint64_t number = random() % 64;
              if (!memory.right(number) && !memory.zero(number)) ++wrong;
              ++touched;
            }
          });
        }
        until([&] { return touched > 40; });
        close(manager, *served, Missing::zero);
        for (auto& thread : threads) thread.join();
        CHECK(wrong == 0);
      }
    }
  }

  TEST_CASE("another process's target ends early, verified in its smaps") {
    Victim victim(50, false);
    const Mapping image(50 * page(), MemoryKind::anonymous, false);
    Manager manager({});
    auto served = manager.add(
        victim.uffd,
        {Region({victim.address, 50 * page()}, std::make_shared<ZeroSource>(), 0, page())},
        {.pid = victim.pid, .received = true});
    const EndingReport report = close(manager, *served, Missing::fill);
    CHECK(report.missing_pages == 0);
    CHECK(report.verified == true);
  }

  TEST_CASE("a process that keeps its descriptor never gets an early close by auto") {
    Victim victim(5, true);
    Manager manager({});
    auto served = manager.add(
        victim.uffd,
        {Region({victim.address, 5 * page()}, std::make_shared<ZeroSource>(), 0, page())},
        {.pid = victim.pid, .received = true});
    const EndingReport report = close(manager, *served, Missing::fill);
    CHECK(report.ending == Ending::unregister);
    CHECK(report.verified == true);
  }

  // COPY's ESRCH is all that tells.
  TEST_CASE("a process that died is gone, whatever its close was to do about missing pages") {
    for (const Missing missing : {Missing::fill, Missing::poison, Missing::zero}) {
      for (int round = 0; round < 5; ++round) {
        CAPTURE(static_cast<int>(missing));
        Victim victim(50, false);
        Manager manager({});
        auto served = manager.add(
            victim.uffd,
            {Region({victim.address, 50 * page()}, std::make_shared<ZeroSource>(), 0, page())},
            {.pid = victim.pid, .received = true});
        victim.kill();
        const EndingReport report = close(manager, *served, missing);
        CHECK(report.ending != Ending::keep_open);
        CHECK(report.seconds.has_value());
        CHECK(report.missing_pages == 50);
        if (missing != Missing::zero) {
          CHECK(report.reason == "the target's address space is gone");
        }
        CHECK(served->life.stage() == Stage::ended);
      }
    }
  }

  TEST_CASE("a manager is destroyed with a process that died") {
    Victim victim(50, false);
    std::shared_ptr<ServedTarget> served;
    {
      Manager manager({});
      served = manager.add(
          victim.uffd,
          {Region({victim.address, 50 * page()}, std::make_shared<ZeroSource>(), 0, page())},
          {.pid = victim.pid, .received = true});
      victim.kill();
    }
    CHECK(served->life.stage() == Stage::ended);
  }

  TEST_CASE("memory of this process is kept from its fork children until it is complete") {
    const Memory memory(10);
    Manager manager({});
    auto served = add(manager, {memory.region()}, {.fault_around = 1});
    CHECK(memory.right(0));
    const auto mapped_in_child = [&] {
      return in_child([&] { return readable(memory.at(0)) ? 1 : 2; }) == 1;
    };
    CHECK(!mapped_in_child());
    close(manager, *served, Missing::fill);
    CHECK(mapped_in_child());
  }

  // The child that it forks makes threads, which ThreadSanitizer permits after a fork of one thread
  // only.
  TEST_CASE("the release experiment decides, or says why not") {
    const ReleaseFinding found = probe_release();
    CAPTURE(found.reason);
    CHECK(found.generation.has_value() == found.reason.empty());
    CHECK(found.seconds < 6);
    if (found.generation) {
      CHECK(found.rounds >= 3);
      CHECK((found.minor_faults >= 1000) == (*found.generation == ReleaseGeneration::nopage));
    }
  }

  TEST_CASE("UNREGISTER and WAKE loses nobody") {
    LostWakePlan plan;
    plan.rounds = 200;
    plan.limit = std::chrono::milliseconds(3000);
    plan.release = Release::unregister_and_wake;
    const LostWakes counted = count_lost_wakes(plan);
    CHECK(counted.rounds > 0);
    CHECK(counted.lost == 0);
    plan.release = Release::close;
    CHECK(count_lost_wakes(plan).lost == 0);
    // Whatever bare UNREGISTER loses here is found and woken: this returns.
    plan.release = Release::unregister;
    CHECK(count_lost_wakes(plan).rounds > 0);
  }
}

}  // namespace uffd::test
