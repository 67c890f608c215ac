// The measuring side: patterns, orders of visit, logs, and the floors on a real userfaultfd.
#include <algorithm>

#include "support.hpp"
#include "workload/access_log.hpp"
#include "workload/close_race.hpp"
#include "workload/floor.hpp"
#include "workload/floor_server.hpp"
#include "workload/toucher.hpp"
#include "workload/visit_order.hpp"

namespace uffd::test {

using namespace workload;

TEST_SUITE("workload") {
  TEST_CASE("a checksum tells a flipped bit, and two pages, apart") {
    const Mapping memory(64 * page(), MemoryKind::anonymous, false);
    fill_pattern(memory.address(), memory.length(), 3);
    auto sums = checksums(memory.address(), memory.length(), page());
    const auto before = sums;
    auto* bytes = reinterpret_cast<unsigned char*>(memory.address());
    bytes[5 * page() + 1234] ^= 0x10;
    const auto after = checksums(memory.address(), memory.length(), page());
    for (size_t i = 0; i < 64; ++i) CHECK((before[i] == after[i]) == (i != 5));
    std::sort(sums.begin(), sums.end());
    CHECK(std::adjacent_find(sums.begin(), sums.end()) == sums.end());
    CHECK_THROWS_AS(fill_pattern(memory.address() + 1, 8, 0), std::invalid_argument);
    CHECK_THROWS_AS(checksums(memory.address(), page() + 1, page()), std::invalid_argument);
    CHECK_THROWS_AS(require_page_size(48), std::invalid_argument);
  }

  TEST_CASE("every order visits each page of its part once") {
    for (const Partition partition : {Partition::split, Partition::interleaved, Partition::all}) {
      for (const Order order : {Order::sequential, Order::random, Order::stride}) {
        std::vector<unsigned> visits(101);
        for (size_t thread = 0; thread < 4; ++thread) {
          for (const size_t i : visit_order({partition, order, 7, 5}, 101, thread, 4)) ++visits[i];
        }
        const unsigned each = partition == Partition::all ? 4 : 1;
        CHECK(std::count(visits.begin(), visits.end(), each) == 101);
      }
    }
    const VisitPlan strided{Partition::all, Order::stride, 3, 0};
    CHECK(visit_order(strided, 7, 0, 1) == std::vector<size_t>{0, 3, 6, 1, 4, 2, 5});
  }

  TEST_CASE("a log's timeline and histogram agree") {
    AccessLog log(3);
    log.set_origin(1000);
    log.record(1000, 1500);
    log.record(1000, 1000 + AccessLog::kBinNs);      // bin 1
    log.record(1000, 1000 + 5 * AccessLog::kBinNs);  // behind the last
    CHECK(log.overflow() == 1);
    CHECK(log.bin_counts()[0] == 1);
    CHECK(log.bin_counts()[1] == 1);
    CHECK(log.bin_sums_ns()[1] == AccessLog::kBinNs);
    CHECK(log.max_ns() == 5 * AccessLog::kBinNs);
    AccessLog sum(3);
    sum.add(log);
    sum.add(log);
    CHECK(sum.bin_counts()[0] == 2);
    CHECK(sum.bin_max_ns()[0] == 500);
    CHECK(sum.histogram()[LatencyHistogram::bucket_of(500)] == 2);
    CHECK(sum.overflow() == 2);
  }

  TEST_CASE("the floor server serves touchers of every page") {
    for (const Reader reader : {Reader::poll, Reader::spin}) {
      const Memory memory(32);
      const HandTarget hand(memory);
      FloorServerPlan plan;
      plan.fd = hand.target.uffd().fd();
      plan.start = memory.at(0);
      plan.length = 32 * page();
      plan.source = memory.image.address();
      plan.page_size = page();
      plan.window = 4;
      plan.reader = reader;
      plan.copies = 8;
      FloorServer server(plan);
      server.start();
      TouchPlan touches;
      touches.ranges = {{memory.at(0), 32 * page()}};
      touches.page_size = page();
      touches.threads = 2;
      touches.visits.partition = Partition::all;
      touches.checksums = checksums(memory.image.address(), 32 * page(), page());
      touches.timeline_bins = 10;
      workload::Toucher toucher(touches);
      toucher.start();
      const Touches seen = toucher.join();
      CHECK(seen.touched == 64);
      CHECK(seen.wrong_pages == 0);
      CHECK(server.join().faults >= 8);
    }
  }

  TEST_CASE("bulk copy and the ending floors") {
    const Memory memory(40);
    Userfaultfd uffd = open_uffd();
    const RegionTable table({memory.region()});
    register_regions(uffd, table);
    BulkCopyPlan plan;
    plan.fd = uffd.fd();
    plan.start = memory.at(0);
    plan.source = memory.image.address();
    plan.length = 40 * page();
    plan.chunk = 8 * page();
    plan.threads = 2;
    CHECK(bulk_copy(plan) > 0);
    CHECK_THROWS_AS(bulk_copy(plan), SystemError);  // EEXIST
    CHECK(memory.all_right());
    const int fd = uffd.fd();
    uffd.leave_open();
    CHECK(unregister_and_close(fd, table.ranges()) > 0);
    CHECK_THROWS_AS(close_fd(-1), SystemError);
  }

  TEST_CASE("closes race with touchers, and every byte is looked at") {
    workload::CloseRacePlan plan;
    plan.threads = 3;
    plan.pages = 4;
    plan.closes = 50;
    for (const bool complete : {true, false}) {
      for (const bool write : {true, false}) {
        plan.complete = complete;
        plan.write = write;
        const auto result = workload::race_closes(plan);
        CHECK(result.closes == 50);
        CHECK(result.accesses == 50 * 3 * 4);
        CHECK(result.raced > 0);
        CHECK(result.wrong == 0);
        CHECK(result.lost == 0);
      }
    }
    plan.kind = MemoryKind::memfd;
    plan.shared = true;
    CHECK(workload::race_closes(plan).wrong == 0);
    plan.threads = 65;
    CHECK_THROWS_AS(workload::race_closes(plan), std::invalid_argument);
  }
}

}  // namespace uffd::test
