// Contents that can be made again from a seed, and checksums that tell pages apart. Pure functions
// of memory: any number of threads may call them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace uffd::workload {

// Writes the pattern of the seed: no two of its 8-byte words are equal, so no two pages are.
// address and length: multiples of 8, or std::invalid_argument.
void fill_pattern(uint64_t address, uint64_t length, uint64_t seed);

// Of the bytes and their order; pages that differ in one 8-byte word never collide. page_size: a
// multiple of 32; page: any alignment.
uint64_t page_checksum(const void* page, size_t page_size) noexcept;

// One for each page of [address, address + length). Throws std::invalid_argument unless that is
// whole pages.
std::vector<uint64_t> checksums(uint64_t address, uint64_t length, uint64_t page_size);

// Throws std::invalid_argument unless page_size is a power of two and at least 64.
void require_page_size(uint64_t page_size);

}  // namespace uffd::workload
