// What a kernel does when a fault meets a released userfaultfd.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace uffd {

// sigbus: before Linux 4.14. nopage: since commit 656710a60e36 (4.14), where a user of GUP (KVM,
// mlock, O_DIRECT) in the target livelocks with an early close. retry: since commit fe4cdc2c4e24
// (6.15, and stable backports of April 2025).
enum class ReleaseGeneration { sigbus, nopage, retry };

// By the version table alone: an unlisted backport counts as nopage, which costs time and nothing
// else; a version that cannot be read counts as sigbus.
ReleaseGeneration release_generation(const std::string& kernel_release) noexcept;

const char* name(ReleaseGeneration generation) noexcept;
std::optional<ReleaseGeneration> generation_named(std::string_view name) noexcept;

// As uname -r prints it.
std::string kernel_release();

}  // namespace uffd
