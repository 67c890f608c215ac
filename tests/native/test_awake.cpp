// Bursts of faults, and who keeps CPUs awake meanwhile.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/linux/affinity.hpp"
#include "engine/linux/cpu_budget.hpp"
#include "engine/linux/dma_latency.hpp"
#include "engine/serve/awake/burst.hpp"
#include "engine/serve/awake/wakefulness.hpp"
#include "engine/serve/awake/warm_thread.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

using Change = Burst::Change;

// A handler whose faults come so long after the last.
struct Faults {
  Burst burst;
  uint64_t now = 1'000'000'000;

  Change fault(uint64_t gap, bool slept = false) {
    now += gap;
    const Change change = burst.served(now, now + 1'000, slept);
    now += 1'000;
    return change;
  }
  // The first change among so many faults; none where there is none.
  Change faults(int count, uint64_t gap, bool slept = false) {
    for (int i = 0; i < count; ++i) {
      if (const Change change = fault(gap, slept); change != Change::none) return change;
    }
    return Change::none;
  }
};

// A tree of files below which /proc and /sys are looked for.
struct Root {
  std::filesystem::path path;

  Root() {
    std::string name = std::filesystem::temp_directory_path() / "pyuffd-root-XXXXXX";
    path = ::mkdtemp(name.data());
  }
  ~Root() { std::filesystem::remove_all(path); }

  Root& file(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text << '\n';
    return *this;
  }
  std::string reason() const { return why_to_spare_cpu(path.string()); }
};

}  // namespace

