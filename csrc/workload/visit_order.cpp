#include "workload/visit_order.hpp"

#include <numeric>
#include <utility>

#include "workload/random.hpp"

namespace uffd::workload {
namespace {

std::vector<size_t> part_of_thread(Partition partition, size_t pages, size_t thread,
                                   size_t threads) {
  size_t first = 0, end = pages, step = 1;
  if (partition == Partition::split) {
    first = pages * thread / threads;
    end = pages * (thread + 1) / threads;
  } else if (partition == Partition::interleaved) {
    first = thread;
    step = threads;
  }
  std::vector<size_t> part;
  part.reserve((end - first) / step + 1);
  for (size_t page = first; page < end; page += step) part.push_back(page);
  return part;
}

void shuffle(std::vector<size_t>& part, uint64_t seed) {
  Random random(seed);
  for (size_t left = part.size(); left > 1; --left) {
    std::swap(part[left - 1], part[random.below(left)]);
  }
}

std::vector<size_t> strided(const std::vector<size_t>& part, size_t stride) {
  std::vector<size_t> order;
  order.reserve(part.size());
  for (size_t first = 0; order.size() < part.size(); ++first) {
    for (size_t i = first; i < part.size(); i += stride) order.push_back(part[i]);
  }
  return order;
}

}  // namespace

std::vector<size_t> visit_order(const VisitPlan& plan, size_t pages, size_t thread,
                                size_t threads) {
  auto part = part_of_thread(plan.partition, pages, thread, threads);
  if (plan.order == Order::random) shuffle(part, mix64(plan.seed) + thread);
  if (plan.order == Order::stride) return strided(part, plan.stride);
  return part;
}

}  // namespace uffd::workload
