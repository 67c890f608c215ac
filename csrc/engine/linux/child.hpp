// Work in a process of its own, for experiments that may hang or die.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace uffd {

// How it went: the child ended by itself, by a signal, or not in time, and then it was killed.
struct ChildOutcome {
  enum class End { exited, signalled, timed_out } end = End::exited;
  int code = 0;        // the exit code, or the signal
  std::string output;  // what the child wrote, also before it was killed
};

// "exit code 3", "signal 7", "hung for 5 s": for texts.
std::string text(const ChildOutcome& outcome, std::chrono::milliseconds limit);

// Runs work(fd) in a fork child, which writes its result to fd and ends when work returns (exit
// code 0; 1 after an exception, whose text is its output). work may start threads and must not use
// locks that other threads of this process may have held at the fork. Where memory is short the
// kernel kills this child first.
ChildOutcome run_in_child(std::chrono::milliseconds limit, const std::function<void(int)>& work);

}  // namespace uffd
