// What the engine does when this process forks: the only pthread_atfork of the engine.
//
// A fork comes at any instruction of every other thread, and its child has the forking thread only.
// Each object that has a lock, or that means something else in a child, registers its hooks here.
// A hook of a lock takes the lock in prepare, so that what the lock guards is whole in the child.
#pragma once

namespace uffd {

class AtFork {
 public:
  // The order in which prepare is called; the other two hooks are called in the reverse order. A
  // thread that holds a lock of one level waits for locks of later levels only.
  enum class Level {
    guard,         // the link to the guard: it opens and closes descriptors
    descriptors,   // a thread that holds forks may call anything but the guard's link
    inline_table,  //
    local_memory,  //
    image,         //
    mappings,      //
    dropped,       // what the bindings have yet to release
    journal,       //
    holes,         // last, so first in the child: before anybody maps memory there
  };

  // The object that registered the hooks is given to each of them. A hook that is null is none. The
  // hooks of the child run in its only thread; where memory is short they must do without what they
  // allocate.
  struct Hooks {
    void (*prepare)(void* self) noexcept = nullptr;
    void (*in_parent)(void* self) noexcept = nullptr;
    void (*in_child)(void* self) noexcept = nullptr;
  };

  // The last member of an object that is whole before it, so that no hook meets half an object.
  // Making and destroying wait for a fork that is under way; the caller holds no lock that some
  // prepare takes. Throws SystemError where pthread_atfork has no memory.
  AtFork(Level level, void* self, Hooks hooks);
  AtFork(const AtFork&) = delete;
  AtFork& operator=(const AtFork&) = delete;
  ~AtFork();

 private:
  friend struct AtForkList;

  const Level level_;
  void* const self_;
  const Hooks hooks_;
  AtFork* before_ = nullptr;  // in the list, which is sorted by level
  AtFork* after_ = nullptr;
};

}  // namespace uffd
