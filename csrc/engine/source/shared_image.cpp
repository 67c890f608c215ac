#include "engine/source/shared_image.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <vector>

#include "engine/linux/blank.hpp"
#include "engine/linux/thread.hpp"

namespace uffd {
namespace {

#ifndef MFD_HUGETLB
constexpr unsigned MFD_HUGETLB = 4;
#endif

constexpr uint64_t kFillBytes = 256 * 1024;
// How often a fault looks again for a page that another thread is filling.
constexpr unsigned kPatience = 256;

uint64_t whole_pages(uint64_t length, uint64_t page_size) {
  return (length + page_size - 1) / page_size * page_size;
}

SourcePtr checked(SourcePtr source) {
  if (source->length() == 0)
    throw std::invalid_argument(
        "the source of an image is empty: give a source with at least one byte");
  if (source->length() > INT64_MAX / 2) {
    throw std::invalid_argument("the source of an image has " + std::to_string(source->length()) +
                                " bytes, which is too many: give a source that has an end");
  }
  if (source->image())
    throw std::invalid_argument("the source is a SharedImage already: use that image");
  return source;
}

// Hugetlb memory has no write(2), so process_vm_readv(2) fills it: that says EFAULT where memcpy
// would be killed.
void check_copies() {
  char from = 0, to = 0;
  const iovec source{&from, 1}, place{&to, 1};
  or_throw(::process_vm_readv(::getpid(), &place, 1, &source, 1, 0),
           "process_vm_readv of this process is refused, and hugetlb images need it: permit it, or "
           "give kind='memfd'");
}

// Whether memory, or the quota of its file system, is short.
bool is_short(int error) noexcept {
  return error == ENOMEM || error == ENOSPC || error == EDQUOT || error == EAGAIN;
}

Fd make_memfd(MemoryKind kind, uint64_t length) {
  const unsigned flags =
      MFD_CLOEXEC | MFD_ALLOW_SEALING | (kind == MemoryKind::hugetlb ? MFD_HUGETLB : 0u);
  Fd memfd(or_throw(::memfd_create("pyuffd-image", flags), "memfd_create of an image"));
  or_throw(::ftruncate(memfd.get(), static_cast<off_t>(length)), "ftruncate of an image");
  // Nobody else can open the file anew to write to it. No holder of the descriptor can take pages
  // away under the others, or seal the file before it is filled.
  or_throw(::fchmod(memfd.get(), S_IRUSR), "fchmod of an image");
  or_throw(::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
           "sealing an image");
  return memfd;
}

}  // namespace

SharedImage::SharedImage(SourcePtr source, MemoryKind kind)
    : source_(checked(std::move(source))),
      kind_(kind),
      page_size_(page_size_of(kind)),
      length_(whole_pages(source_->length(), page_size_)),
      memfd_(make_memfd(kind, length_)),
      claimed_(length_ / page_size_),
      filled_(length_ / page_size_),
      missing_(length_ / page_size_) {
  map_blanks();
  // Shared, so that the pool's pages are reserved for the file here, and never lack later.
  if (kind == MemoryKind::hugetlb) {
    mapping_ = Mapping(memfd_.get(), 0, length_, kind, true);
    check_copies();
  }
}

SharedImage::~SharedImage() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (filler_.joinable()) filler_.join();
}

// A fork does not wait for threads that fill a page or sleep for one, so the child may find the
// lock taken, waiters in the condition variable, and a thread that is not there: all are made anew,
// in place of objects that must not be destroyed.
void SharedImage::begin_again_in_child() noexcept {
  new (&mutex_) std::mutex;
  new (&changed_) std::condition_variable;
  new (&filler_) std::thread;
  filling_ = false;
  missing_ = filled_.pages() - claimed_.assign(filled_);
}

void SharedImage::prepare(uint64_t offset, uint64_t length) const noexcept {
  if (offset >= source_->length() || has(offset, length)) return;
  source_->prepare(offset, std::min(length, source_->length() - offset));
}

