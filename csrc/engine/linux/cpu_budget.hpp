// Whether CPU time that this process burns would cost somebody: files of /proc and /sys tell.
#pragma once

#include <string>

namespace uffd {

// Why this process should burn no CPU time to be faster: a CPU quota of its cgroup, from which its
// target may live, too; a battery; a governor that saves power; one CPU. Empty where nothing speaks
// against it. root: below which /proc and /sys are, for tests.
std::string why_to_spare_cpu(const std::string& root = "");

}  // namespace uffd
