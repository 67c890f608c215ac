// The causes of poisoned pages, as Python names them.
#pragma once

#include "engine/target/cause.hpp"

namespace uffd::bindings {

inline const char* cause_name(Cause cause) {
  switch (cause) {
    case Cause::unreadable:
      return "unreadable";
    case Cause::unanswered:
      return "unanswered";
    case Cause::late:
      return "late";
    case Cause::asked:
      return "asked";
    case Cause::unserved:
      return "unserved";
    case Cause::removed:
      return "removed";
    case Cause::outside:
      return "outside";
    case Cause::alias:
      return "alias";
  }
  return "";
}

}  // namespace uffd::bindings
