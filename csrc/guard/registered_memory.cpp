#include "guard/registered_memory.hpp"

#include <fcntl.h>

#include <charconv>
#include <cstdio>

#include "engine/linux/syscall.hpp"

namespace uffd::guard {
namespace {

Fd open_smaps(pid_t pid) noexcept {
  std::array<char, 32> path;
  std::snprintf(path.data(), path.size(), "/proc/%d/smaps", static_cast<int>(pid));
  return Fd(pid > 0 ? sys::open(path.data(), O_RDONLY) : -1);
}

// "START-END PERMISSIONS ..."
bool parse_range(std::string_view line, RegisteredMemory::Mapping& mapping) noexcept {
  const char* const end = line.data() + line.size();
  uint64_t start = 0, stop = 0;
  const auto first = std::from_chars(line.data(), end, start, 16);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return false;
  const auto second = std::from_chars(first.ptr + 1, end, stop, 16);
  if (second.ec != std::errc() || second.ptr == end || *second.ptr != ' ') return false;
  mapping = {start, stop, sys::page_size()};
  return true;
}

uint64_t kibibytes(std::string_view line) noexcept {
  uint64_t number = 0;
  const size_t digit = line.find_first_of("0123456789");
  if (digit != line.npos) std::from_chars(line.data() + digit, line.data() + line.size(), number);
  return number << 10;
}

bool is_missing_registered(std::string_view flags) noexcept {
  return flags.find(" um") != flags.npos;
}

}  // namespace

RegisteredMemory::RegisteredMemory(pid_t pid) noexcept : smaps_(open_smaps(pid)) {}

RegisteredMemory::Mapping RegisteredMemory::next() noexcept {
  Mapping mapping{};
  for (auto line = next_line(); !line.empty(); line = next_line()) {
    if (parse_range(line, mapping)) continue;
    if (line.starts_with("KernelPageSize:")) mapping.page_size = kibibytes(line);
    if (line.starts_with("VmFlags:") && is_missing_registered(line)) return mapping;
  }
  return {};
}

std::string_view RegisteredMemory::next_line() noexcept {
  size_t length = 0;
  while (at_ < count_ || read_more()) {
    const char next = read_[at_++];
    if (next == '\n') return {line_.data(), length};
    if (length < line_.size()) line_[length++] = next;
  }
  return {};
}

bool RegisteredMemory::read_more() noexcept {
  const ssize_t bytes = sys::read(smaps_.get(), read_.data(), read_.size());
  at_ = 0;
  count_ = bytes > 0 ? static_cast<size_t>(bytes) : 0;
  return count_ > 0;
}

}  // namespace uffd::guard
