// The bytes of a source in a memfd that any number of targets map: filled once, page by page, each
// by the thread that needs it first; installed by CONTINUE, so that all targets share one copy.
//
// A page is mapped into a target only when it is filled, whatever the page cache has there before.
// Any thread may call any function. The memfd lives as long as somebody maps it.
//
// A fork child goes on by itself with the memfd that it shares: a page that a thread was filling is
// free to claim again, and is filled with the same bytes; a background fill begins when it is asked
// for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/linux/at_fork.hpp"
#include "engine/linux/fd.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/page_set.hpp"
#include "engine/source/source.hpp"

namespace uffd {

class SharedImage final : public Source {
 public:
  // kind: memfd, or hugetlb, whose pages are all reserved here. The length is rounded up to whole
  // pages, whose rest is zeros. Throws SystemError, UnsupportedError, or std::invalid_argument for
  // a source that is itself an image, or empty.
  SharedImage(SourcePtr source, MemoryKind kind);
  ~SharedImage() override;  // waits for the step that the background fill is at

  int fd() const noexcept { return memfd_.get(); }
  uint64_t page_size() const noexcept { return page_size_; }
  uint64_t missing_pages() const noexcept { return missing_.load(std::memory_order_acquire); }

  uint64_t length() const noexcept override { return length_; }
  bool late() const noexcept override { return source_->late(); }
  bool calls_user() const noexcept override { return source_->calls_user(); }
  uint64_t best_read() const noexcept override { return source_->best_read(); }
  bool best_by_address() const noexcept override { return source_->best_by_address(); }
  std::optional<std::chrono::nanoseconds> deadline() const noexcept override {
    return source_->deadline();
  }
  Retry retry() const noexcept override { return source_->retry(); }
  void failed(const std::exception_ptr& error) const override { source_->failed(error); }
  void prepare(uint64_t offset, uint64_t length) const noexcept override;
  Range memory() const noexcept override { return source_->memory(); }
  void read(uint64_t offset, std::span<std::byte> into) const override;
  const SharedImage* image() const noexcept override { return this; }

  // Fills pages from offset on, up to length bytes, from a source that answers at once. How many
  // bytes are filled there now; -EAGAIN where another thread is still filling the first page;
  // -EFAULT where its source cannot supply it; -ENOMEM where memory for it is short.
  int64_t fill(uint64_t offset, uint64_t length) const noexcept;
  // Whether all these pages are filled.
  bool has(uint64_t offset, uint64_t length) const noexcept;

  // The background fill: begins where none is under way.
  void start_filling();
  enum class Filled { all, not_yet, not_all };  // not_all: what is missing cannot be supplied
  Filled wait_filled(std::chrono::milliseconds timeout) const;

 private:
  // Fills pages [first, end), which this call claimed, or only the first few. 0 or the -errno of
  // fill(), as write().
  int write_from_source(uint64_t first, uint64_t end) const noexcept;
  int write(uint64_t offset, const std::byte* bytes, uint64_t length) const noexcept;
  // The pages from first on that nobody had claimed; they are this caller's to fill or to give up.
  uint64_t claim(uint64_t first, uint64_t end) const noexcept;
  void settle(uint64_t first, uint64_t end, bool filled) const noexcept;
  void read_late(uint64_t first, uint64_t end) const;
  // False where it threw.
  bool try_read_late(uint64_t first, uint64_t end) const;
  void fill_all();
  void begin_again_in_child() noexcept;

  SourcePtr source_;
  MemoryKind kind_;
  uint64_t page_size_;
  uint64_t length_;
  Fd memfd_;
  Mapping mapping_;  // of hugetlb, which has no write(2)
  mutable PageSet claimed_, filled_;
  mutable std::atomic<uint64_t> missing_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;  // of what is below, and of late pages that were filled
  std::thread filler_;
  bool filling_ = false;
  bool stopping_ = false;

  AtFork at_fork_{AtFork::Level::image, this, {.in_child = [](void* self) noexcept {
                    static_cast<SharedImage*>(self)->begin_again_in_child();
                  }}};
};

}  // namespace uffd
