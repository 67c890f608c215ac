#include "engine/probe/release_probe.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include "engine/linux/child.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/probe/release_experiment.hpp"

namespace uffd {
namespace {

constexpr unsigned kAgreeing = 3;
constexpr std::chrono::milliseconds kLimit{5000};
constexpr std::chrono::milliseconds kEnough{4000};  // no round is begun after this
constexpr std::chrono::milliseconds kSlack{2000};   // for the child's end, once its time is over

// How much memory the experiment populates: the longer mmap_lock is held, the surer the threads
// meet.
constexpr uint64_t kLeastHeld = uint64_t{64} << 20;
constexpr uint64_t kMostHeld = uint64_t{192} << 20;

double seconds_since(uint64_t began_ns) {
  return static_cast<double>(sys::monotonic_ns() - began_ns) * 1e-9;
}

void write_all(int fd, const std::string& text) {
  (void)!::write(fd, text.data(), text.size());
}

// The rounds of one probe, and what they say together.
class Tally {
 public:
  void add(const ReleaseRound& round) {
    if (round.fault == ReleaseRound::Fault::undecided) {
      why_ = round.why;
      return;
    }
    ++counts_[static_cast<size_t>(round.fault)];
    most_faults_ = std::max(most_faults_, round.minor_faults);
  }

  unsigned decided() const { return *std::max_element(counts_.begin(), counts_.end()); }
  bool sure() const { return decided() >= kAgreeing || kinds() > 1; }

  // "generation rounds minor_faults", or "unknown" and the reason.
  std::string line() const {
    if (kinds() > 1) return "unknown the rounds contradict each other: " + each();
    if (decided() < kAgreeing) return "unknown " + (why_.empty() ? "too few rounds in time" : why_);
    std::ostringstream text;
    text << name(generation()) << ' ' << decided() << ' ' << most_faults_;
    return text.str();
  }

 private:
  using Fault = ReleaseRound::Fault;

  unsigned count(Fault fault) const { return counts_[static_cast<size_t>(fault)]; }
  unsigned kinds() const {
    return (count(Fault::sigbus) > 0) + (count(Fault::spun) > 0) + (count(Fault::slept) > 0);
  }
  ReleaseGeneration generation() const {
    if (count(Fault::sigbus) > 0) return ReleaseGeneration::sigbus;
    return count(Fault::spun) > 0 ? ReleaseGeneration::nopage : ReleaseGeneration::retry;
  }
  std::string each() const {
    std::ostringstream text;
    text << count(Fault::sigbus) << " SIGBUS, " << count(Fault::spun) << " spun, "
         << count(Fault::slept) << " slept";
    return text.str();
  }

  std::array<unsigned, 4> counts_{};
  uint64_t most_faults_ = 0;
  std::string why_;
};

void run_rounds(int fd) {
  const uint64_t began = sys::monotonic_ns();
  uint64_t held = kLeastHeld;
  Tally tally;
  (void)run_release_round(held);  // warms up: its populate is slower, and the order may differ
  while (!tally.sure() && seconds_since(began) < std::chrono::duration<double>(kEnough).count()) {
    const ReleaseRound round = run_release_round(held);
    if (round.fault == ReleaseRound::Fault::undecided) held = std::min(2 * held, kMostHeld);
    tally.add(round);
    write_all(fd, tally.line() + '\n');  // the last one counts, also if the next round hangs
  }
}

std::string last_line(const std::string& text) {
  const size_t end = text.rfind('\n');
  if (end == std::string::npos) return "";
  const size_t begin = end == 0 ? std::string::npos : text.rfind('\n', end - 1);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin + 1));
}

ReleaseFinding read_finding(const std::string& line) {
  ReleaseFinding finding;
  std::istringstream words(line);
  std::string first;
  words >> first;
  finding.generation = generation_named(first);
  if (finding.generation) {
    words >> finding.rounds >> finding.minor_faults;
  } else {
    std::getline(words >> std::ws, finding.reason);
  }
  return finding;
}

}  // namespace

ReleaseFinding probe_release() {
  const uint64_t began = sys::monotonic_ns();
  const ChildOutcome child = run_in_child(kLimit, run_rounds);
  ReleaseFinding finding;
  const bool well = child.end == ChildOutcome::End::exited && child.code == 0;
  finding = read_finding(last_line(child.output));
  if (!finding.generation && !well) {
    finding.reason = "the experiment was not finished: " + text(child, kLimit);
    if (!child.output.empty()) finding.reason += ": " + child.output;
  }
  finding.seconds = seconds_since(began);
  return finding;
}

std::optional<LostWakes> probe_lost_wakes(std::chrono::milliseconds limit) {
  const ChildOutcome child = run_in_child(limit + kSlack, [limit](int fd) {
    LostWakePlan plan;
    plan.rounds = UINT64_MAX;
    plan.limit = limit;
    const LostWakes found = count_lost_wakes(plan);
    write_all(fd, std::to_string(found.rounds) + " " + std::to_string(found.lost));
  });
  LostWakes found;
  if (child.code != 0 || !(std::istringstream(child.output) >> found.rounds >> found.lost))
    return std::nullopt;
  return found;
}

}  // namespace uffd
