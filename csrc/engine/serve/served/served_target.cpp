#include "engine/serve/served/served_target.hpp"

#include <algorithm>
#include <new>
#include <utility>

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
void add_to(ServedTarget& parent, std::shared_ptr<ServedTarget> child) {
  const std::lock_guard lock(parent.mutex);
  auto& all = parent.children;
  all.push_back(std::move(child));
  if (all.size() <= kEndedChildrenKept) return;
  const auto ended = std::find_if(all.begin(), all.end(), [](const auto& other) {
    return other->life.stage() == Stage::ended;
  });
  if (ended != all.end()) all.erase(ended);
}

TargetSettings settings_in(const LedgerSettings& noted) {
  TargetSettings settings;
  settings.ending = static_cast<Ending>(noted.ending);
  if (noted.fault_around > 0) settings.fault_around = noted.fault_around;
  settings.verify = noted.verify != 0;
  settings.collapse = noted.collapse != 0;
  settings.after_death = static_cast<AfterDeath>(noted.after_death);
  settings.trusts_pagemap = noted.trusts_pagemap != 0;
  return settings;
}

std::shared_ptr<ServedTarget> copy_books(ServedTarget& parent, Target::Noted noted) {
  return std::make_shared<ServedTarget>(ServedTarget::OfFork(), parent, noted);
}

// Where there is no descriptor for its ledger, the child is served without a guard.
std::shared_ptr<ServedTarget> copy_books(ServedTarget& parent) {
  if (!parent.target.ledger()) return copy_books(parent, Target::Noted::no);
  try {
    return copy_books(parent, Target::Noted::in_ledger);
  } catch (const SystemError& error) {
    if (error.code().value() == ENOMEM) throw std::bad_alloc();
    journal().write({News::unguarded, parent.target.id()});
    return copy_books(parent, Target::Noted::no);
  }
}

// Memory is short: the child has no ledger either.
std::shared_ptr<ServedTarget> without_books(ServedTarget& parent) {
  auto child = std::make_shared<ServedTarget>(RegionTable(), kUnknownPid, parent.settings);
  child->living = true;
  child->mailbox = parent.mailbox;
  child->target.lose_track();
  if (parent.target.ledger()) journal().write({News::unguarded, parent.target.id()});
  return child;
}

}  // namespace

ServedTarget::ServedTarget(RegionTable regions, pid_t pid, const TargetSettings& chosen,
                           Target::Noted noted)
    : settings(chosen), target(std::move(regions), pid, noted) {
  note_settings();
}

void ServedTarget::note_settings() noexcept {
  if (!target.ledger()) return;
  target.ledger()->header().owner = guard_link().owner();
  target.ledger()->header().settings = {
      .ending = static_cast<uint32_t>(settings.ending),
      .fault_around = settings.fault_around.value_or(0),
      .verify = settings.verify,
      .collapse = settings.collapse,
      .beyond = static_cast<uint32_t>(target.beyond()),
      .after_death = static_cast<uint32_t>(settings.after_death),
      .poison_unnamed = !living && target.beyond() != Beyond::zero,
      .trusts_pagemap = settings.trusts_pagemap,
  };
}

ServedTarget::ServedTarget(std::unique_ptr<Ledger> ledger, Restored restored)
    : settings(settings_in(ledger->header().settings)),
      target(std::move(ledger), std::move(restored)) {
  target.set_beyond(static_cast<Beyond>(target.ledger()->header().settings.beyond));
}

ServedTarget::ServedTarget(OfFork, ServedTarget& forker, Target::Noted noted)
    : settings(forker.settings),
      target(forker.target, Userfaultfd(), noted),
      living(true),
      mailbox(forker.mailbox),
      local_memory(local_memory_of(forker)) {
  note_settings();
}

void ServedTarget::tell_if_complete() {
  if (complete() || gone.load(std::memory_order_relaxed)) mailbox->post(*this, command::look);
}

void ServedTarget::tell_gone() {
  gone.store(true, std::memory_order_relaxed);
  mailbox->post(*this, command::look);
}

bool ServedTarget::keep_guarded() noexcept {
  if (!target.ledger() || guarded_by == guard_link().generation()) return true;
  guarded_by =
      guard_link().keep(target.id(), {target.uffd().fd(), target.ledger()->fd(), completion.fd()},
                        settings.after_death);
  return guarded_by != 0;
}

void ServedTarget::let_guard_go() noexcept {
  if (target.ledger() && std::exchange(guarded_by, 0) != 0) guard_link().let_go(target.id());
}

Lease::~Lease() {
  if (held_ && served_.leases.give_back(turn_)) served_.mailbox->post(served_, command::look);
}

std::shared_ptr<ServedTarget> bear(ServedTarget& parent, Userfaultfd& uffd, Books books) {
  const auto child = books == Books::copied ? copy_books(parent) : without_books(parent);
  child->handler_cpu = parent.handler_cpu;
  child->vigil_notes = parent.vigil_notes;
  add_child(parent, child);
  child->target.take(std::move(uffd));
  child->keep_guarded();
  journal().write({News::born, child->target.id(), parent.target.id()});
  return child;
}

void add_child(ServedTarget& parent, const std::shared_ptr<ServedTarget>& child) {
  child->parent = parent.weak_from_this();
  add_to(parent, child);
}

std::vector<std::shared_ptr<ServedTarget>> children(const ServedTarget& parent) {
  const std::lock_guard lock(parent.mutex);
  return {parent.children.begin(), parent.children.end()};
}

}  // namespace uffd
