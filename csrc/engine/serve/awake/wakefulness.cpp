#include "engine/serve/awake/wakefulness.hpp"

#include <sys/sysinfo.h>

#include "engine/linux/cpu_budget.hpp"
#include "engine/linux/dma_latency.hpp"

namespace uffd {
namespace {

// A request to the device keeps every idle CPU of the machine polling, and interrupts all of them.
constexpr int kMostPolling = 8;

}  // namespace

Wakefulness::Wakefulness() {
  if (const std::string reason = why_to_spare_cpu(); !reason.empty()) {
    notes_->text = "no CPU is kept awake: " + reason;
    return;
  }
  const bool few = ::get_nprocs() <= kMostPolling;
  if (few) request_ = ForkClosedFd([] { return open_dma_latency(); });
  if (request_) {
    request_dma_latency(request_.get(), kAnyLatency);
    notes_->text = "idle CPUs are kept awake in bursts by /dev/cpu_dma_latency";
    return;
  }
  try {
    warm_ = std::make_unique<WarmThread>(
        std::shared_ptr<std::atomic<uint64_t>>(notes_, &notes_->warm_cpu_ns));
    notes_->text = std::string("a warm thread keeps a CPU awake in bursts: ") +
                   (few ? "/dev/cpu_dma_latency is not writable"
                        : "/dev/cpu_dma_latency would keep all CPUs awake");
  } catch (const SystemError& error) {
    notes_->text = std::string("no CPU is kept awake: ") + error.what();
  }
}

void Wakefulness::begin(const FaultingThread& thread) noexcept {
  if (bursts_.fetch_add(1) > 0) return;
  if (request_) request_dma_latency(request_.get(), kNoLatency);
  if (warm_) warm_->begin(thread);
}

void Wakefulness::follow(const FaultingThread& thread) noexcept {
  if (warm_) warm_->follow(thread);
}

void Wakefulness::end() noexcept {
  if (bursts_.fetch_sub(1) > 1) return;
  if (request_) request_dma_latency(request_.get(), kAnyLatency);
  if (warm_) warm_->end();
}

}  // namespace uffd
