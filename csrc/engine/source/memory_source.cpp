#include "engine/source/memory_source.hpp"

#include <algorithm>

namespace uffd {

void MemorySource::read(uint64_t offset, std::span<std::byte> into) const {
  check_range(offset, into.size());
  std::copy_n(bytes_.data() + offset, into.size(), into.data());
}

}  // namespace uffd
