#include "workload/touches.hpp"

#include <algorithm>
#include <utility>

namespace uffd::workload {
namespace {

void append_up_to_limit(std::vector<uint64_t>& into, const std::vector<uint64_t>& from) {
  const size_t room = std::min(from.size(), kWrongAddresses - into.size());
  into.insert(into.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(room));
}

}  // namespace

Touches::Touches(uint64_t origin, const std::vector<Shift>& shifts, std::vector<Notes> notes)
    : origin_ns(origin), log(std::move(notes.front().log)) {
  for (const Shift& shift : shifts) {
    elapsed_ns = std::max(elapsed_ns, shift.end_ns - origin_ns);
    thread_elapsed_ns.push_back(shift.end_ns - shift.start_ns);
    minor_faults += shift.minor_faults;
    major_faults += shift.major_faults;
    cpu_ns += shift.cpu_ns;
  }
  for (size_t i = 1; i < notes.size(); ++i) log.add(notes[i].log);
  for (const Notes& thread : notes) {
    touched += thread.touched;
    wrong_pages += thread.wrong_pages;
    append_up_to_limit(wrong_addresses, thread.wrong_addresses);
  }
}

}  // namespace uffd::workload
