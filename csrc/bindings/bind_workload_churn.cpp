#include "bindings/bind_workload.hpp"
#include "workload/churn.hpp"

namespace uffd::workload {
namespace {

std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

py::dict churn_of(uint64_t address, uint64_t pages, uint64_t pattern, uint64_t seed,
                  unsigned threads, double seconds, double between_forks, bool moves, bool drops,
                  bool unmaps) {
  const ChurnPlan plan{address,
                       pages,
                       pattern,
                       seed,
                       threads,
                       to_milliseconds(seconds),
                       to_milliseconds(between_forks),
                       moves,
                       drops,
                       unmaps};
  Churned churned;
  {
    const py::gil_scoped_release released;
    churned = churn(plan);
  }
  py::dict found;
  found["reads"] = churned.reads;
  found["writes"] = churned.writes;
  found["drops"] = churned.drops;
  found["moves"] = churned.moves;
  found["unmaps"] = churned.unmaps;
  found["forks"] = churned.forks;
  found["kills"] = churned.kills;
  found["wrong_pages"] = churned.wrong_pages;
  found["broken_children"] = churned.broken_children;
  found["first_wrong"] = churned.first_wrong;
  return found;
}

}  // namespace

void bind_churn(py::module_& m) {
  using namespace py::literals;
  m.def("churn", &churn_of, "address"_a, "pages"_a, "pattern"_a, py::kw_only(), "seed"_a = 1,
        "threads"_a = 2, "seconds"_a = 1.0, "between_forks"_a = 0.005, "moves"_a = true,
        "drops"_a = true, "unmaps"_a = true);
}

}  // namespace uffd::workload
