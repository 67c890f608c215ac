#include "engine/linux/presence.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <string>

#include "engine/linux/fd.hpp"

namespace uffd {
namespace {

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kPresentOrSwapped = (uint64_t{1} << 63) | (uint64_t{1} << 62);

constexpr size_t kAtOnce = 4096;  // base pages

void add_page(std::vector<Range>& present, uint64_t page, uint64_t page_size) {
  if (!present.empty() && present.back().end() == page) {
    present.back().length += page_size;
  } else if (present.empty() || present.back().end() < page) {
    present.push_back({page, page_size});
  }
}

// Tells which base pages are present: by the pagemap, and in this process by mincore(2), too. One
// of the two may be unavailable.
class Look {
 public:
  explicit Look(pid_t pid)
      : pagemap_(sys::open(pagemap_of(pid).c_str(), O_RDONLY)), here_(pid == 0) {}

  // False where nothing may be looked at.
  bool at(uint64_t start, uint64_t pages) noexcept {
    const uint64_t base = sys::page_size();
    const auto bytes = static_cast<ssize_t>(pages * sizeof(uint64_t));
    mapped_ = pagemap_ && ::pread(pagemap_.get(), entries_.data(), static_cast<size_t>(bytes),
                                  static_cast<off_t>(start / base * sizeof(uint64_t))) == bytes;
    in_core_ = here_ && ::mincore(reinterpret_cast<void*>(start), pages * base, core_.data()) == 0;
    return mapped_ || in_core_;
  }
  bool is_present(uint64_t page) const noexcept {
    return (mapped_ && (entries_[page] & kPresentOrSwapped)) || (in_core_ && (core_[page] & 1));
  }

 private:
  static std::string pagemap_of(pid_t pid) {
    return "/proc/" + (pid == 0 ? "self" : std::to_string(pid)) + "/pagemap";
  }

  // Even the pagemap of this process may be unreadable, after setuid(2).
  Fd pagemap_;
  bool here_;
  bool mapped_ = false, in_core_ = false;
  std::array<uint64_t, kAtOnce> entries_;
  std::array<unsigned char, kAtOnce> core_;
};

}  // namespace

std::optional<std::vector<Range>> present_pages(pid_t pid, const Range& range, uint64_t page_size) {
  Look look(pid);
  const uint64_t base = sys::page_size();
  std::vector<Range> present;
  for (uint64_t start = range.start; start < range.end();) {
    const uint64_t pages = std::min<uint64_t>((range.end() - start) / base, kAtOnce);
    if (!look.at(start, pages)) return std::nullopt;
    for (uint64_t i = 0; i < pages; ++i) {
      if (!look.is_present(i)) continue;
      const uint64_t address = start + i * base;
      add_page(present, address - (address - range.start) % page_size, page_size);
    }
    start += pages * base;
  }
  return present;
}

}  // namespace uffd