TEST_SUITE("awake") {
  TEST_CASE("a burst begins when faults come soon, one after the other, and ends when they cease") {
    Faults handler;
    CHECK(handler.faults(100, 2'000'000) == Change::none);
    CHECK(handler.faults(7, 100'000) == Change::none);
    CHECK(handler.faults(1, 2'000'000) == Change::none);
    CHECK(handler.faults(9, 100'000) == Change::begins);
    CHECK(handler.burst.awake());
    CHECK(handler.faults(1'000, 10'000) == Change::none);
    CHECK(handler.burst.end() == Change::ends);
    CHECK(handler.burst.end() == Change::none);
    CHECK_FALSE(handler.burst.awake());
  }

  TEST_CASE("faults that follow at once have no idle CPU in them") {
    Faults handler;
    CHECK(handler.faults(10'000, 2'000) == Change::none);
  }

  TEST_CASE("what gains too little is left off for ever longer, and is tried again") {
    Faults handler;
    int begun = 0, ended = 0;
    for (int i = 0; i < 100'000; ++i) {
      const Change change = handler.fault(handler.burst.awake() ? 90'000 : 100'000);
      begun += change == Change::begins;
      ended += change == Change::ends;
    }
    CHECK(begun >= 3);
    CHECK(begun <= 16);
    CHECK(ended >= begun - 1);
  }

  TEST_CASE("what gains enough goes on, and is compared again now and then") {
    Faults handler;
    int awake = 0, begun = 0;
    for (int i = 0; i < 100'000; ++i) {
      begun += handler.fault(handler.burst.awake() ? 10'000 : 100'000) == Change::begins;
      awake += handler.burst.awake();
    }
    CHECK(begun >= 3);
    CHECK(begun <= 10);
    CHECK(awake > 99'000);
  }

  TEST_CASE("a burst that stops paying ends") {
    Faults handler;
    CHECK(handler.faults(20, 100'000) == Change::begins);
    CHECK(handler.faults(200, 10'000) == Change::none);
    CHECK(handler.faults(200, 95'000) == Change::ends);
  }

  TEST_CASE(
      "bursts that are too short to compare, or whose CPU others want, are left off for longer") {
    for (const bool crowded : {false, true}) {
      Faults handler;
      int begun = 0;
      for (int burst = 0; burst < 1'000; ++burst) {
        handler.fault(2'000'000);
        for (int i = 0; i < 10; ++i)
          begun += handler.fault(handler.burst.awake() ? 10'000 : 100'000) == Change::begins;
        crowded ? handler.burst.give_up() : handler.burst.end();
      }
      CHECK(begun >= 3);
      CHECK(begun <= 20);
    }
  }

  TEST_CASE("what a wake-up costs is told, whether the handler slept or not") {
    for (const bool slept : {false, true}) {
      Faults handler;
      CHECK(handler.burst.wake_ns() == 0);
      CHECK(handler.faults(20, slept ? 130'000 : 70'000, slept) == Change::begins);
      handler.faults(200, 10'000);
      CHECK(handler.burst.wake_ns() == doctest::Approx(60'000).epsilon(0.01));
    }
  }

  TEST_CASE("CPU time is spared where burning it costs somebody") {
    CHECK(Root().reason().empty());
    CHECK(Root().file("proc/self/cgroup", "0::/a/b").reason().empty());
    CHECK(Root()
              .file("proc/self/cgroup", "0::/a/b")
              .file("sys/fs/cgroup/a/b/cpu.max", "max 100000")
              .reason()
              .empty());
    const std::string quota = "the cgroup has a CPU quota";
    for (const char* path : {"a/b/", "a/", ""}) {
      CHECK(Root()
                .file("proc/self/cgroup", "0::/a/b")
                .file(std::string("sys/fs/cgroup/") + path + "cpu.max", "50000 100000")
                .reason() == quota);
    }
    const std::string v1 = "4:cpuacct:/x\n3:cpu,cpuacct:/c\n";
    CHECK(Root().file("proc/self/cgroup", v1).reason().empty());
    CHECK(Root()
              .file("proc/self/cgroup", v1)
              .file("sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1")
              .reason()
              .empty());
    CHECK(Root()
              .file("proc/self/cgroup", v1)
              .file("sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000")
              .reason() == quota);
  }

  TEST_CASE("power is spared on a battery and under a governor that saves it") {
    const auto supply = [](const char* online) {
      Root root;
      root.file("sys/class/power_supply/AC/type", "Mains");
      root.file("sys/class/power_supply/AC/online", online);
      return root.file("sys/class/power_supply/BAT0/type", "Battery").reason();
    };
    CHECK(supply("1").empty());
    CHECK(supply("0") == "the machine runs on its battery");
    CHECK(Root().file("sys/class/power_supply/BAT0/type", "Battery").reason().empty());
    const auto governor = [](const char* name, const char* preference) {
      Root root;
      const std::string policy = "sys/devices/system/cpu/cpufreq/policy0/";
      if (*preference) root.file(policy + "energy_performance_preference", preference);
      return root.file(policy + "scaling_governor", name).reason();
    };
    const std::string saves = "the CPU governor saves power";
    CHECK(governor("schedutil", "").empty());
    CHECK(governor("powersave", "") == saves);
    CHECK(governor("powersave", "balance_performance").empty());
    CHECK(governor("powersave", "power") == saves);
  }

  TEST_CASE("a warm thread spends CPU time while a burst lasts, and none after it") {
    const auto counted = std::make_shared<std::atomic<uint64_t>>(0);
    const std::atomic<uint64_t>& spent = *counted;
    WarmThread warm(counted);
    const auto sleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
    for (int burst = 0; burst < 3; ++burst) {
      const uint64_t before = spent;
      warm.begin({0, static_cast<uint32_t>(::gettid()), -1});
      // This thread must sleep: the warm thread yields its CPU to it.
      while (spent == before) sleep();
      warm.end();
      for (uint64_t last = 0; std::exchange(last, spent.load()) != last;) sleep();
    }
  }

  TEST_CASE("a warm thread rests where the handler is on the CPU of the thread that faults") {
    const auto counted = std::make_shared<std::atomic<uint64_t>>(0);
    const std::atomic<uint64_t>& spent = *counted;
    WarmThread warm(counted);
    const auto cpu = last_cpu_of(::gettid());
    REQUIRE(cpu >= 0);
    REQUIRE(set_affinity(0, only_cpu(cpu)) == 0);
    warm.begin({0, static_cast<uint32_t>(::gettid()), cpu});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    warm.end();
    CHECK(spent == 0);
  }

  TEST_CASE("a thread that is gone, or unknown, keeps no CPU awake and fails nothing") {
    WarmThread warm(std::make_shared<std::atomic<uint64_t>>(0));
    for (const FaultingThread& thread :
         {FaultingThread{0, 999'999'999, 0}, FaultingThread{kUnknownPid, 1, 0}, FaultingThread{}}) {
      warm.begin(thread);
      warm.follow(thread);
      warm.end();
    }
  }

  TEST_CASE("a manager's bursts may overlap, and it tells its way") {
    Wakefulness keeper;
    CHECK_FALSE(keeper.notes()->text.empty());
    for (int round = 0; round < 10; ++round) {
      keeper.begin({});
      keeper.begin({});
      keeper.follow({});
      keeper.end();
      keeper.end();
    }
  }
}

}  // namespace uffd::test
