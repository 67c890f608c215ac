// The fill of one target, or the poisoning of what it misses: where it stands, and its next step.
//
// Several fillers work on a job at once. Cutting it into chunks is under the job's own lock; what
// the pool notes of the job is under the pool's lock.
#pragma once

#include <memory>
#include <mutex>

#include "engine/serve/fault/installer.hpp"
#include "engine/serve/fill/chunk_size.hpp"
#include "engine/serve/fill/fetch_pool.hpp"
#include "engine/serve/served/patience.hpp"

namespace uffd {

class FillJob {
 public:
  enum class Kind { install, poison };
  enum class Step {
    done,     // a chunk was settled
    again,    // a chunk must be tried again, later
    none,     // no chunk is left to hand out, until a fetch ends
    dropped,  // the target has no leases any more, or is gone
  };

  FillJob(std::shared_ptr<ServedTarget> served, Kind kind, FetchPool& fetchers)
      : served_(std::move(served)), fetchers_(fetchers), kind_(kind) {}

  ServedTarget& served() const noexcept { return *served_; }

  // Begins again at the first page.
  void restart(Kind kind);
  // Whether the target is filled only while no fault waits, and faults came since this was asked
  // last: then the next chunk is for later (not_before). The pool's, under the pool's lock.
  bool gives_way() noexcept;
  // Settles the next chunk, under a lease.
  Step step();

  // The pool's, under the pool's lock.
  unsigned in_flight = 0;   // steps that fillers are at
  bool exhausted = false;   // no chunk was left
  uint64_t not_before = 0;  // by CLOCK_MONOTONIC, after a step met EAGAIN, or a fault came
  Patience patience;

 private:
  struct Chunk {
    uint64_t first = 0, end = 0;  // pages
    SourcePtr source;
    uint64_t offset = 0, length = 0;  // in the source, in bytes
    bool poisons = false;
  };

  // The next chunk; pages of late sources are passed to the fetchers instead. Empty where there is
  // no chunk, and then without says what step() returns.
  std::optional<Chunk> cut(Step& without);
  uint64_t most_pages(const Region& region, uint64_t first) const;
  Outcome settle(const Chunk& chunk, Counters& counted) const;
  void learn(const Chunk& chunk, Outcome outcome, uint64_t nanoseconds);

  const std::shared_ptr<ServedTarget> served_;
  FetchPool& fetchers_;
  std::mutex cutting_;
  Kind kind_;
  uint64_t faults_seen_ = 0;
  uint64_t cursor_ = 0;  // the pages before this one are handed out
  ChunkSize size_;
};

}  // namespace uffd
