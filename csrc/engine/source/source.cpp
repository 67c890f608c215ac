#include "engine/source/source.hpp"

#include <stdexcept>
#include <string>

#include "engine/linux/error.hpp"

namespace uffd {

void Source::check_range(uint64_t offset, uint64_t wanted) const {
  if (offset > length() || wanted > length() - offset) {
    throw std::out_of_range("bytes " + range_text(offset, wanted) +
                            " lie behind the end of a source of " + std::to_string(length()) +
                            " bytes");
  }
}

}  // namespace uffd
