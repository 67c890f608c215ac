#include "workload/toucher.hpp"

#include <stdexcept>
#include <string>
#include <utility>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/access.hpp"
#include "workload/pattern.hpp"

namespace uffd::workload {
namespace {

std::vector<uint64_t> page_addresses(const std::vector<Range>& ranges, uint64_t page_size) {
  std::vector<uint64_t> addresses;
  for (const Range& range : ranges) {
    if (range.start % page_size != 0 || range.length % page_size != 0) {
      throw std::invalid_argument("range " + range_text(range.start, range.length) +
                                  " is not whole pages of " + std::to_string(page_size));
    }
    for (uint64_t page = range.start; page < range.end(); page += page_size) {
      addresses.push_back(page);
    }
  }
  return addresses;
}

void check(const TouchPlan& plan, size_t pages) {
  if (plan.visits.order == Order::stride && plan.visits.stride == 0) {
    throw std::invalid_argument("stride must be at least 1");
  }
  const size_t least = plan.visits.partition == Partition::all ? 1 : plan.threads;
  if (pages < least) {
    throw std::invalid_argument(std::to_string(pages) + " pages are too few for " +
                                std::to_string(plan.threads) + " threads");
  }
  if (!plan.checksums.empty() && plan.checksums.size() != pages) {
    throw std::invalid_argument(std::to_string(plan.checksums.size()) + " checksums for " +
                                std::to_string(pages) + " pages");
  }
}

}  // namespace

Toucher::Toucher(const TouchPlan& plan)
    : page_size_(plan.page_size),
      write_(plan.write),
      timed_(plan.timed),
      passes_(plan.passes),
      think_ns_(plan.think_ns),
      crew_("toucher", plan.threads, plan.cpus) {
  require_page_size(page_size_);
  plan_visits(plan);
  notes_.reserve(plan.threads);
  for (size_t i = 0; i < plan.threads; ++i) notes_.emplace_back(timed_ ? plan.timeline_bins : 0);
}

void Toucher::plan_visits(const TouchPlan& plan) {
  const auto pages = page_addresses(plan.ranges, page_size_);
  check(plan, pages.size());
  visits_.resize(plan.threads);
  for (size_t thread = 0; thread < plan.threads; ++thread) {
    Visits& visits = visits_[thread];
    for (const size_t page : visit_order(plan.visits, pages.size(), thread, plan.threads)) {
      visits.addresses.push_back(pages[page]);
      if (!plan.checksums.empty()) visits.expected.push_back(plan.checksums[page]);
    }
  }
}

void Toucher::start() {
  crew_.start([this](size_t thread) { run(thread); });
}

Touches Toucher::join() {
  const auto& shifts = crew_.join();
  return Touches(crew_.origin_ns(), shifts, std::move(notes_));
}

void Toucher::run(size_t thread) noexcept {
  const Visits& visits = visits_[thread];
  Notes& notes = notes_[thread];
  notes.log.set_origin(crew_.origin_ns());
  for (uint64_t pass = 0; passes_ == 0 || pass < passes_; ++pass) {
    for (size_t i = 0; i < visits.addresses.size(); ++i) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      visit(visits, i, notes);
    }
  }
}

void Toucher::visit(const Visits& visits, size_t index, Notes& notes) const noexcept {
  const uint64_t address = visits.addresses[index];
  if (timed_) {
    const uint64_t start = sys::monotonic_ns();
    touch(address);
    notes.log.record(start, sys::monotonic_ns());
  } else {
    touch(address);
  }
  ++notes.touched;
  if (!visits.expected.empty() &&
      page_checksum(reinterpret_cast<const void*>(address), page_size_) != visits.expected[index]) {
    notes.wrong_page(address);
  }
  if (think_ns_ == 0) return;
  const uint64_t thinking_since = sys::monotonic_ns();
  while (sys::monotonic_ns() - thinking_since < think_ns_) {
  }
}

void Toucher::touch(uint64_t address) const noexcept {
  if (write_) {
    touch_for_write(address);
  } else {
    touch_for_read(address);
  }
}

}  // namespace uffd::workload
