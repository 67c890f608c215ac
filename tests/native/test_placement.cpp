// Threads that are held on their handler's CPU, and get their masks back.
#include "engine/linux/affinity.hpp"
#include "engine/serve/adoption/adoption.hpp"
#include "support.hpp"
#include "workload/toucher.hpp"

namespace uffd::test {
namespace {

pid_t this_thread() {
  return static_cast<pid_t>(::syscall(SYS_gettid));
}

int some_cpu() {
  const cpu_set_t mask = *affinity_of(0);
  for (int cpu = 0;; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &mask)) return cpu;
  }
}

bool equal(const cpu_set_t& a, const cpu_set_t& b) {
  return CPU_EQUAL(&a, &b);
}

ManagerOptions adopting(size_t fillers = 1) {
  ManagerOptions options;
  options.fillers = fillers;
  options.placement = {Placement::adopt, {some_cpu()}};
  options.guard = {.path = PYUFFD_GUARD};
  return options;
}

// A thread that does nothing, from when its id is known.
class Idler {
 public:
  Idler()
      : thread_([this] {
          id_ = this_thread();
          done_.wait();
        }) {
    until([this] { return id_ != 0; });
  }
  ~Idler() {
    done_.count_down();
    thread_.join();
  }
  pid_t id() const { return id_; }

 private:
  std::latch done_{1};
  std::atomic<pid_t> id_{0};
  std::thread thread_;
};

uffd_msg fault_of(pid_t thread) {
  uffd_msg message{};
  message.event = UFFD_EVENT_PAGEFAULT;
  message.arg.pagefault.feat.ptid = static_cast<uint32_t>(thread);
  return message;
}

}  // namespace

