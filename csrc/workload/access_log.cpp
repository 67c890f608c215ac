#include "workload/access_log.hpp"

#include <functional>

namespace uffd::workload {
namespace {

template <typename Counts, typename Operation>
void merge(Counts& into, const Counts& from, Operation operation) noexcept {
  std::transform(into.begin(), into.end(), from.begin(), into.begin(), operation);
}

}  // namespace

void AccessLog::add(const AccessLog& other) noexcept {
  max_ns_ = std::max(max_ns_, other.max_ns_);
  overflow_ += other.overflow_;
  merge(histogram_, other.histogram_, std::plus<>());
  merge(bin_counts_, other.bin_counts_, std::plus<>());
  merge(bin_sums_ns_, other.bin_sums_ns_, std::plus<>());
  merge(bin_max_ns_, other.bin_max_ns_, [](uint64_t a, uint64_t b) { return std::max(a, b); });
  merge(bin_histograms_, other.bin_histograms_, std::plus<>());
}

}  // namespace uffd::workload
