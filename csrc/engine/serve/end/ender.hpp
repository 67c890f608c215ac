// The thread that ends targets. Endings, and the look at smaps after them, take milliseconds: never
// on a handler. A target that a handler has passed on is the ender's alone.
#pragma once

#include <thread>

#include "engine/serve/end/end_queue.hpp"
#include "engine/serve/fill/fetch_pool.hpp"

namespace uffd {

class Ender {
 public:
  // Throws SystemError where the thread cannot be started.
  Ender(EndQueue& ends, FetchPool& fetchers);
  ~Ender();  // what was pushed before is done first

 private:
  void run();
  void end_in_time(ServedTarget& served);
  void end(ServedTarget& served);
  // Without a given choice, chooses.
  void let_go_of(ServedTarget& served, std::optional<Choice> given, bool look);
  std::optional<bool> verify(const Target& target);

  EndQueue& ends_;
  FetchPool& fetchers_;
  std::thread thread_;
};

}  // namespace uffd