bool SharedImage::has(uint64_t offset, uint64_t length) const noexcept {
  const uint64_t end = (offset + length + page_size_ - 1) / page_size_;
  return filled_.next_outside(offset / page_size_, end) == end;
}

int64_t SharedImage::fill(uint64_t offset, uint64_t length) const noexcept {
  const uint64_t first = offset / page_size_;
  const uint64_t end = (offset + length) / page_size_;
  for (unsigned left = kPatience;; --left) {
    const uint64_t there = filled_.next_outside(first, end);
    if (there > first) return static_cast<int64_t>((there - first) * page_size_);
    const uint64_t claimed = source_->late() ? first : claim(first, end);
    if (claimed > first) {
      const int error = write_from_source(first, claimed);
      if (error != 0) return error;
      continue;
    }
    if (left == 0) return -EAGAIN;
    ::sched_yield();
  }
}

uint64_t SharedImage::claim(uint64_t first, uint64_t end) const noexcept {
  while (first < end && claimed_.add(first, 1) == 1) ++first;
  return first;
}

// Ends the claim of these pages; those that were not filled may be claimed again.
void SharedImage::settle(uint64_t first, uint64_t end, bool filled) const noexcept {
  if (filled) {
    missing_.fetch_sub(filled_.add(first, end - first), std::memory_order_acq_rel);
  } else {
    claimed_.remove(first, end - first);
  }
}

// A run that fails as a whole is tried page by page: the pages before the first that fails are
// filled.
int SharedImage::write_from_source(uint64_t first, uint64_t end) const noexcept {
  const auto write_pages = [this](uint64_t from, uint64_t to) {
    const uint64_t offset = from * page_size_;
    const uint64_t length = std::min(to * page_size_, source_->length()) - offset;
    const Supply supply = source_->supply(offset, length);
    if (supply.bytes) return write(offset, supply.bytes, length);
    // An untouched page of the file is a hole, which no CONTINUE finds.
    const auto* zeros = reinterpret_cast<const std::byte*>(zeros_address());
    for (uint64_t done = 0; done < length; done += kBlankLength) {
      const int error = write(offset + done, zeros, std::min(length - done, kBlankLength));
      if (error != 0) return error;
    }
    return 0;
  };
  int error = write_pages(first, end);
  if (error == 0) {
    settle(first, end, true);
    return 0;
  }
  uint64_t page = first;
  while (page < end && (error = write_pages(page, page + 1)) == 0) ++page;
  if (page > first) settle(first, page, true);
  if (page < end) settle(page, end, false);
  return page > first ? 0 : error;
}

// The kernel copies, and says EFAULT where the bytes cannot be read. Where the image's own memory
// is short, that may pass; nothing else does.
int SharedImage::write(uint64_t offset, const std::byte* bytes, uint64_t length) const noexcept {
  while (length > 0) {
    ssize_t count;
    if (kind_ == MemoryKind::hugetlb) {
      const iovec to{reinterpret_cast<void*>(mapping_.address() + offset), length};
      const iovec from{const_cast<std::byte*>(bytes), length};
      count = ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);
    } else {
      count = ::pwrite(memfd_.get(), bytes, length, static_cast<off_t>(offset));
    }
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count == 0 || is_short(errno) ? -ENOMEM : -EFAULT;
    const auto written = static_cast<uint64_t>(count);
    offset += written;
    bytes += written;
    length -= written;
  }
  return 0;
}

