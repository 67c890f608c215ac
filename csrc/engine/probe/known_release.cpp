#include "engine/probe/known_release.hpp"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/linux/fd.hpp"

namespace uffd {
namespace {

// Differs from boot to boot: a kernel's version alone does not say what it was built from.
std::string boot() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id.empty() ? "" : id + " " + kernel_release();
}

// The file's bytes, if nobody but this user or root can have written them: they decide how targets
// are let go.
std::string trusted_text(const std::string& path) {
  const Fd file(sys::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat status{};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return "";
  const bool ours = status.st_uid == ::geteuid() || status.st_uid == 0;
  if (!ours || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) return "";
  char text[512];
  const ssize_t length = sys::read(file.get(), text, sizeof text);
  return length > 0 ? std::string(text, static_cast<size_t>(length)) : "";
}

// "boot\ngeneration rounds minor_faults\nunregister_rounds lost\n", the last line only if they were
// counted.
std::optional<KnownRelease> remembered() {
  const std::string now = boot();
  std::istringstream text(trusted_text(release_file()));
  std::string then, generation;
  if (now.empty() || !std::getline(text, then) || then != now) return std::nullopt;
  KnownRelease known{};
  text >> generation >> known.rounds >> known.minor_faults;
  const auto named = generation_named(generation);
  if (!text || !named) return std::nullopt;
  known.generation = *named;
  known.by_experiment = true;
  LostWakes counted;
  if (text >> counted.rounds >> counted.lost) known.lost_wakes = counted;
  return known;
}

// Never half a file at the place where others read.
bool replace(const std::string& path, const std::string& text) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  std::string fresh = path + ".XXXXXX";
  const Fd file(::mkostemp(fresh.data(), O_CLOEXEC));
  if (!file) return false;
  const bool written =
      ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (written && ::rename(fresh.c_str(), path.c_str()) == 0) return true;
  ::unlink(fresh.c_str());
  return false;
}

}  // namespace

std::string release_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder;
  if (cache && cache[0] == '/') {
    folder = cache;
  } else if (home && home[0] == '/') {
    folder = std::string(home) + "/.cache";
  }
  return folder.empty() ? "" : folder + "/pyuffd/release-generation";
}

KnownRelease known_release() {
  if (const auto known = remembered()) return *known;
  KnownRelease known{};
  known.generation = release_generation(kernel_release());
  return known;
}

bool remember_release(const ReleaseFinding& finding, const std::optional<LostWakes>& lost_wakes) {
  const std::string path = release_file(), now = boot();
  if (!finding.generation || path.empty() || now.empty()) return false;
  std::ostringstream text;
  text << now << '\n'
       << name(*finding.generation) << ' ' << finding.rounds << ' ' << finding.minor_faults << '\n';
  if (lost_wakes) text << lost_wakes->rounds << ' ' << lost_wakes->lost << '\n';
  return replace(path, text.str());
}

}  // namespace uffd
