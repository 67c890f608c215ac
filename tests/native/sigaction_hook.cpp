#include "sigaction_hook.hpp"

#include <atomic>

extern "C" int __real_sigaction(int number, const struct sigaction* set, struct sigaction* before);

namespace uffd::test {
namespace {

std::atomic<const SigactionHook*> current{nullptr};

}  // namespace

int kernel_sigaction(int number, const struct sigaction* set, struct sigaction* before) {
  return __real_sigaction(number, set, before);
}

HookedSigaction::HookedSigaction(SigactionHook hook) {
  current = new SigactionHook(std::move(hook));
}

HookedSigaction::~HookedSigaction() {
  delete current.exchange(nullptr);
}

}  // namespace uffd::test

extern "C" int __wrap_sigaction(int number, const struct sigaction* set, struct sigaction* before);

extern "C" int __wrap_sigaction(int number, const struct sigaction* set, struct sigaction* before) {
  const int result = __real_sigaction(number, set, before);
  if (const uffd::test::SigactionHook* hook = uffd::test::current) (*hook)(number, set);
  return result;
}