void SharedImage::read(uint64_t offset, std::span<std::byte> into) const {
  check_range(offset, into.size());
  if (into.empty()) return;
  const uint64_t first = offset / page_size_;
  const uint64_t end = (offset + into.size() + page_size_ - 1) / page_size_;
  if (source_->late()) {
    read_late(first, end);
  } else {
    for (uint64_t page = first; page < end;) {
      const int64_t filled = fill(page * page_size_, (end - page) * page_size_);
      if (filled == -EFAULT)
        throw SystemError(EFAULT, "the source of the image cannot supply these bytes");
      if (filled == -ENOMEM)
        throw SystemError(ENOMEM, "there is no memory for the pages of the image");
      if (filled > 0) page += static_cast<uint64_t>(filled) / page_size_;
    }
  }
  if (kind_ == MemoryKind::hugetlb) {
    const auto* bytes = reinterpret_cast<const std::byte*>(mapping_.address()) + offset;
    std::copy_n(bytes, into.size(), into.begin());
    return;
  }
  while (!into.empty()) {
    const ssize_t count =
        ::pread(memfd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
    if (count <= 0) throw SystemError(errno, "cannot read the image");
    offset += static_cast<uint64_t>(count);
    into = into.subspan(static_cast<size_t>(count));
  }
}

// The thread that claims a page reads it from the source; other threads that need it wait.
void SharedImage::read_late(uint64_t first, uint64_t end) const {
  for (uint64_t page = first; (page = filled_.next_outside(page, end)) < end;) {
    const uint64_t claimed = claim(page, end);
    if (claimed == page) {
      std::unique_lock lock(mutex_);
      const auto settled = [&] { return filled_.contains(page) || !claimed_.contains(page); };
      const auto deadline = source_->deadline();
      if (!deadline) {
        changed_.wait(lock, settled);
      } else if (!changed_.wait_for(lock, *deadline, settled)) {
        throw SystemError(ETIMEDOUT,
                          "the source of the image has not answered within its deadline");
      }
      continue;
    }
    struct Settle {
      const SharedImage& image;
      uint64_t page, claimed;
      bool filled = false;
      ~Settle() {
        {
          const std::lock_guard lock(image.mutex_);
          image.settle(page, claimed, filled);
        }
        image.changed_.notify_all();
      }
    } settled{*this, page, claimed};
    const uint64_t offset = page * page_size_;
    std::vector<std::byte> bytes(std::min(claimed * page_size_, source_->length()) - offset);
    source_->read(offset, bytes);
    settled.filled = write(offset, bytes.data(), bytes.size()) == 0;
    if (!settled.filled) throw SystemError(ENOMEM, "cannot write the image");
  }
}

bool SharedImage::try_read_late(uint64_t first, uint64_t end) const {
  try {
    read_late(first, end);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void SharedImage::start_filling() {
  const std::lock_guard lock(mutex_);
  if (filling_ || missing_pages() == 0) return;
  if (filler_.joinable()) filler_.join();
  filler_ = start_thread("uffd-image", std::nullopt, [this] { fill_all(); });
  filling_ = true;  // the thread needs the mutex to set it to false
}

void SharedImage::fill_all() {
  const uint64_t end = length_ / page_size_;
  const uint64_t step = std::max<uint64_t>(kFillBytes / page_size_, 1);
  for (uint64_t page = 0; (page = filled_.next_outside(page, end)) < end;) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    const uint64_t to = filled_.next_inside(page, std::min(page + step, end));
    const uint64_t offset = page * page_size_, length = (to - page) * page_size_;
    if (source_->late()) {
      if (!try_read_late(page, to)) {
        // Only pages that fail on their own stay missing: they are tried again when a target needs
        // them.
        for (uint64_t one = page; one < to; ++one) try_read_late(one, one + 1);
      }
      page = to;
      continue;
    }
    prepare(offset, length);
    const int64_t filled = fill(offset, length);
    if (filled > 0) page += static_cast<uint64_t>(filled) / page_size_;
    if (filled == -EFAULT || filled == -ENOMEM) ++page;
  }
  {
    const std::lock_guard lock(mutex_);
    filling_ = false;
  }
  changed_.notify_all();
}

SharedImage::Filled SharedImage::wait_filled(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  // Faults fill pages too, and notify nobody.
  const auto until = std::chrono::steady_clock::now() + timeout;
  constexpr std::chrono::milliseconds look{10};
  while (missing_pages() > 0 && filling_ && std::chrono::steady_clock::now() < until)
    changed_.wait_for(lock, look);
  if (missing_pages() == 0) return Filled::all;
  return filling_ ? Filled::not_yet : Filled::not_all;
}

}  // namespace uffd
