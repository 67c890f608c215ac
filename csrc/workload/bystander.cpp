#include "workload/bystander.hpp"

#include <stdexcept>
#include <utility>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/access.hpp"

namespace uffd::workload {
namespace {

// Huge pages would turn many faults into one; a kernel without them refuses, rightly.
void keep_base_pages(uint64_t start, uint64_t length) noexcept {
  (void)sys::madvise(start, length, MADV_NOHUGEPAGE);
}

void advise(const Mapping& mapping, int advice, const char* what) {
  const int error = sys::madvise(mapping.address(), mapping.length(), advice);
  if (error < 0) throw SystemError(-error, what);
}

}  // namespace

Bystanders::Bystanders(const BystanderPlan& plan)
    : kind_(plan.kind),
      length_(plan.pages * sys::page_size()),
      in_loop_(static_cast<std::ptrdiff_t>(plan.threads)),
      crew_("bystander", plan.threads, plan.cpus) {
  if (plan.pages == 0) throw std::invalid_argument("pages must be at least 1");
  for (size_t i = 0; i < plan.threads; ++i) {
    notes_.emplace_back(plan.timeline_bins);
    if (kind_ == BystanderKind::mmap) continue;
    mappings_.emplace_back(length_, MemoryKind::anonymous, false);
    keep_base_pages(mappings_.back().address(), length_);
  }
}

void Bystanders::start() {
  crew_.start([this](size_t thread) { run(thread); });
  in_loop_.wait();
}

Touches Bystanders::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  const auto& shifts = crew_.join();
  return Touches(crew_.origin_ns(), shifts, std::move(notes_));
}

void Bystanders::run(size_t thread) {
  Notes& notes = notes_[thread];
  notes.log.set_origin(crew_.origin_ns());
  in_loop_.count_down();
  while (!stopping_.load(std::memory_order_relaxed)) {
    switch (kind_) {
      case BystanderKind::fault:
        fault_round(mappings_[thread], notes);
        break;
      case BystanderKind::mmap:
        mmap_round(notes);
        break;
      case BystanderKind::populate:
        populate_round(mappings_[thread], notes);
        break;
    }
  }
}

void Bystanders::fault_round(const Mapping& mapping, Notes& notes) const {
  for (uint64_t offset = 0; offset < length_; offset += mapping.page_size()) {
    const uint64_t start = sys::monotonic_ns();
    touch_for_write(mapping.address() + offset);
    notes.log.record(start, sys::monotonic_ns());
    ++notes.touched;
  }
  advise(mapping, MADV_DONTNEED, "madvise(MADV_DONTNEED) in a bystander");
}

void Bystanders::populate_round(const Mapping& mapping, Notes& notes) const {
  const uint64_t start = sys::monotonic_ns();
  advise(mapping, sys::kPopulateWrite, "madvise(MADV_POPULATE_WRITE) in a bystander");
  notes.log.record(start, sys::monotonic_ns());
  ++notes.touched;
  advise(mapping, MADV_DONTNEED, "madvise(MADV_DONTNEED) in a bystander");
}

void Bystanders::mmap_round(Notes& notes) const {
  const uint64_t start = sys::monotonic_ns();
  {
    const Mapping mapping(length_, MemoryKind::anonymous, false);
    for (uint64_t offset = 0; offset < length_; offset += mapping.page_size()) {
      touch_for_write(mapping.address() + offset);
    }
  }
  notes.log.record(start, sys::monotonic_ns());
  ++notes.touched;
}

}  // namespace uffd::workload
