// The features of userfaultfd by name, and the kernels that brought them.
#pragma once

#include <cstdint>
#include <string>

namespace uffd {

// "EVENT_FORK, POISON" of a set of feature bits; "none" of none.
std::string feature_names(uint64_t features);

// The first kernel that has all of these features, such as "Linux 6.6"; nullptr where some of them
// are unknown.
const char* first_kernel_with(uint64_t features) noexcept;

}  // namespace uffd
