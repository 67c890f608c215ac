// The experiments with a kernel's release of a userfaultfd, and with its UNREGISTER, each in a
// process of its own with a time limit, as JSON lines. Linked statically: the laboratory's kernels
// have no other programs than this one and the reproducer that it runs, and it runs as well on a
// host.
//
// laboratory REPRODUCER [PART...]; the parts are "release" and "wake", and both are the default.
// As /init it mounts what it needs, and reboots when it is through.
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "engine/linux/child.hpp"
#include "engine/linux/error.hpp"
#include "engine/probe/lost_wake.hpp"
#include "engine/probe/release_experiment.hpp"
#include "engine/probe/release_probe.hpp"
#include "workload/close_race.hpp"
#include "workload/gup_close.hpp"

namespace uffd {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kHeldBytes = uint64_t{192} << 20;
constexpr uint64_t kFreshBytes = uint64_t{256} << 20;
constexpr uint64_t kReadBytes = uint64_t{32} << 20;  // reading copies it, too

// A flat JSON object.
class Fields {
 public:
  Fields& add(const char* name, uint64_t value) { return put(name, std::to_string(value)); }
  Fields& add(const char* name, const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) quoted += c == '"' || c == '\\' || c < ' ' ? ' ' : c;
    return put(name, quoted + "\"");
  }
  std::string text() const { return text_; }

 private:
  Fields& put(const char* name, const std::string& value) {
    text_ += (text_.empty() ? "\"" : ", \"") + std::string(name) + "\": " + value;
    return *this;
  }

  std::string text_;
};

// One that runs in its process, or another program that the process becomes.
struct Experiment {
  std::string name;
  milliseconds limit;
  std::function<Fields()> run;
  std::vector<std::string> program = {};
};

// One round to a process, so that a hang hides none of the others.
Fields release_round() {
  (void)run_release_round(kHeldBytes);  // warms up
  const ReleaseRound round = run_release_round(kHeldBytes);
  return Fields()
      .add("fault", name(round.fault))
      .add("why", round.why)
      .add("minor_faults", round.minor_faults)
      .add("fault_ns", round.fault_ns)
      .add("close_ns", round.close_ns);
}

// What pyuffd itself would find out.
Fields probe() {
  const ReleaseFinding found = probe_release();
  return Fields()
      .add("generation", std::string(found.generation ? name(*found.generation) : "unknown"))
      .add("reason", found.reason)
      .add("rounds", found.rounds)
      .add("minor_faults", found.minor_faults);
}

Fields race(bool complete, size_t threads, uint64_t pages, bool thp, milliseconds limit) {
  workload::CloseRacePlan plan;
  plan.threads = threads;
  plan.pages = pages;
  plan.complete = complete;
  plan.thp = thp;
  plan.write = thp;
  plan.closes = 50000;
  plan.limit = limit;
  const auto result = workload::race_closes(plan);
  return Fields()
      .add("closes", result.closes)
      .add("raced", result.raced)
      .add("sigbus", result.sigbus)
      .add("wrong", result.wrong)
      .add("lost", result.lost);
}

Fields lost_wakes(Release release) {
  LostWakePlan plan;
  plan.release = release;
  plan.limit = milliseconds(3000);
  const LostWakes counted = count_lost_wakes(plan);
  return Fields().add("rounds", counted.rounds).add("lost", counted.lost);
}

// The first of two warms up: its memory is slower, and the two may miss each other.
Fields gup(workload::GupUser user, uint64_t bytes) {
  (void)workload::close_against_gup(user, bytes);
  const auto result = workload::close_against_gup(user, bytes);
  return Fields()
      .add("error", result.error != 0 ? errno_text(result.error) : std::string())
      .add("call_ns", result.call_ns)
      .add("close_ns", result.close_ns);
}

std::vector<Experiment> experiments_with_release() {
  using workload::GupUser;
  std::vector<Experiment> all;
  for (int round = 0; round < 5; ++round)
    all.push_back({"release", milliseconds(15000), release_round});
  all.push_back({"probe", milliseconds(15000), probe});
  const milliseconds race_limit(20000);
  all.push_back(
      {"complete", race_limit, [] { return race(true, 4, 2, false, milliseconds(8000)); }});
  all.push_back(
      {"missing", race_limit, [] { return race(false, 4, 16, false, milliseconds(2000)); }});
  all.push_back(
      {"missing-thp", race_limit, [] { return race(false, 2, 4, true, milliseconds(2000)); }});
  const milliseconds gup_limit(6000);
  all.push_back({"gup-populate", gup_limit, [] { return gup(GupUser::populate, kFreshBytes); }});
  all.push_back({"gup-mlock", gup_limit, [] { return gup(GupUser::mlock, kFreshBytes); }});
  all.push_back(
      {"gup-readv", gup_limit, [] { return gup(GupUser::process_vm_readv, kReadBytes); }});
  return all;
}

