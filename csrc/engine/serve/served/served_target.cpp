#include "engine/serve/served/served_target.hpp"

#include <algorithm>
#include <new>

#include "engine/serve/served/journal.hpp"
#include "engine/serve/served/mailbox.hpp"

namespace uffd {
namespace {

constexpr size_t kEndedChildrenKept = 256;

std::shared_ptr<LocalMemory> local_memory_of(const ServedTarget& served) {
  const std::lock_guard lock(served.mutex);
  return served.local_memory;
}

// Where there are many children, forgets the one that ended first in the list.
void add_child(ServedTarget& parent, std::shared_ptr<ServedTarget> child) {
  const std::lock_guard lock(parent.mutex);
  auto& all = parent.children;
  all.push_back(std::move(child));
  if (all.size() <= kEndedChildrenKept) return;
  const auto ended = std::find_if(all.begin(), all.end(), [](const auto& other) {
    return other->life.stage() == Stage::ended;
  });
  if (ended != all.end()) all.erase(ended);
}

}  // namespace

ServedTarget::ServedTarget(RegionTable regions, pid_t pid, const TargetSettings& chosen)
    : settings(chosen), target(std::move(regions), pid) {}

ServedTarget::ServedTarget(OfFork, const ServedTarget& forker)
    : settings(forker.settings),
      target(forker.target, Userfaultfd()),
      living(true),
      mailbox(forker.mailbox),
      local_memory(local_memory_of(forker)) {}

void ServedTarget::tell_if_complete() {
  if (complete() || gone.load(std::memory_order_relaxed)) mailbox->post(*this, command::look);
}

void ServedTarget::tell_gone() {
  gone.store(true, std::memory_order_relaxed);
  mailbox->post(*this, command::look);
}

Lease::~Lease() {
  if (held_ && served_.leases.give_back(turn_)) served_.mailbox->post(served_, command::look);
}

std::shared_ptr<ServedTarget> bear(ServedTarget& parent, Userfaultfd& uffd, Books books) {
  std::shared_ptr<ServedTarget> child;
  if (books == Books::copied) {
    child = std::make_shared<ServedTarget>(ServedTarget::OfFork(), parent);
  } else {
    child = std::make_shared<ServedTarget>(RegionTable(), kUnknownPid, parent.settings);
    child->living = true;
    child->mailbox = parent.mailbox;
    child->target.lose_track();
  }
  child->handler_cpu = parent.handler_cpu;
  child->vigil_notes = parent.vigil_notes;
  child->parent = parent.weak_from_this();
  add_child(parent, child);
  child->target.take(std::move(uffd));
  journal().write({News::born, child->target.id(), parent.target.id()});
  return child;
}

std::vector<std::shared_ptr<ServedTarget>> children(const ServedTarget& parent) {
  const std::lock_guard lock(parent.mutex);
  return {parent.children.begin(), parent.children.end()};
}

}  // namespace uffd
