#include "bindings/dropped.hpp"

#include <pybind11/pybind11.h>

#include <atomic>

#include "engine/linux/at_fork.hpp"

namespace uffd::bindings {

// Any thread adds, without a lock; who has the GIL takes out. Python keeps 32 pending calls in all,
// for everybody: there is one of ours at a time, which releases whatever is there when it runs.
class DroppedList {
 public:
  void add(Droppable* held) noexcept {
    held->next_ = first_.load(std::memory_order_relaxed);
    while (!first_.compare_exchange_weak(held->next_, held)) {
    }
    // Where others have taken all places the next one that is dropped asks again.
    if (!asked_.exchange(true) && Py_AddPendingCall(release_pending, nullptr) != 0) asked_ = false;
  }

  void release_all() noexcept {
    // First: what is added from here on asks again, unless it is seen below.
    asked_ = false;
    while (Droppable* const held = take()) {
      held->release();
      delete held;
    }
  }

 private:
  static int release_pending(void*) noexcept {
    release_dropped();
    return 0;
  }

  // Under the GIL, so that nobody else takes one, and comes back with it, meanwhile.
  Droppable* take() noexcept {
    Droppable* first = first_.load();
    while (first && !first_.compare_exchange_weak(first, first->next_)) {
    }
    return first;
  }

  std::atomic<Droppable*> first_{nullptr};
  std::atomic<bool> asked_{false};
  // A thread that was just about to ask is not in the child.
  const AtFork at_fork_{AtFork::Level::dropped, this, {.in_child = [](void* self) noexcept {
                          static_cast<DroppedList*>(self)->asked_ = false;
                        }}};
};

namespace {

// Never destroyed: threads of the engine may drop something as late as exit.
DroppedList& dropped = *new DroppedList;

}  // namespace

void drop(Droppable* held) noexcept {
  if (!Py_IsInitialized()) return;
  if (!PyGILState_Check()) return dropped.add(held);
  const pybind11::error_scope kept;
  held->release();
  delete held;
}

void release_dropped() noexcept {
  const pybind11::error_scope kept;  // an exception may be on its way: this may be a destructor
  dropped.release_all();
}

}  // namespace uffd::bindings
