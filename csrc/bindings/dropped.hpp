// What sources hold of Python, and how it is released: with the GIL, for which a thread of the
// engine never waits.
#pragma once

#include <memory>

namespace uffd::bindings {

// One thing that is held. Made with its place in the list of what was dropped, so that to drop it
// takes no memory.
class Droppable {
 public:
  virtual ~Droppable() = default;
  virtual void release() = 0;  // with the GIL

 private:
  friend class DroppedList;

  Droppable* next_ = nullptr;
};

// The deleter of a shared pointer to what is held: any thread. With the GIL it is released at once,
// else by the main thread at its next opportunity, or by the next release_dropped(). Where the
// interpreter has ended already it is left.
void drop(Droppable* held) noexcept;

// Releases all that was dropped. With the GIL.
void release_dropped() noexcept;

}  // namespace uffd::bindings
