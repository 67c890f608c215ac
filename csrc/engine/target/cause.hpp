// Why pages were poisoned.
#pragma once

#include <exception>
#include <utility>

namespace uffd {

enum class Cause {
  unreadable,  // the source's memory or file cannot be read there
  unanswered,  // the source failed, or gave too few bytes
  late,        // the source did not answer within its deadline
  asked,       // the user closed the target so
  unserved,    // no descriptor was left to serve this fork child with
  removed,     // the target removed them from shared memory, and nothing tells what they read as
  outside,     // the owner registered memory that no region describes
  alias,       // another place of a page that was poisoned
};

constexpr bool is_of_source(Cause cause) noexcept {
  return cause == Cause::unreadable || cause == Cause::unanswered || cause == Cause::late;
}

// A cause, and what a late source threw.
struct Blame {
  Blame(Cause why, std::exception_ptr thrown = {}) noexcept
      : cause(why), error(std::move(thrown)) {}

  Cause cause;
  std::exception_ptr error;
};

}  // namespace uffd
