#include "bindings/cause_name.hpp"
#include "bindings/common.hpp"
#include "engine/serve/served/journal.hpp"

namespace uffd::bindings {
namespace {

const char* name(News news) {
  switch (news) {
    case News::born:
      return "born";
    case News::ended:
      return "ended";
    case News::poisoned:
      return "poisoned";
    case News::stuck:
      return "stuck";
    case News::unguarded:
      return "unguarded";
    case News::orphan:
      return "orphan";
    case News::guarded:
      return "guarded";
    case News::lost_wakes:
      return "lost-wakes";
  }
  return "";
}

py::object read(std::optional<double> seconds) {
  std::chrono::nanoseconds limit = Journal::kForLong;
  if (seconds) limit = std::chrono::nanoseconds(static_cast<int64_t>(*seconds * 1e9));
  const auto entry = without_gil([limit] { return journal().read(limit); });
  if (!entry) return py::none();
  const py::object report = entry->report ? py::cast(*entry->report) : py::none();
  return py::make_tuple(name(entry->news), entry->target, entry->count, entry->range.start,
                        entry->range.length, cause_name(entry->cause), report);
}

}  // namespace

void bind_journal(py::module_& m) {
  m.def("journal_open", [] { journal().open(); });
  m.def("journal_shut", [] { journal().shut(); });
  m.def("journal_read", &read, py::arg("seconds"));
  m.def("journal_dropped", [] { return journal().take_dropped(); });
}

}  // namespace uffd::bindings
