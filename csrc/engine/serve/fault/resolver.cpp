#include "engine/serve/fault/resolver.hpp"

#include <mutex>

namespace uffd {

Resolver::Resolution Resolver::resolve(std::span<const FaultKey> keys) {
  const FaultKey key = keys[0];
  const Region* const region = target_.regions().find(key.address());
  if (key.is_write()) return {1, resolve_write(region, key.address())};
  if (!region) return resolve_beyond(key);
  const uint64_t page = region->page_at(key.address());
  if (!target_.residency().resident(page)) return resolve_missing(*region, page, keys);
  // The target dropped the page. A page that is dropped in an image's memory has the image's bytes
  // again, which may not have been read yet: the page that was there was the target's own.
  if (region->image() && !key.is_minor() && region->late(page, page + 1))
    return {1, Outcome::done, PageRun{page, page + 1}, page};
  const bool from_cache = key.is_minor() || region->image();
  return {1, from_cache ? installer_.install(*region, page, page + 1)
                        : installer_.install_dropped(*region, page)};
}

Resolver::Resolution Resolver::resolve_missing(const Region& region, uint64_t page,
                                               std::span<const FaultKey> keys) {
  const bool filling = served_.filling.load(std::memory_order_relaxed);
  const Window::Run run = window_.around(target_.residency(), region, keys, filling);
  if (region.late(run.pages.first, run.pages.end)) return {1, Outcome::done, run.pages, page};
  const uint64_t bytes = (run.pages.end - run.pages.first) * region.page_size;
  const uint64_t began = Window::learns_from(bytes) ? sys::monotonic_ns() : 0;
  const Outcome outcome = installer_.install(region, run.pages.first, run.pages.end);
  if (began != 0 && outcome == Outcome::done)
    window_.learn_speed(bytes, sys::monotonic_ns() - began);
  return {run.covered, outcome};
}

Resolver::Resolution Resolver::resolve_beyond(FaultKey key) {
  const uint64_t address = key.address();
  // What lies there is known once the owner has registered the memory.
  if (!target_.registered()) return {1, Outcome::again};
  if (served_.living) {
    if (parent_ && parent_->is_changing()) return {1, Outcome::again};
    {
      const std::lock_guard alone(served_.gate);
      if (target_.catch_up(address)) return {1, Outcome::again};
    }
    if (const auto page = target_.aliased_page(address)) {
      const Region* const region = target_.regions().find_page(*page);
      const bool is_missing = !key.is_minor() && !target_.residency().resident(*page);
      if (region && region->late() && is_missing)
        return {1, Outcome::done, PageRun{*page, *page + 1}, *page};
      return {1, installer_.install_alias(address, *page, key.is_minor())};
    }
  }
  return {1, installer_.install_stray(address)};
}

// The write is noted before the page may be written: a reader of written() misses nothing.
Outcome Resolver::resolve_write(const Region* region, uint64_t address) noexcept {
  const auto page =
      region ? std::optional(region->page_at(address)) : target_.aliased_page(address);
  if (page && target_.written()) target_.written()->add(*page, 1);
  return installer_.unprotect({address, region ? region->page_size : sys::page_size()});
}

}  // namespace uffd