std::vector<Experiment> experiments_with_wakes(const std::string& reproducer) {
  std::vector<Experiment> all;
  const milliseconds limit(10000), reproducer_limit(60000);
  all.push_back({"unregister", limit, [] { return lost_wakes(Release::unregister); }});
  all.push_back(
      {"unregister-and-wake", limit, [] { return lost_wakes(Release::unregister_and_wake); }});
  all.push_back({"close", limit, [] { return lost_wakes(Release::close); }});
  for (const char* way : {"missing", "missing-wp", "wp", "minor"})
    all.push_back({std::string("left-") + way, reproducer_limit, nullptr, {reproducer, way}});
  return all;
}

std::vector<Experiment> experiments(const std::string& reproducer,
                                    const std::vector<std::string>& parts) {
  const auto asked_for = [&](const char* part) {
    return parts.empty() || std::find(parts.begin(), parts.end(), part) != parts.end();
  };
  std::vector<Experiment> all;
  if (asked_for("release")) all = experiments_with_release();
  if (asked_for("wake"))
    for (const Experiment& experiment : experiments_with_wakes(reproducer))
      all.push_back(experiment);
  return all;
}

const char* name(ChildOutcome::End end) {
  switch (end) {
    case ChildOutcome::End::exited:
      return "exited";
    case ChildOutcome::End::signalled:
      return "signalled";
    case ChildOutcome::End::timed_out:
      break;
  }
  return "hung";
}

void become(const std::vector<std::string>& program, int output) {
  std::vector<char*> arguments;
  for (const std::string& argument : program)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  ::execv(arguments[0], arguments.data());
  throw SystemError(errno, "exec of " + program[0]);
}

// The fields of a program's object of JSON; empty where it has printed none.
std::string inner(const std::string& output) {
  const size_t first = output.find('{'), last = output.rfind('}');
  if (first == std::string::npos || last == std::string::npos) return {};
  return output.substr(first + 1, last - first - 1);
}

void perform(const Experiment& experiment) {
  const ChildOutcome outcome = run_in_child(experiment.limit, [&](int fd) {
    if (!experiment.program.empty()) become(experiment.program, fd);
    const std::string text = experiment.run().text();
    (void)!::write(fd, text.data(), text.size());
  });
  const bool other = !experiment.program.empty();
  const std::string found = other ? inner(outcome.output) : outcome.output;
  // A program exits with 1 where it has found somebody asleep.
  const bool complete =
      outcome.end == ChildOutcome::End::exited && outcome.code <= (other ? 1 : 0) && !found.empty();
  Fields how;
  how.add("experiment", experiment.name).add("end", std::string(name(outcome.end)));
  if (!complete && !outcome.output.empty()) how.add("message", outcome.output);
  if (outcome.end == ChildOutcome::End::signalled)
    how.add("signal", static_cast<uint64_t>(outcome.code));
  std::printf("{%s%s%s}\n", how.text().c_str(), complete ? ", " : "",
              complete ? found.c_str() : "");
  std::fflush(stdout);
}

void prepare_kernel() {
  for (const char* folder : {"/proc", "/sys", "/dev"}) ::mkdir(folder, 0755);
  ::mount("proc", "/proc", "proc", 0, nullptr);
  ::mount("sysfs", "/sys", "sysfs", 0, nullptr);
  ::mount("devtmpfs", "/dev", "devtmpfs", 0, nullptr);
}

}  // namespace
}  // namespace uffd

int main(int argc, char** argv) {
  const bool init = ::getpid() == 1;
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (arguments.empty()) {
    std::fprintf(stderr, "usage: laboratory REPRODUCER [PART...]\n");
    return 2;
  }
  const std::vector<std::string> parts(arguments.begin() + 1, arguments.end());
  if (init) uffd::prepare_kernel();
  std::printf("{\"kernel\": \"%s\", \"cpus\": %ld}\n", uffd::kernel_release().c_str(),
              ::sysconf(_SC_NPROCESSORS_ONLN));
  for (const auto& experiment : uffd::experiments(arguments[0], parts)) uffd::perform(experiment);
  std::printf("{\"complete\": true}\n");
  std::fflush(stdout);
  if (init) ::reboot(RB_AUTOBOOT);  // the emulator ends instead
  return 0;
}
