// Ranges of addresses that neither overlap nor adjoin each other. Not for several threads at once.
#pragma once

#include <map>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

class RangeSet {
 public:
  bool empty() const noexcept { return ends_.empty(); }
  bool contains(uint64_t address) const noexcept;
  std::vector<Range> all() const;
  // Those parts of range that are, and that are not, in the set.
  std::vector<Range> within(const Range& range) const;
  std::vector<Range> outside(const Range& range) const;

  void add(Range range);
  void remove(const Range& range);
  // What lay in [from, from + length) lies at [to, to + length) now.
  void move(const Range& from, uint64_t to);

 private:
  std::map<uint64_t, uint64_t> ends_;  // by start
};

}  // namespace uffd
