#include "engine/serve/adoption/adoption_watcher.hpp"

#include <spawn.h>
#include <sys/wait.h>

#include "engine/linux/pidfd.hpp"

extern char** environ;

namespace uffd {
namespace {

// In the child the four descriptors have the numbers 3 to 6.
constexpr int kFirstNumber = 3;

class SpawnActions {
 public:
  SpawnActions() { posix_spawn_file_actions_init(&actions_); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
  ~SpawnActions() { posix_spawn_file_actions_destroy(&actions_); }

  void duplicate(int from, int to) { posix_spawn_file_actions_adddup2(&actions_, from, to); }
  const posix_spawn_file_actions_t* get() const noexcept { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

// Above the numbers that the child gets, so that no descriptor is overwritten before it is
// duplicated.
Fd out_of_the_way(int fd) {
  return Fd(or_throw(::fcntl(fd, F_DUPFD_CLOEXEC, 16), "fcntl(F_DUPFD_CLOEXEC)"));
}

pid_t spawn(const std::vector<std::string>& command, const SpawnActions& actions) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A session of its own: an interrupt from the manager's terminal does not reach the watcher.
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  pid_t child = 0;
  const int error =
      ::posix_spawn(&child, arguments[0], actions.get(), &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    throw SystemError(error,
                      "placement 'adopt' cannot start its watcher, " + command[0] +
                          ", which gives threads their affinity back if this process is killed: "
                          "give placement 'auto'");
  }
  return child;
}

}  // namespace

AdoptionWatcher::AdoptionWatcher(const std::vector<std::string>& command,
                                 const AdoptionLedger& ledger) {
  const Fd process = open_pidfd(::getpid());
  if (!process) throw SystemError(errno, "cannot open a pidfd of this process");
  SpawnActions actions;
  std::vector<std::string> whole = command;
  std::vector<Fd> held;
  for (const int fd : {process.get(), ledger.fd(), done_.get(), ready_.get()}) {
    const int number = kFirstNumber + static_cast<int>(held.size());
    held.push_back(out_of_the_way(fd));
    actions.duplicate(held.back().get(), number);
    whole.push_back(std::to_string(number));
  }
  child_ = spawn(whole, actions);
  const Fd child = open_pidfd(child_);
  pollfd waited[] = {{ready_.get(), POLLIN, 0}, {child.get(), POLLIN, 0}};
  while (::poll(waited, 2, -1) < 0) {
  }
  if (waited[0].revents & POLLIN) return;
  ::waitpid(child_, nullptr, 0);
  throw SystemError(ECHILD, "the watcher of placement 'adopt', " + command[0] +
                                ", ended at once: give placement 'auto'");
}

AdoptionWatcher::~AdoptionWatcher() {
  done_.signal();
  while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void watch_adoptions(Fd process, Fd ledger, Fd done, Fd ready) {
  AdoptionLedger all(std::move(ledger));
  ::eventfd_write(ready.get(), 1);
  pollfd waited[] = {{process.get(), POLLIN, 0}, {done.get(), POLLIN, 0}};
  while (::poll(waited, 2, -1) <= 0) {
  }
  all.give_back_all();
}

}  // namespace uffd
