// The bytes of a regular file, mapped: COPY reads them from the page cache, so one memcpy is all.
#pragma once

#include <string>

#include "engine/linux/fd.hpp"
#include "engine/source/source.hpp"

namespace uffd {

// The length is that at construction. Where the file shrinks later, whole pages behind its new end
// cannot be supplied (COPY says EFAULT); the rest of its last page then reads as zeros, which
// nothing tells from a file that ends there.
class FileSource final : public Source {
 public:
  // Throws SystemError where the file cannot be read, std::invalid_argument where it is empty or
  // not a regular file.
  explicit FileSource(const std::string& path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  uint64_t length() const noexcept override { return length_; }
  Supply supply(uint64_t offset, uint64_t) const noexcept override { return {bytes_ + offset}; }
  void prepare(uint64_t offset, uint64_t length) const noexcept override;
  Range memory() const noexcept override { return {reinterpret_cast<uint64_t>(bytes_), length_}; }
  void read(uint64_t offset, std::span<std::byte> into) const override;

 private:
  std::string path_;
  Fd file_;
  uint64_t length_ = 0;
  const std::byte* bytes_ = nullptr;
};

}  // namespace uffd
