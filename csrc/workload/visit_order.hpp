// Which pages each thread visits, and in which order. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace uffd::workload {

enum class Partition {
  split,        // thread i has the i-th contiguous part
  interleaved,  // thread i has the pages i, i + threads, i + 2 threads, ...
  all,          // every thread has every page
};

enum class Order {
  sequential,
  random,  // in "all", in another order for each thread
  stride,  // 0, stride, 2 stride, ..., then 1, 1 + stride, ... of the thread's pages
};

struct VisitPlan {
  Partition partition = Partition::split;
  Order order = Order::sequential;
  size_t stride = 1;  // at least 1; of Order::stride
  uint64_t seed = 0;  // of Order::random
};

// The pages of one thread out of [0, pages), each once. Unless all threads have all pages, there
// are at least as many pages as threads.
std::vector<size_t> visit_order(const VisitPlan& plan, size_t pages, size_t thread, size_t threads);

}  // namespace uffd::workload
