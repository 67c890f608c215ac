// splitmix64 (Steele, Lea, Flood 2014): the same numbers on every machine and standard library.
#pragma once

#include <cstdint>

namespace uffd::workload {

inline constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

// A bijection of 64 bits whose every output bit depends on every input bit.
constexpr uint64_t mix64(uint64_t value) noexcept {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit constexpr Random(uint64_t seed) noexcept : state_(seed) {}

  constexpr uint64_t next() noexcept { return mix64(state_ += kGolden); }
  constexpr uint64_t below(uint64_t limit) noexcept { return next() % limit; }

 private:
  uint64_t state_;
};

}  // namespace uffd::workload