TEST_SUITE("placement") {
  TEST_CASE("a ledger holds a thread, and gives it and its heirs their masks back") {
    AdoptionLedger ledger;
    const cpu_set_t before = *affinity_of(0);
    AdoptionLedger::Entry* const entry = ledger.hold(::getpid(), this_thread(), some_cpu());
    REQUIRE(entry);
    CHECK(equal(*affinity_of(0), only_cpu(some_cpu())));
    const Idler heir;
    CHECK(equal(*affinity_of(heir.id()), only_cpu(some_cpu())));
    SUBCASE("by its entry") {
      ledger.give_back({&entry, 1});
    }
    SUBCASE("by another process") {
      AdoptionLedger theirs{Fd(::dup(ledger.fd()))};
      theirs.give_back_all();
    }
    CHECK(equal(*affinity_of(0), before));
    CHECK(equal(*affinity_of(heir.id()), before));
    CHECK(ledger.hold(::getpid(), 0x3fffffff, some_cpu()) == nullptr);
  }

  TEST_CASE("an heir that is held too gets the mask that it would have inherited") {
    AdoptionLedger ledger;
    const cpu_set_t before = *affinity_of(0);
    std::vector<AdoptionLedger::Entry*> entries{ledger.hold(::getpid(), this_thread(), some_cpu())};
    const Idler heir;
    entries.push_back(ledger.hold(::getpid(), heir.id(), some_cpu()));
    REQUIRE(entries.back());
    SUBCASE("after the one that it inherited from") {}
    SUBCASE("before it") {
      std::swap(entries[0], entries[1]);
    }
    for (AdoptionLedger::Entry* entry : entries) ledger.give_back({&entry, 1});
    CHECK(equal(*affinity_of(0), before));
    CHECK(equal(*affinity_of(heir.id()), before));
  }

  TEST_CASE("a thread that is held for two targets is given back with the last of them") {
    AdoptionLedger ledger;
    const cpu_set_t before = *affinity_of(0);
    AdoptionLedger::Entry* const first = ledger.hold(::getpid(), this_thread(), some_cpu());
    AdoptionLedger::Entry* const second = ledger.hold(::getpid(), this_thread(), some_cpu());
    REQUIRE((first && second));
    ledger.give_back({&first, 1});
    CHECK(equal(*affinity_of(0), only_cpu(some_cpu())));
    ledger.give_back({&second, 1});
    CHECK(equal(*affinity_of(0), before));
  }

  TEST_CASE("heirs of whoever was held first are found by the entries of others, too") {
    AdoptionLedger ledger;
    const cpu_set_t before = *affinity_of(0);
    const Idler older;
    AdoptionLedger::Entry* const first = ledger.hold(::getpid(), this_thread(), some_cpu());
    const Idler heir;
    const uint64_t began = ticks_now();
    until([&] { return ticks_now() > began; });  // so that the heir is older than what comes now
    AdoptionLedger::Entry* const second = ledger.hold(::getpid(), older.id(), some_cpu());
    REQUIRE((first && second));
    AdoptionLedger::Entry* const both[] = {second, first};
    ledger.give_back(both);
    CHECK(equal(*affinity_of(heir.id()), before));
    CHECK(equal(*affinity_of(older.id()), before));
  }

  TEST_CASE("a mask that was changed since is left alone, by another manager too") {
    AdoptionLedger ledger, another;
    const cpu_set_t before = *affinity_of(0);
    AdoptionLedger::Entry* const first = ledger.hold(::getpid(), this_thread(), some_cpu());
    AdoptionLedger::Entry* const second = another.hold(::getpid(), this_thread(), some_cpu());
    REQUIRE((first && second));
    ledger.give_back({&first, 1});
    CHECK(equal(*affinity_of(0), before));
    another.give_back({&second, 1});
    CHECK(equal(*affinity_of(0), before));
    if (CPU_COUNT(&before) < 2) return;
    cpu_set_t chosen = before;
    CPU_CLR(static_cast<size_t>(some_cpu()), &chosen);
    AdoptionLedger::Entry* const third = ledger.hold(::getpid(), this_thread(), some_cpu());
    set_affinity(0, chosen);
    ledger.give_back({&third, 1});
    CHECK(equal(*affinity_of(0), chosen));
    set_affinity(0, before);
  }

  TEST_CASE("a ledger that is full holds no more") {
    AdoptionLedger ledger;
    const cpu_set_t before = *affinity_of(0);
    for (size_t i = 0; i < AdoptionLedger::kEntries; ++i)
      REQUIRE(ledger.hold(::getpid(), this_thread(), some_cpu()));
    CHECK(ledger.hold(::getpid(), this_thread(), some_cpu()) == nullptr);
    ledger.give_back_all();
    CHECK(equal(*affinity_of(0), before));
    CHECK(ledger.hold(::getpid(), this_thread(), some_cpu()) != nullptr);
    ledger.give_back_all();
  }

  TEST_CASE("threads are let go where no fault comes, and taken again at the next") {
    AdoptionLedger ledger;
    Adoption adoption(ledger, ::getpid(), Cpu(some_cpu()));
    const uffd_msg fault = fault_of(this_thread());
    uint64_t now = 1;
    const cpu_set_t before = *affinity_of(0);
    adoption.see({&fault, 1}, now);
    CHECK(adoption.held() == 1);
    adoption.review_when_due(now += Adoption::kReviewNs);
    adoption.review_when_due(now += Adoption::kReviewNs);
    CHECK(adoption.held() == 0);
    CHECK(equal(*affinity_of(0), before));
    adoption.see({&fault, 1}, now);
    CHECK(adoption.held() == 1);
    adoption.let_go();
    CHECK(equal(*affinity_of(0), before));
    adoption.see({&fault, 1}, now);
    CHECK(adoption.held() == 0);
    CHECK(adoption.releases() == 0);
  }

  TEST_CASE("threads that fault are adopted, beside fillers and endings") {
    Manager manager(adopting(2));
    const cpu_set_t before = *affinity_of(0);
    for (int round = 0; round < 8; ++round) {
      const Memory memory(512);
      Userfaultfd uffd = open_uffd(UFFD_FEATURE_THREAD_ID);
      TargetOptions options;
      options.fault_around = 1u;
      options.verify = false;
      auto served = manager.add(uffd, {memory.region()}, options);
      workload::TouchPlan plan;
      plan.ranges = {{memory.memory.address(), memory.memory.length()}};
      plan.threads = 4;
      workload::Toucher toucher(plan);
      toucher.start();
      if (round % 2 == 1) manager.fill(*served);
      toucher.join();
      CHECK(close(manager, *served, Missing::fill).missing_pages == 0);
      if (round % 2 == 0) CHECK(served->adoption->adopted() == 4);
      CHECK(served->adoption->held() == 0);
      CHECK(memory.all_right());
    }
    CHECK(equal(*affinity_of(0), before));
  }
}

}  // namespace uffd::test
