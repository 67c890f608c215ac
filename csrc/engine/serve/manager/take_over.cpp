// Manager::take_over(): how targets of a manager that has died are served on.
#include <map>

#include "engine/linux/pidfd.hpp"
#include "engine/serve/event/events.hpp"
#include "engine/serve/manager/found_pages.hpp"
#include "engine/serve/manager/manager.hpp"
#include "engine/serve/manager/undo.hpp"
#include "engine/serve/served/journal.hpp"
#include "engine/serve/served/local_memory.hpp"
#include "engine/target/registration.hpp"

namespace uffd {
namespace {

Fd duplicate(const Fd& fd) {
  return Fd(or_throw(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3), "fcntl(F_DUPFD_CLOEXEC)"));
}

}  // namespace

// All ledgers are understood before the first target is served.
std::vector<std::shared_ptr<ServedTarget>> Manager::take_over(std::vector<Heirloom>& heirlooms,
                                                              std::span<const SourcePtr> sources) {
  struct Understood {
    std::unique_ptr<Ledger> ledger;
    Restored restored;
    uint64_t number, parent;  // of the manager that has died: here the targets have other ones
  };
  std::vector<Understood> understood;
  for (Heirloom& heirloom : heirlooms) {
    auto ledger = std::make_unique<Ledger>(duplicate(heirloom.ledger));
    Restored restored = restore(*ledger, sources);
    check_modes(heirloom.uffd, restored.regions);
    const LedgerHeader& header = ledger->header();
    const uint64_t number = header.target, parent = header.parent;
    understood.push_back({std::move(ledger), std::move(restored), number, parent});
  }
  for (const SourcePtr& source : sources) fetchers_.make_ready_for(*source);
  guard_link().start(guard_, guards_);
  const std::lock_guard lock(adding_);
  std::map<uint64_t, std::shared_ptr<ServedTarget>> by_number;
  std::vector<std::shared_ptr<ServedTarget>> all;
  for (size_t i = 0; i < heirlooms.size(); ++i) {
    all.push_back(
        serve_on(heirlooms[i], std::move(understood[i].ledger), std::move(understood[i].restored)));
    by_number.emplace(understood[i].number, all.back());
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (const auto parent = by_number.find(understood[i].parent); parent != by_number.end())
      add_child(*parent->second, all[i]);
  }
  return all;
}

std::shared_ptr<ServedTarget> Manager::serve_on(Heirloom& heirloom, std::unique_ptr<Ledger> ledger,
                                                Restored restored) {
  Userfaultfd& uffd = heirloom.uffd;
  auto served = std::make_shared<ServedTarget>(std::move(ledger), std::move(restored));
  Target& target = served->target;
  served->living = (uffd.features() & kEventFeatures) != 0;
  if (target.pid() > 0) served->process = open_pidfd(target.pid());
  if (heirloom.completion) served->completion = Completion(heirloom.completion.get());
  Handler& handler = least_busy_handler();
  place(*served, handler, {.pid = target.pid(), .received = true});
  served->local_memory = std::make_shared<LocalMemory>(target.regions(), false);
  if (const unsigned lost = apply_left(*served); lost > 0)
    journal().write({News::orphan, target.id(), lost});
  note_present_pages(*served);
  Taking taking(uffd, *served);
  Guarding guarding(*served);
  wake_all(target);
  handler.add(served);
  taking.keep();
  guarding.keep();
  // Last: until now the guard of the manager that has died is the one that acts.
  target.ledger()->header().owner = guard_link().owner();
  return served;
}

}  // namespace uffd
