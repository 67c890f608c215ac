#include "workload/pattern.hpp"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "workload/random.hpp"

namespace uffd::workload {
namespace {

// Touchers of one page may or a 0 into a word that another verifies: a race that changes no byte.
[[gnu::no_sanitize("thread")]] uint64_t word_at(const unsigned char* bytes) noexcept {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

// A bijection of the lane for every word, and of the word for every lane.
uint64_t absorb(uint64_t lane, uint64_t word) noexcept {
  return std::rotl(lane ^ word, 31) * kGolden;
}

}  // namespace

void fill_pattern(uint64_t address, uint64_t length, uint64_t seed) {
  if (address % sizeof(uint64_t) != 0 || length % sizeof(uint64_t) != 0) {
    throw std::invalid_argument("a pattern's address and length must be multiples of 8");
  }
  auto* words = reinterpret_cast<uint64_t*>(address);
  uint64_t state = mix64(seed);
  for (uint64_t i = 0; i < length / sizeof(uint64_t); ++i) words[i] = mix64(state += kGolden);
}

uint64_t page_checksum(const void* page, size_t page_size) noexcept {
  // Four lanes, because one would wait for each multiplication.
  uint64_t a = 1, b = 2, c = 3, d = 4;
  const auto* bytes = static_cast<const unsigned char*>(page);
  for (const auto* end = bytes + page_size; bytes != end; bytes += 32) {
    a = absorb(a, word_at(bytes));
    b = absorb(b, word_at(bytes + 8));
    c = absorb(c, word_at(bytes + 16));
    d = absorb(d, word_at(bytes + 24));
  }
  return mix64(mix64(mix64(mix64(a) ^ b) ^ c) ^ d);
}

std::vector<uint64_t> checksums(uint64_t address, uint64_t length, uint64_t page_size) {
  require_page_size(page_size);
  if (length % page_size != 0) {
    throw std::invalid_argument(std::to_string(length) + " bytes are not whole pages of " +
                                std::to_string(page_size));
  }
  std::vector<uint64_t> sums(length / page_size);
  const auto* page = reinterpret_cast<const unsigned char*>(address);
  for (uint64_t& sum : sums) {
    sum = page_checksum(page, page_size);
    page += page_size;
  }
  return sums;
}

void require_page_size(uint64_t page_size) {
  if (!std::has_single_bit(page_size) || page_size < 64) {
    throw std::invalid_argument("page_size " + std::to_string(page_size) +
                                " is not a power of two of at least 64");
  }
}

}  // namespace uffd::workload
