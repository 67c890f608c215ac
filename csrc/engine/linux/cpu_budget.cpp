#include "engine/linux/cpu_budget.hpp"

#include <dirent.h>
#include <sys/sysinfo.h>

#include <fstream>
#include <memory>
#include <vector>

namespace uffd {
namespace {

// The first word of a file; empty where it cannot be read.
std::string first_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

std::vector<std::string> entries(const std::string& folder) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), ::closedir);
  while (const dirent* entry = open ? ::readdir(open.get()) : nullptr) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

// The cgroup, one of those above it, or its namespace's root, has a quota in this file.
bool any_above(const std::string& mount, std::string path, const std::string& file,
               const std::string& none) {
  for (;;) {
    const std::string quota = first_word(mount + path + "/" + file);
    if (!quota.empty() && quota != none) return true;
    if (path.empty()) return false;
    path.erase(path.find_last_of('/'));
  }
}

// One line of /proc/self/cgroup: "hierarchy:controllers:/path" (cgroups(7)).
bool has_quota(const std::string& root, const std::string& line) {
  const size_t first = line.find(':'), second = line.find(':', first + 1);
  if (second == std::string::npos) return false;
  const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
  std::string path = line.substr(second + 1);
  if (path == "/") path.clear();
  if (controllers == ",,") return any_above(root + "/sys/fs/cgroup", path, "cpu.max", "max");
  return controllers.find(",cpu,") != std::string::npos &&
         any_above(root + "/sys/fs/cgroup/cpu", path, "cpu.cfs_quota_us", "-1");
}

bool has_quota(const std::string& root) {
  std::ifstream cgroups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(cgroups, line);) {
    if (has_quota(root, line)) return true;
  }
  return false;
}

bool on_battery(const std::string& root) {
  const std::string supplies = root + "/sys/class/power_supply/";
  bool unplugged = false;
  for (const std::string& name : entries(supplies)) {
    const std::string type = first_word(supplies + name + "/type");
    if (type != "Mains" && type != "USB") continue;
    const std::string online = first_word(supplies + name + "/online");
    if (online == "1") return false;
    unplugged = unplugged || (online == "0" && type == "Mains");
  }
  return unplugged;
}

// Under intel_pstate and amd-pstate-epp "powersave" is the usual governor, and the preference
// tells.
bool saves_power(const std::string& root) {
  const std::string policy = root + "/sys/devices/system/cpu/cpufreq/policy0/";
  const std::string preference = first_word(policy + "energy_performance_preference");
  if (!preference.empty()) return preference == "power";
  return first_word(policy + "scaling_governor") == "powersave";
}

}  // namespace

std::string why_to_spare_cpu(const std::string& root) {
  if (root.empty() && ::get_nprocs() == 1) return "there is one CPU";
  if (has_quota(root)) return "the cgroup has a CPU quota";
  if (on_battery(root)) return "the machine runs on its battery";
  if (saves_power(root)) return "the CPU governor saves power";
  return {};
}

}  // namespace uffd
