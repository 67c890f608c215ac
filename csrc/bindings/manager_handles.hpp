// What Python holds of managers and targets. Used with the GIL.
#pragma once

#include <unistd.h>

#include <memory>

#include "bindings/dropped.hpp"
#include "bindings/userfaultfd_handle.hpp"
#include "engine/serve/manager/manager.hpp"

namespace uffd::bindings {

// Many regions of another process, made at once: a Python object for each would take microseconds.
struct Regions {
  std::vector<Region> all;
};

// An object whose threads live in the process that made it. A fork child must not run its
// destructor.
template <typename Held>
class OwnedByProcess {
 public:
  explicit OwnedByProcess(std::shared_ptr<Held> held)
      : held_(std::move(held)), owner_(::getpid()) {}
  OwnedByProcess(const OwnedByProcess&) = delete;
  OwnedByProcess& operator=(const OwnedByProcess&) = delete;
  ~OwnedByProcess() { release(); }

  void release() {
    auto held = std::move(held_);
    if (::getpid() != owner_) {
      new std::shared_ptr<Held>(std::move(held));  // left to the child's exit
    } else if (held) {
      without_gil([&] { held.reset(); });
      release_dropped();
    }
  }

  const std::shared_ptr<Held>& get() const {
    if (::getpid() != owner_) {
      throw std::runtime_error(
          "this object belongs to the process that this one was forked from: make a new one here");
    }
    return held_;
  }
  bool is_owner() const { return ::getpid() == owner_; }
  // Empty after release().
  const std::shared_ptr<Held>& held() const { return held_; }
  Held& operator*() const { return *get(); }
  Held* operator->() const { return get().get(); }

 private:
  std::shared_ptr<Held> held_;
  pid_t owner_;
};

// Keeps an object during a call that releases the GIL: its handle may let go of it meanwhile, and
// to end a manager takes long.
template <typename Held>
class Kept {
 public:
  explicit Kept(std::shared_ptr<Held> held) : held_(std::move(held)) {}
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    without_gil([&] { held_.reset(); });
  }
  Held* operator->() const { return held_.get(); }
  const std::shared_ptr<Held>& get() const { return held_; }

 private:
  std::shared_ptr<Held> held_;
};

struct ManagerHandle {
  OwnedByProcess<Manager> manager;
};

// Keeps its manager's threads alive as long as it may be served. Without a manager its target has
// ended, or was stopped.
struct TargetHandle {
  OwnedByProcess<Manager> manager;
  OwnedByProcess<ServedTarget> served;

  bool served_no_more() const {
    manager.get();  // refuses a fork child of ours
    return !manager.held();
  }
};

// Memory that nobody can touch any more when this is gone: its target is let go with it, whatever
// is missing, and then it is unmapped. It is made by the call that begins to serve it, so that no
// signal handler of Python's comes between.
class ManagedMemory {
 public:
  ManagedMemory(const std::shared_ptr<Manager>& manager, std::shared_ptr<ServedTarget> served,
                py::object mapping)
      : mapping_(std::move(mapping)), manager_(manager), served_(std::move(served)) {}
  ManagedMemory(const ManagedMemory&) = delete;
  ManagedMemory& operator=(const ManagedMemory&) = delete;
  ~ManagedMemory() {
    if (manager_.is_owner()) without_gil([&] { manager_->discard(*served_); });
  }

  std::unique_ptr<TargetHandle> target() const {
    return std::unique_ptr<TargetHandle>(
        new TargetHandle{OwnedByProcess(manager_.get()), OwnedByProcess(served_.get())});
  }

 private:
  py::object mapping_;  // first: it goes last
  OwnedByProcess<Manager> manager_;
  OwnedByProcess<ServedTarget> served_;
};

}  // namespace uffd::bindings
