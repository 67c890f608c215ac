#include "engine/linux/affinity.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/linux/fd.hpp"

namespace uffd {
namespace {

std::string task_path(pid_t thread, const char* file) {
  return "/proc/" + std::to_string(thread) + "/" + file;
}

// The beginning of a file of /proc; empty where it cannot be read.
std::string_view read_start(const std::string& path, std::span<char> into) noexcept {
  const Fd file(sys::open(path.c_str(), O_RDONLY));
  if (!file) return {};
  const ssize_t length = sys::read(file.get(), into.data(), into.size());
  return length > 0 ? std::string_view(into.data(), static_cast<size_t>(length))
                    : std::string_view();
}

uint64_t number_at(std::string_view text) noexcept {
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// Fields of /proc/PID/stat, counted from the one behind the name (proc_pid_stat(5)).
constexpr int kStartTime = 20, kProcessor = 37;

std::optional<uint64_t> stat_number(pid_t thread, int field) noexcept {
  char buffer[1024];
  std::string_view text = read_start(task_path(thread, "stat"), buffer);
  // The name, in parentheses, may hold anything.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  text.remove_prefix(name_end + 1);
  for (int word = 0; word < field; ++word) {
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    text.remove_prefix(space + 1);
  }
  return number_at(text);
}

ino_t pid_namespace(const std::string& process) noexcept {
  struct stat found;
  return ::stat(("/proc/" + process + "/ns/pid").c_str(), &found) == 0 ? found.st_ino : 0;
}

// More than a system has processes (the largest pid_max): while a tree is walked, it changes.
constexpr size_t kMostDescendants = size_t{1} << 22;

// A file of /proc; empty where it cannot be read.
std::string read_whole(const std::string& path) {
  const Fd file(sys::open(path.c_str(), O_RDONLY));
  std::string text;
  char part[4096];
  for (ssize_t length; file && (length = sys::read(file.get(), part, sizeof part)) > 0;)
    text.append(part, static_cast<size_t>(length));
  return text;
}

std::string of_task(pid_t process, pid_t thread, const char* file) {
  return "/proc/" + std::to_string(process) + "/task/" + std::to_string(thread) + "/" + file;
}

// The last number of the line NSpid: the thread's id in the innermost namespace.
pid_t own_id_of(pid_t process, pid_t thread) {
  const std::string status = read_whole(of_task(process, thread, "status"));
  const size_t start = status.find("\nNSpid:");
  if (start == std::string::npos) return 0;
  const std::string_view line =
      std::string_view(status).substr(start + 1, status.find('\n', start + 1) - start - 1);
  return static_cast<pid_t>(number_at(line.substr(line.find_last_of(" \t") + 1)));
}

void add_children(pid_t process, std::vector<pid_t>& found) {
  for (const pid_t thread : threads_of(process)) {
    const std::string children = read_whole(of_task(process, thread, "children"));
    // Each number has a space behind it.
    for (size_t at = 0, space; (space = children.find(' ', at)) != std::string::npos;
         at = space + 1)
      found.push_back(static_cast<pid_t>(number_at(std::string_view(children).substr(at))));
  }
}

}  // namespace

std::optional<cpu_set_t> affinity_of(pid_t thread) noexcept {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(thread, sizeof mask, &mask) != 0) return std::nullopt;
  return mask;
}

int set_affinity(pid_t thread, const cpu_set_t& mask) noexcept {
  return sys::or_errno(::sched_setaffinity(thread, sizeof mask, &mask));
}

cpu_set_t only_cpu(int cpu) noexcept {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(static_cast<size_t>(cpu), &mask);
  return mask;
}

int last_cpu_of(pid_t thread) noexcept {
  const auto cpu = stat_number(thread, kProcessor);
  return cpu ? static_cast<int>(*cpu) : -1;
}

uint64_t start_ticks(pid_t thread) noexcept {
  return stat_number(thread, kStartTime).value_or(0);
}

uint64_t ticks_now() noexcept {
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const auto per_second = static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  return static_cast<uint64_t>(now.tv_sec) * per_second +
         static_cast<uint64_t>(now.tv_nsec) * per_second / 1'000'000'000;
}

std::optional<uint64_t> cpu_ns_of(pid_t thread) noexcept {
  char buffer[128];
  const std::string_view text = read_start(task_path(thread, "schedstat"), buffer);
  if (text.empty()) return std::nullopt;
  return number_at(text);
}

std::string name_of(pid_t thread) {
  char buffer[32];
  const std::string_view text = read_start(task_path(thread, "comm"), buffer);
  return std::string(text.substr(0, text.find('\n')));
}

std::vector<pid_t> threads_of(pid_t process) {
  std::vector<pid_t> threads;
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir(task_path(process, "task").c_str()),
                                                  ::closedir);
  while (const dirent* entry = tasks ? ::readdir(tasks.get()) : nullptr) {
    const uint64_t number = number_at(entry->d_name);
    if (number > 0) threads.push_back(static_cast<pid_t>(number));
  }
  return threads;
}

std::vector<pid_t> descendants_of(pid_t process) {
  std::vector<pid_t> found;
  add_children(process, found);
  // Level by level: a tree may be as deep as there are processes.
  for (size_t next = 0; next < found.size() && found.size() < kMostDescendants; ++next)
    add_children(found[next], found);
  return found;
}

pid_t thread_by_own_id(pid_t process, pid_t own_id) {
  const ino_t theirs = pid_namespace(std::to_string(process));
  if (theirs == 0 || theirs == pid_namespace("self")) {
    const std::string path = "/proc/" + std::to_string(process) + "/task/" + std::to_string(own_id);
    return ::access(path.c_str(), F_OK) == 0 ? own_id : 0;
  }
  for (const pid_t thread : threads_of(process)) {
    if (own_id_of(process, thread) == own_id) return thread;
  }
  return 0;
}

}  // namespace uffd
