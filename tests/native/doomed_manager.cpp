#include "doomed_manager.hpp"

#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>

#include <cstdlib>

#include "engine/linux/blank.hpp"
#include "ioctl_hook.hpp"
#include "workload/pattern.hpp"

extern char** environ;

namespace uffd::test {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int kUffdNumber = 30, kWordsNumber = 31;

// Of the manager's process, which runs no test.
void demand(bool holds) {
  if (!holds) std::abort();
}

void say(char word) {
  demand(::write(kWordsNumber, &word, 1) == 1);
}

[[noreturn]] void park() {
  say('p');
  for (;;) ::pause();
}

// Of a userfaultfd that no fork of this process closes.
Fd registered(const Memory& memory) {
  Fd fd(or_throw(sys::userfaultfd(O_CLOEXEC | O_NONBLOCK), "userfaultfd"));
  uffdio_api api{};
  api.api = UFFD_API;
  REQUIRE(kernel_ioctl(fd.get(), UFFDIO_API, &api) == 0);
  uffdio_register request{};
  request.range = {memory.memory.address(), memory.memory.length()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  REQUIRE(kernel_ioctl(fd.get(), UFFDIO_REGISTER, &request) == 0);
  return fd;
}

IoctlHook park_at(Moment moment) {
  return IoctlHook([moment, copies = 0](int fd, unsigned long request,
                                        void* argument) mutable -> std::optional<int> {
    if (request == UFFDIO_UNREGISTER && moment == Moment::in_ending) park();
    if (request != UFFDIO_COPY) return std::nullopt;
    // A COPY that installs nothing asks the kernel something.
    if (static_cast<uffdio_copy*>(argument)->src == unreadable_address()) return std::nullopt;
    ++copies;
    if (moment == Moment::before_install || (moment == Moment::in_fill && copies > 2)) park();
    if (moment != Moment::after_install) return std::nullopt;
    demand(kernel_ioctl(fd, request, argument) == 0);
    park();
  });
}

}  // namespace

int manage(const std::vector<std::string>& arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto number = [&](size_t i) { return std::stoull(arguments.at(i)); };
  const auto moment = static_cast<Moment>(number(0));
  const Range range{number(1), number(2)};
  const Memory twin(range.length / page(), kSeed);
  const IoctlHook hook = park_at(moment);
  Manager manager({.guard = {PYUFFD_GUARD}});
  Userfaultfd uffd = Userfaultfd::adopt(Fd(kUffdNumber));
  const uint64_t half = range.length / 2;
  std::vector<Region> regions;
  regions.emplace_back(Range{range.start, half}, twin.source(), 0, page());
  regions.emplace_back(Range{range.start + half, half}, twin.source(), half, page());
  TargetOptions options;
  options.pid = ::getppid();
  options.received = true;
  options.fault_around = 1;
  options.guard = AfterDeath::poison;
  if (moment == Moment::in_ending) options.ending = Ending::unregister;
  const auto served = manager.add(uffd, std::move(regions), options);
  say('s');
  if (moment == Moment::in_fill || moment == Moment::in_ending) manager.fill(*served);
  for (;;) ::pause();
}

DoomedManager::DoomedManager(const Memory& memory, Moment moment) {
  int ends[2];
  or_throw(::pipe2(ends, O_CLOEXEC), "pipe2");
  words_ = Fd(ends[0]);
  const Fd theirs(ends[1]), uffd = registered(memory);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, uffd.get(), kUffdNumber);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), kWordsNumber);
  std::vector<std::string> words{"uffd_tests", "manage", std::to_string(static_cast<int>(moment)),
                                 std::to_string(memory.memory.address()),
                                 std::to_string(memory.memory.length())};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int error =
      ::posix_spawn(&child_, "/proc/self/exe", &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  REQUIRE(error == 0);
}

DoomedManager::~DoomedManager() {
  kill();
}

char DoomedManager::heard() {
  char word = 0;
  const ssize_t length = ::read(words_.get(), &word, 1);
  return length == 1 ? word : '\0';
}

void DoomedManager::await_serving() {
  REQUIRE(heard() == 's');
}

void DoomedManager::await_parked() {
  REQUIRE(heard() == 'p');
}

void DoomedManager::kill() {
  if (child_ == 0) return;
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  child_ = 0;
}

}  // namespace uffd::test
