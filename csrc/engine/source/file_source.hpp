// The bytes of a regular file: mapped, so that COPY reads them from the page cache and one memcpy
// is all; or read past the page cache (O_DIRECT), which then holds no second copy of the bytes.
#pragma once

#include <atomic>
#include <string>

#include "engine/linux/fd.hpp"
#include "engine/source/source.hpp"

namespace uffd {

// The length is the file's at construction. Where the file shrinks later, whole pages behind its
// new end cannot be supplied (COPY says EFAULT); the rest of its last page then reads as zeros,
// which nothing tells from a file that ends there (with O_DIRECT that page is poisoned).
class FileSource final : public Source {
 public:
  // Throws SystemError where the file cannot be read, std::invalid_argument where it is empty or
  // not a regular file, UnsupportedError where its file system does not do O_DIRECT.
  FileSource(const std::string& path, bool direct);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  const std::string& path() const noexcept { return path_; }
  uint64_t length() const noexcept override { return length_; }
  bool late() const noexcept override { return direct_; }
  uint64_t best_read() const noexcept override { return direct_ ? kDirectRead : 0; }
  bool best_by_address() const noexcept override { return true; }
  Retry retry() const noexcept override { return {.retries = 2}; }
  Supply supply(uint64_t offset, uint64_t) const noexcept override { return {bytes_ + offset}; }
  void prepare(uint64_t offset, uint64_t length) const noexcept override;
  Range memory() const noexcept override {
    return {reinterpret_cast<uint64_t>(bytes_), direct_ ? 0 : length_};
  }
  void read(uint64_t offset, std::span<std::byte> into) const override;

 private:
  // What keeps a device busy, and is one huge page.
  static constexpr uint64_t kDirectRead = 2 * 1024 * 1024;

  void map();
  void try_direct() const;
  // Reads from a multiple of the block size on, into memory that is aligned to that size.
  void read_blocks(uint64_t offset, std::span<std::byte> into) const;

  std::string path_;
  bool direct_;
  Fd file_;
  uint64_t length_ = 0;
  const std::byte* bytes_ = nullptr;
  mutable std::atomic<uint64_t> ahead_{0};  // up to where the kernel was asked to read ahead
};

}  // namespace uffd
