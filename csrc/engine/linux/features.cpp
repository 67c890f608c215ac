#include "engine/linux/features.hpp"

#include <array>

#include "engine/linux/uapi.hpp"

namespace uffd {
namespace {

struct KnownFeature {
  uint64_t bit;
  const char* name;
  const char* since;
};

// By age.
constexpr std::array<KnownFeature, 17> kFeatures{{
    {UFFD_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP", "Linux 5.7"},
    {UFFD_FEATURE_EVENT_FORK, "EVENT_FORK", "Linux 4.11"},
    {UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP", "Linux 4.11"},
    {UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE", "Linux 4.11"},
    {UFFD_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS", "Linux 4.11"},
    {UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM", "Linux 4.11"},
    {UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP", "Linux 4.11"},
    {UFFD_FEATURE_SIGBUS, "SIGBUS", "Linux 4.14"},
    {UFFD_FEATURE_THREAD_ID, "THREAD_ID", "Linux 4.14"},
    {UFFD_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS", "Linux 5.13"},
    {UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM", "Linux 5.14"},
    {UFFD_FEATURE_EXACT_ADDRESS, "EXACT_ADDRESS", "Linux 5.18"},
    {UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM", "Linux 5.19"},
    {UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED", "Linux 6.4"},
    {UFFD_FEATURE_POISON, "POISON", "Linux 6.6"},
    {UFFD_FEATURE_WP_ASYNC, "WP_ASYNC", "Linux 6.7"},
    {UFFD_FEATURE_MOVE, "MOVE", "Linux 6.8"},
}};

}  // namespace

std::string feature_names(uint64_t features) {
  std::string names;
  const auto append = [&names](const std::string& name) {
    if (!names.empty()) names += ", ";
    names += name;
  };
  for (const auto& feature : kFeatures) {
    if (features & feature.bit) append(feature.name);
    features &= ~feature.bit;
  }
  if (features) append("unknown bits " + std::to_string(features));
  return names.empty() ? "none" : names;
}

const char* first_kernel_with(uint64_t features) noexcept {
  const char* kernel = nullptr;
  for (const auto& known : kFeatures) {
    if (!(features & known.bit)) continue;
    kernel = known.since;
    features &= ~known.bit;
  }
  return features == 0 ? kernel : nullptr;
}

}  // namespace uffd
