#include "daemon/images/unpack/extractor.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>

#include "daemon/images/invalid.hpp"
#include "daemon/images/unpack/layer_tree.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::images {

namespace {

// Of one entry's headers. libarchive keeps a map of a sparse file in memory, at twelve times its size in the archive.
constexpr std::uint64_t kLargestHeader = 8ULL << 20;
constexpr std::uint64_t kFreeCheckEvery = 64ULL << 20;
constexpr std::uint64_t kLeastFree = 64ULL << 20;  // a full home directory breaks more than the pull

struct ArchiveDeleter {
  void operator()(struct archive* reader) const { archive_read_free(reader); }
};

// libarchive converts names of pax headers to the locale's character set, and to NFC on the way. Into ASCII it cannot,
// and then leaves the bytes as they are, which is what a file name is.
class ByteNames {
 public:
  ByteNames() : previous_(::uselocale(plain())) {}
  ~ByteNames() { ::uselocale(previous_); }
  ByteNames(const ByteNames&) = delete;
  ByteNames& operator=(const ByteNames&) = delete;

 private:
  static locale_t plain() {
    static locale_t locale = ::newlocale(LC_ALL_MASK, "C", nullptr);
    return locale;
  }
  locale_t previous_;
};

EntryInfo readInfo(struct archive_entry* entry) {
  EntryInfo info;
  info.owner = {archive_entry_uid(entry), archive_entry_gid(entry)};
  info.mode = archive_entry_perm(entry) & 07777;
  info.modified = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
  archive_entry_xattr_reset(entry);
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
    info.attributes.emplace_back(name, std::string(static_cast<const char*>(value), size));
  return info;
}

class Extraction {
 public:
  Extraction(int root, const TarSource& source, UnpackBudget& budget, const ExtractOptions& options)
      : root_(root), source_(source), budget_(budget), options_(options), tree_(root, options.ignoreChownErrors) {}

  Result<Extracted> run();
  Result<Extracted> runFile(std::string_view name);

 private:
  static la_ssize_t read(struct archive* reader, void* self, const void** bytes);
  int nextHeader(struct archive_entry** entry);
  Error readerError(std::string_view what);
  Status unpack(struct archive_entry* entry);
  Status unpackFile(const EntryPath& path, const EntryInfo& info, std::int64_t size);
  Status writeBlock(int file, const EntryPath& path, const void* data, std::size_t size, std::int64_t offset);
  Status unpackWhiteout(const EntryPath& path);

