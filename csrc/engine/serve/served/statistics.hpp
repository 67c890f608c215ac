// What serving a target took until now, summed over all threads. Any thread may call.
#pragma once

#include "engine/serve/served/served_target.hpp"

namespace uffd {

Stats collect_stats(const ServedTarget& served);
uint64_t count(const ServedTarget& served, Count which);

}  // namespace uffd
