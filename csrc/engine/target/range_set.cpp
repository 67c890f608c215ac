#include "engine/target/range_set.hpp"

#include <iterator>

namespace uffd {

bool RangeSet::contains(uint64_t address) const noexcept {
  const auto next = ends_.upper_bound(address);
  return next != ends_.begin() && address < std::prev(next)->second;
}

std::vector<Range> RangeSet::all() const {
  std::vector<Range> ranges;
  ranges.reserve(ends_.size());
  for (const auto& [start, end] : ends_) ranges.push_back({start, end - start});
  return ranges;
}

std::vector<Range> RangeSet::within(const Range& range) const {
  std::vector<Range> parts;
  auto next = ends_.upper_bound(range.start);
  if (next != ends_.begin()) --next;
  for (; next != ends_.end() && next->first < range.end(); ++next) {
    const Range part = range.intersection({next->first, next->second - next->first});
    if (part.length > 0) parts.push_back(part);
  }
  return parts;
}

std::vector<Range> RangeSet::outside(const Range& range) const {
  std::vector<Range> parts;
  uint64_t from = range.start;
  for (const Range& part : within(range)) {
    if (part.start > from) parts.push_back({from, part.start - from});
    from = part.end();
  }
  if (from < range.end()) parts.push_back({from, range.end() - from});
  return parts;
}

void RangeSet::add(Range range) {
  if (range.length == 0) return;
  uint64_t start = range.start, end = range.end();
  auto next = ends_.upper_bound(end);
  while (next != ends_.begin() && std::prev(next)->second >= start) {
    const auto joined = std::prev(next);
    start = std::min(start, joined->first);
    end = std::max(end, joined->second);
    next = ends_.erase(joined);
  }
  ends_.emplace(start, end);
}

void RangeSet::remove(const Range& range) {
  for (const Range& part : within(range)) {
    const auto whole = std::prev(ends_.upper_bound(part.start));
    const uint64_t start = whole->first, end = whole->second;
    ends_.erase(whole);
    if (start < part.start) ends_.emplace(start, part.start);
    if (part.end() < end) ends_.emplace(part.end(), end);
  }
}

void RangeSet::move(const Range& from, uint64_t to) {
  const std::vector<Range> parts = within(from);
  remove(from);
  for (const Range& part : parts) add({to + (part.start - from.start), part.length});
}

}  // namespace uffd