  int root_;
  const TarSource& source_;
  UnpackBudget& budget_;
  const ExtractOptions& options_;
  LayerTree tree_;
  std::unique_ptr<struct archive, ArchiveDeleter> reader_;
  std::optional<Error> sourceError_;
  std::optional<std::uint64_t> headerBytes_;  // read for the header under way
  std::uint64_t bytes_ = 0;                   // written
  std::int64_t content_ = 0;                  // of files, holes counted
  std::uint64_t nextFreeCheck_ = 0;
};

la_ssize_t Extraction::read(struct archive* reader, void* self, const void** bytes) {
  auto* extraction = static_cast<Extraction*>(self);
  auto block = extraction->source_();
  if (!block) {
    extraction->sourceError_ = std::move(block).error();
    archive_set_error(reader, EIO, "source");
    return -1;
  }
  // The block that a header begins in is not counted: it may be the data's before it.
  auto& header = extraction->headerBytes_;
  if (header && (*header += block->size()) > kLargestHeader + block->size()) {
    extraction->sourceError_ =
        invalidImage(fmt::format("an entry of the layer has more than {} bytes of headers", kLargestHeader));
    archive_set_error(reader, EIO, "header");
    return -1;
  }
  *bytes = block->data();
  return static_cast<la_ssize_t>(block->size());
}

int Extraction::nextHeader(struct archive_entry** entry) {
  headerBytes_ = 0;
  int code = archive_read_next_header(reader_.get(), entry);
  headerBytes_.reset();
  return code;
}

Error Extraction::readerError(std::string_view what) {
  if (sourceError_) return *sourceError_;
  const char* text = archive_error_string(reader_.get());
  return invalidImage(fmt::format("{}: {}", what, text == nullptr ? "damaged" : text));
}

Result<Extracted> Extraction::run() {
  ByteNames names;
  reader_.reset(archive_read_new());
  if (!reader_) return Error(Code::LimitsExceeded, "no memory to read a layer");
  archive_read_support_format_tar(reader_.get());
  archive_read_support_format_empty(reader_.get());
  archive_read_set_read_callback(reader_.get(), read);
  archive_read_set_callback_data(reader_.get(), this);
  if (archive_read_open1(reader_.get()) != ARCHIVE_OK) return readerError("the layer's tar");
  struct archive_entry* entry = nullptr;
  for (;;) {
    int code = nextHeader(&entry);
    if (code == ARCHIVE_EOF) break;
    if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return readerError("the layer's tar");
    std::int64_t before = tree_.inodes();
    USERPOD_CHECK(unpack(entry));
    // What nobody has read is not part of the next header.
    if (archive_read_data_skip(reader_.get()) < ARCHIVE_WARN) return readerError("the layer's tar");
    // An entry may bring missing parents, and one that replaces another brings nothing, but takes its time all the
    // same.
    USERPOD_CHECK(budget_.takeEntries(std::max<std::int64_t>(tree_.inodes() - before, 1)));
  }
  USERPOD_CHECK(tree_.finish());
  for (;;) {
    USERPOD_TRY(rest, source_());
    if (rest.empty()) break;
  }
  return Extracted{content_ - tree_.displacedBytes(), tree_.inodes(), tree_.squashed()};
}

Result<Extracted> Extraction::runFile(std::string_view name) {
  USERPOD_TRY(path, parseEntryPath(name));
  if (path.name.empty()) return invalidImage("a file of the artifact has no name");
  USERPOD_TRY(file, tree_.createFile(path, 0644));
  USERPOD_CHECK(budget_.takeEntries(tree_.inodes()));
  std::int64_t size = 0;
  for (;;) {
    USERPOD_TRY(part, source_());
    if (part.empty()) break;
    USERPOD_CHECK(budget_.takeBytes(static_cast<std::int64_t>(part.size())));
    USERPOD_CHECK(writeBlock(file.get(), path, part.data(), part.size(), size));
    size += static_cast<std::int64_t>(part.size());
  }
  EntryInfo info;
  info.mode = 0644;  // no time is told: 1970, so that the same artifact is the same everywhere
  USERPOD_CHECK(tree_.finishFile(file, path, info));
  return Extracted{size, tree_.inodes(), 0};
}

Status Extraction::unpackWhiteout(const EntryPath& path) {
  constexpr std::string_view kPrefix = ".wh.";
  if (path.name == ".wh..wh..opq") return tree_.makeOpaque(path.parent);
  if (path.name.starts_with(".wh..wh.")) return {};  // notes of aufs to itself
  return tree_.makeWhiteout({path.parent, path.name.substr(kPrefix.size())});
}

Status Extraction::unpack(struct archive_entry* entry) {
  const char* text = archive_entry_pathname(entry);
  if (text == nullptr) return invalidImage("an entry of the layer has no readable name");
  USERPOD_TRY(path, parseEntryPath(text));
  if (path.name.starts_with(".wh.")) return unpackWhiteout(path);
  if (const char* target = archive_entry_hardlink(entry); target != nullptr) {
    USERPOD_TRY(source, parseEntryPath(target));
    return tree_.makeHardLink(path, source);
  }
  EntryInfo info = readInfo(entry);
  switch (archive_entry_filetype(entry)) {
    case AE_IFDIR:
      return path.name.empty() ? tree_.setRoot(info) : tree_.makeDirectory(path, info);
    case AE_IFLNK: {
      const char* target = archive_entry_symlink(entry);
      if (target == nullptr) return invalidImage(fmt::format("/{}: a link to nothing", path.shown()));
      return tree_.makeSymlink(path, target, info);
    }
    case AE_IFIFO:
      return tree_.makeFifo(path, info);
    case AE_IFCHR:
    case AE_IFBLK:
    case AE_IFSOCK:
      logDebug("/{} of a layer is a device node or socket: left out", path.shown());
      return {};
    default:
      return unpackFile(path, info, archive_entry_size(entry));
  }
}

Status Extraction::unpackFile(const EntryPath& path, const EntryInfo& info, std::int64_t size) {
  // Before the first byte: a header may promise exabytes.
  if (size < 0) return invalidImage(fmt::format("/{} of the layer has a negative size", path.shown()));
  if (auto taken = budget_.takeBytes(size); !taken) return std::move(taken).error().wrap("/" + path.shown());
  USERPOD_TRY(file, tree_.createFile(path, info.mode));
  std::int64_t end = 0;
  for (;;) {
    const void* data = nullptr;
    std::size_t length = 0;
    la_int64_t offset = 0;
    int code = archive_read_data_block(reader_.get(), &data, &length, &offset);
    if (code == ARCHIVE_EOF) break;
    if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return readerError(fmt::format("/{} of the layer", path.shown()));
    if (length == 0) continue;
    USERPOD_CHECK(writeBlock(file.get(), path, data, length, offset));
    end = offset + static_cast<std::int64_t>(length);
  }
  // A sparse file may end in a hole.
  if (size > end && ::ftruncate(file.get(), size) < 0)
    return sysError(fmt::format("extend /{} of the layer", path.shown()));
  content_ += std::max(size, end);
  return tree_.finishFile(file, path, info);
}

Status Extraction::writeBlock(int file, const EntryPath& path, const void* data, std::size_t size,
                              std::int64_t offset) {
  if (bytes_ >= nextFreeCheck_) {
    struct statvfs info{};
    if (::fstatvfs(root_, &info) == 0 && std::uint64_t{info.f_bavail} * info.f_frsize < kLeastFree)
      return Error(Code::NoSpace,
                   fmt::format("less than 64 MB are free in {}: remove images or make room", options_.place));
    nextFreeCheck_ = bytes_ + kFreeCheckEvery;
  }
  bytes_ += size;
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t count = ::pwrite(file, at, size, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sysError(fmt::format("write /{} of the layer", path.shown()));
    at += count;
    offset += count;
    size -= static_cast<std::size_t>(count);
  }
  return {};
}

}  // namespace

Result<Extracted> extractTar(int root, const TarSource& source, UnpackBudget& budget, const ExtractOptions& options) {
  return Extraction(root, source, budget, options).run();
}

Result<Extracted> extractFile(int root, std::string_view path, const TarSource& source, UnpackBudget& budget,
                              const ExtractOptions& options) {
  return Extraction(root, source, budget, options).runFile(path);
}

}  // namespace userpod::images
