#include "engine/serve/fill/fetch_queue.hpp"

#include <algorithm>
#include <iterator>

namespace uffd {
namespace {

constexpr uint64_t kShortOfMemory = 16'000'000;

std::optional<uint64_t> deadline_of(const Source& source) noexcept {
  const auto deadline = source.deadline();
  if (!deadline) return std::nullopt;
  return static_cast<uint64_t>(deadline->count());
}

}  // namespace

FetchQueue::RequestPtr FetchQueue::narrow(const ServedTarget& served, uint64_t page,
                                          uint64_t& first, uint64_t& end) const {
  const auto is_of = [&](const RequestPtr& other) { return other->served.get() == &served; };
  const auto probe = std::make_shared<FetchRequest>();
  probe->served =
      std::shared_ptr<ServedTarget>(std::shared_ptr<void>(), const_cast<ServedTarget*>(&served));
  probe->first = page;
  const auto next = asked_.upper_bound(probe);
  if (next != asked_.begin() && is_of(*std::prev(next))) {
    const RequestPtr& before = *std::prev(next);
    if (page < before->end) return before;
    first = std::max(first, before->end);
  }
  if (next != asked_.end() && is_of(*next)) end = std::min(end, (*next)->first);
  return nullptr;
}

void FetchQueue::push(const RequestPtr& request, uint64_t now) {
  const Source* const source = request->source.get();
  const LaneKey key{source, request->served.get()};
  const auto deadline = deadline_of(*source);
  const bool runs = deadline && is_silent(source);
  request->due = due_.emplace(runs ? now + *deadline : FetchRequest::kNever, request);
  try {
    Reads& reads = reads_[source];
    asked_.insert(request);
    Lane& lane = lanes_[key];
    (request->of_fault ? lane.faults : lane.fills).push_back(request);
    ++reads.requests;
  } catch (...) {
    due_.erase(request->due);
    asked_.erase(request);
    if (const auto lane = lanes_.find(key); lane != lanes_.end() && lane->second.is_empty())
      lanes_.erase(lane);
    throw;
  }
  request->served->outstanding_fetches.fetch_add(1);
}

bool FetchQueue::is_silent(const Source* source) const noexcept {
  const auto reads = reads_.find(source);
  return reads != reads_.end() && reads->second.overdue >= reads_of_source_;
}

bool FetchQueue::may_begin(const Lanes::value_type& lane) const noexcept {
  const Reads& reads = reads_.find(lane.first.first)->second;
  return reads.running < reads_of_source_ && reads.overdue < reads_of_source_;
}

bool FetchQueue::has_work() const {
  return std::any_of(lanes_.begin(), lanes_.end(),
                     [this](const auto& lane) { return may_begin(lane); });
}

bool FetchQueue::has_work_of_idle_source() const {
  return std::any_of(lanes_.begin(), lanes_.end(), [this](const auto& lane) {
    return may_begin(lane) && reads_.find(lane.first.first)->second.running == 0;
  });
}

// Lanes have turns in their order; requests of faults, of any lane, go before those of fills.
FetchQueue::RequestPtr FetchQueue::begin(uint64_t now) noexcept {
  auto chosen = lanes_.end();
  const auto start = lanes_.upper_bound(last_);
  const auto look = [&](auto from, auto to) {
    for (auto lane = from; lane != to; ++lane) {
      if (!may_begin(*lane)) continue;
      if (chosen == lanes_.end()) chosen = lane;
      if (lane->second.faults.empty()) continue;
      chosen = lane;
      return true;
    }
    return false;
  };
  if (!look(start, lanes_.end())) look(lanes_.begin(), start);
  if (chosen == lanes_.end()) return nullptr;
  last_ = chosen->first;
  Lane& lane = chosen->second;
  auto& queue = lane.faults.empty() ? lane.fills : lane.faults;
  const RequestPtr request = queue.front();
  queue.pop_front();
  if (lane.is_empty()) lanes_.erase(chosen);
  ++reads_.find(request->source.get())->second.running;
  const auto deadline = deadline_of(*request->source);
  if (deadline && request->failures == 0) set_due(request, now + *deadline);
  return request;
}

void FetchQueue::finish(const RequestPtr& request) noexcept {
  Reads& reads = reads_.find(request->source.get())->second;
  --(request->overdue ? reads.overdue : reads.running);
  request->finished = true;
  remove(request);
}

void FetchQueue::rest(const RequestPtr& request, uint64_t until) {
  resting_.emplace(until, request);
  --reads_.find(request->source.get())->second.running;
}

void FetchQueue::wake_rested(uint64_t now) noexcept {
  while (!resting_.empty() && resting_.begin()->first <= now) {
    const RequestPtr request = resting_.begin()->second;
    try {
      Lane& lane = lanes_[{request->source.get(), request->served.get()}];
      (request->of_fault ? lane.faults : lane.fills).push_back(request);
      resting_.erase(resting_.begin());
    } catch (const std::bad_alloc&) {
      auto entry = resting_.extract(resting_.begin());
      entry.key() = now + kShortOfMemory;
      resting_.insert(std::move(entry));
      std::erase_if(lanes_, [](const auto& lane) { return lane.second.is_empty(); });
    }
  }
}

void FetchQueue::remove(const RequestPtr& request) noexcept {
  take_off_books(request);
  due_.erase(request->due);
  const auto reads = reads_.find(request->source.get());
  if (--reads->second.requests == 0) reads_.erase(reads);
}

uint64_t FetchQueue::next_due() const noexcept {
  const uint64_t due = due_.empty() ? FetchRequest::kNever : due_.begin()->first;
  return resting_.empty() ? due : std::min(due, resting_.begin()->first);
}

FetchQueue::RequestPtr FetchQueue::take_due(uint64_t now) noexcept {
  if (due_.empty() || due_.begin()->first > now) return nullptr;
  const RequestPtr request = due_.begin()->second;
  set_due(request, FetchRequest::kNever);
  return request;
}

void FetchQueue::expired(const RequestPtr& request, uint64_t now) noexcept {
  if (request->finished) return;
  if (drop_queued(request) || drop_resting(request)) return remove(request);
  take_off_books(request);
  if (request->overdue) return;
  request->overdue = true;
  Reads& reads = reads_.find(request->source.get())->second;
  --reads.running;
  if (++reads.overdue == reads_of_source_) start_deadlines(*request->source, now);
}

bool FetchQueue::drop_queued(const RequestPtr& request) noexcept {
  const auto found = lanes_.find({request->source.get(), request->served.get()});
  if (found == lanes_.end()) return false;
  Lane& lane = found->second;
  const bool dropped = std::erase(lane.faults, request) + std::erase(lane.fills, request) > 0;
  if (lane.is_empty()) lanes_.erase(found);
  return dropped;
}

bool FetchQueue::drop_resting(const RequestPtr& request) noexcept {
  return std::erase_if(resting_, [&](const auto& entry) { return entry.second == request; }) > 0;
}

void FetchQueue::start_deadlines(const Source& source, uint64_t now) noexcept {
  const uint64_t due = now + deadline_of(source).value_or(0);
  for (const auto& [key, lane] : lanes_) {
    if (key.first != &source) continue;
    for (const auto* queue : {&lane.faults, &lane.fills}) {
      for (const RequestPtr& request : *queue) set_due(request, due);
    }
  }
}

void FetchQueue::postpone(const RequestPtr& request, uint64_t until) noexcept {
  if (!request->finished) set_due(request, until);
}

void FetchQueue::forget(const ServedTarget& served) noexcept {
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    if (lane->first.second != &served) {
      ++lane;
      continue;
    }
    for (const auto* queue : {&lane->second.faults, &lane->second.fills}) {
      for (const RequestPtr& request : *queue) remove(request);
    }
    lane = lanes_.erase(lane);
  }
  std::erase_if(resting_, [&](const auto& entry) {
    if (entry.second->served.get() != &served) return false;
    remove(entry.second);
    return true;
  });
}

// Moves the entry that the request has: to allocate one could fail.
void FetchQueue::set_due(const RequestPtr& request, uint64_t due) noexcept {
  auto entry = due_.extract(request->due);
  entry.key() = due;
  request->due = due_.insert(std::move(entry));
}

void FetchQueue::take_off_books(const RequestPtr& request) noexcept {
  if (request->forgotten) return;
  request->forgotten = true;
  asked_.erase(request);
  request->served->outstanding_fetches.fetch_sub(1);
}

}  // namespace uffd
