// The latencies of one thread's accesses: a histogram of all, and a timeline of 1 ms bins with a
// histogram each, so that percentiles of any window can be made exactly afterwards.
//
// Written by one thread and read after that thread was joined. All memory is allocated and touched
// by the constructor; record() takes no lock, no page fault and no system call. A bin is 1.2 KB.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/serve/served/latency_histogram.hpp"

namespace uffd::workload {

// Aligned so that the logs of two threads share no cache line.
class alignas(64) AccessLog {
 public:
  static constexpr uint64_t kBinNs = 1'000'000;
  static constexpr size_t kDefaultBins = 10'000;  // 10 s
  static constexpr size_t kBuckets = LatencyHistogram::kBuckets;

  explicit AccessLog(size_t bins)
      : bin_counts_(bins),
        bin_sums_ns_(bins),
        bin_max_ns_(bins),
        bin_histograms_(bins * kBuckets) {}

  // Where bin 0 begins, in CLOCK_MONOTONIC nanoseconds; before the first record().
  void set_origin(uint64_t origin_ns) noexcept { origin_ns_ = origin_ns; }

  // An access belongs to the bin in which it ended.
  void record(uint64_t start_ns, uint64_t end_ns) noexcept {
    const uint64_t ns = end_ns - start_ns;
    const size_t bucket = LatencyHistogram::bucket_of(ns);
    ++histogram_[bucket];
    max_ns_ = std::max(max_ns_, ns);
    const uint64_t bin = (end_ns - origin_ns_) / kBinNs;
    if (bin >= bins()) {
      ++overflow_;
      return;
    }
    ++bin_counts_[bin];
    bin_sums_ns_[bin] += ns;
    bin_max_ns_[bin] = std::max(bin_max_ns_[bin], ns);
    ++bin_histograms_[bin * kBuckets + bucket];
  }

  // Adds a log with the same origin and as many bins.
  void add(const AccessLog& other) noexcept;

  // The buckets of LatencyHistogram.
  std::span<const uint64_t> histogram() const noexcept { return histogram_; }
  uint64_t max_ns() const noexcept { return max_ns_; }
  // Accesses that ended after the last bin: all of them where there are no bins.
  uint64_t overflow() const noexcept { return overflow_; }

  size_t bins() const noexcept { return bin_counts_.size(); }
  std::span<const uint64_t> bin_counts() const noexcept { return bin_counts_; }
  std::span<const uint64_t> bin_sums_ns() const noexcept { return bin_sums_ns_; }
  std::span<const uint64_t> bin_max_ns() const noexcept { return bin_max_ns_; }
  // kBuckets counts of bin 0, then of bin 1, and so on.
  std::span<const uint32_t> bin_histograms() const noexcept { return bin_histograms_; }

 private:
  uint64_t origin_ns_ = 0;
  uint64_t max_ns_ = 0;
  uint64_t overflow_ = 0;
  std::array<uint64_t, kBuckets> histogram_{};
  std::vector<uint64_t> bin_counts_;
  std::vector<uint64_t> bin_sums_ns_;
  std::vector<uint64_t> bin_max_ns_;
  std::vector<uint32_t> bin_histograms_;
};

}  // namespace uffd::workload
