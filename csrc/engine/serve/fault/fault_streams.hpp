// Fault-around that learns: which faults of a target follow one another, and how many pages are
// worth installing with the next of them. One thread's; pure; allocates nothing.
//
// A stream is a walk through memory, upwards or downwards. A fault just where the last install of
// the stream ended continues the stream, and doubles its window; a fault a little further on, so
// that pages were skipped, halves the window; any other fault begins a new stream, with a window of
// one page. Threads that walk through different places make different streams. No window is longer
// than what is installed in kLongestNs at the speed seen so far: another fault may be waiting
// meanwhile.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "engine/target/region.hpp"
#include "engine/target/region_table.hpp"
#include "engine/target/residency.hpp"

namespace uffd {

class FaultStreams {
 public:
  static constexpr uint64_t kMostPages = 512;
  static constexpr uint64_t kLongestNs = 200'000;
  static constexpr uint64_t kEnoughBytes = 32768;  // so that the system call does not show

  // The missing pages to install with the faulting page, that page included.
  PageRun window(const Residency& residency, const Region& region, uint64_t page) noexcept {
    Stream& stream = continued_by(page);
    const uint64_t most = std::min<uint64_t>(stream.pages, most_pages(region.page_size));
    PageRun run{page, page + 1};
    if (stream.down) {
      const uint64_t lowest = page - std::min(page - region.first_page, most - 1);
      run.first = residency.run_begin(page, lowest);
    } else {
      const uint64_t highest = page + std::min(region.end_page() - page, most);
      run.end = residency.next_resident(page + 1, highest);
    }
    // What is resident already gives no fault: the walk's next fault lies behind it.
    stream.above =
        residency.next_missing(run.end, std::min(region.end_page(), run.end + kMostPages));
    stream.below = run.first;
    stream.last_used = ++clock_;
    last_ = static_cast<size_t>(&stream - streams_.data());
    return run;
  }

  // How long an install of so many bytes took.
  void learn_speed(uint64_t bytes, uint64_t nanoseconds) noexcept {
    if (bytes < kEnoughBytes) return;
    const uint64_t now = std::max<uint64_t>(nanoseconds * kUnit / bytes, 1);
    cost_ += (static_cast<int64_t>(now) - static_cast<int64_t>(cost_)) / 8;
    cost_ = std::max<int64_t>(cost_, 1);
  }

 private:
  struct Stream {
    uint64_t above = 0;  // the page where the next fault is expected, upwards
    uint64_t below = 0;  // downwards: the page before this
    uint64_t last_used = 0;
    uint32_t pages = 0;  // its window; 0: unused
    bool down = false;
  };
  static constexpr size_t kStreams = 32;
  static constexpr int64_t kUnit = 1024;  // cost_ is in nanoseconds for so many bytes

  uint64_t most_pages(uint64_t page_size) const noexcept {
    const uint64_t bytes = kLongestNs * kUnit / static_cast<uint64_t>(cost_);
    return std::clamp<uint64_t>(bytes / page_size, 1, kMostPages);
  }

  Stream& continued_by(uint64_t page) noexcept {
    if (continues(streams_[last_], page)) return streams_[last_];
    for (Stream& stream : streams_) {
      if (continues(stream, page)) return stream;
    }
    Stream& oldest = *std::min_element(
        streams_.begin(), streams_.end(),
        [](const Stream& a, const Stream& b) { return a.last_used < b.last_used; });
    oldest = {};
    oldest.pages = 1;
    return oldest;
  }

  // Whether the page continues the stream; if so, sets the stream's window and direction for it.
  static bool continues(Stream& stream, uint64_t page) noexcept {
    if (stream.pages == 0) return false;
    const bool up = page >= stream.above && page - stream.above <= stream.pages;
    const bool down = page < stream.below && stream.below - 1 - page <= stream.pages;
    if (!up && !down) return false;
    const bool at_once = up ? page == stream.above : page + 1 == stream.below;
    if (stream.down != down) stream.pages = 1;
    stream.down = down;
    stream.pages = at_once ? std::min<uint32_t>(2 * stream.pages, kMostPages)
                           : std::max<uint32_t>(stream.pages / 2, 1);
    return true;
  }

  std::array<Stream, kStreams> streams_{};
  size_t last_ = 0;
  uint64_t clock_ = 0;
  int64_t cost_ = kUnit / 2;  // a first guess; COPY takes about 0.3 ns a byte
};

}  // namespace uffd
