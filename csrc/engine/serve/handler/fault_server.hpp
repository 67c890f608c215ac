// One turn of a target: reads its messages, has its events applied and its faults resolved, and
// keeps what must be tried again in its charge. Used by the handler's thread alone.
#pragma once

#include <array>
#include <span>

#include "engine/serve/event/events.hpp"
#include "engine/serve/fault/resolver.hpp"
#include "engine/serve/fill/fill_pool.hpp"
#include "engine/serve/handler/charge.hpp"

namespace uffd {

class FaultServer {
 public:
  FaultServer(FillPool& fillers, FetchPool& fetchers, OnFork on_fork)
      : fillers_(fillers), fetchers_(fetchers), on_fork_(std::move(on_fork)) {}

  // The buffer that serve() takes messages from; serve_alone() of the handler reads into it itself.
  std::span<uffd_msg> messages() noexcept { return messages_; }

  // Reads up to most messages and applies the events among them: their number, or -errno as
  // read_living().
  ssize_t read(Charge& charge, size_t most);

  // By CLOCK_MONOTONIC: when messages were read, and when their faults were resolved, so that the
  // caller need not ask for the time again.
  struct Times {
    uint64_t read_at, done_at;
  };
  // Resolves the faults among the first count messages.
  Times serve(Charge& charge, size_t count);
  // Resolves some of the faults that are pending.
  void try_again(Charge& charge);

 private:
  // Returns when the last fault was resolved.
  uint64_t resolve(Charge& charge, std::span<const FaultKey> keys, uint64_t read_at);
  bool fetch(ServedTarget& served, const Resolver::Resolution& resolution) noexcept;
  static uint64_t conclude(Charge& charge, Outcome outcome, std::span<const FaultKey> keys,
                           uint64_t read_at) noexcept;

  FillPool& fillers_;
  FetchPool& fetchers_;
  const OnFork on_fork_;
  std::array<uffd_msg, Batch::kMost> messages_;
};

}  // namespace uffd
