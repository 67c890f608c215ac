// The thread that ends targets. Endings, and the look at smaps after them, take milliseconds: never
// on a handler.
#pragma once

#include <thread>

#include "engine/serve/end_queue.hpp"
#include "engine/serve/fill_pool.hpp"
#include "engine/serve/handler.hpp"

namespace uffd {

class Ender {
 public:
  Ender(EndQueue& ends, FillPool& fillers, FetchPool& fetchers);
  ~Ender();  // what was asked before is done first

 private:
  void run();
  void obey(ServedTarget& served, EndRequest request);
  void settled(ServedTarget& served);
  void poison_missing(ServedTarget& served);
  Outcome poison_all(ServedTarget& served);
  void drain(ServedTarget& served);
  void stop(ServedTarget& served);
  void end(ServedTarget& served);
  void let_go_of(ServedTarget& served, Choice choice, bool look);
  std::optional<bool> verify(const Target& target);
  static uint64_t collapse(const ServedTarget& served);
  void detach(ServedTarget& served);
  static void release_local_memory(ServedTarget& served);
  static void forget_local_memory(ServedTarget& served);
  static void publish(ServedTarget& served, Stage stage, std::optional<EndingReport> report);

  EndQueue& ends_;
  FillPool& fillers_;
  FetchPool& fetchers_;
  std::thread thread_;
};

}  // namespace uffd
