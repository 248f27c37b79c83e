// Writes the entries of a layer below one directory, which no name or link in it can leave.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

struct EntryOwner {
  std::int64_t uid = 0;
  std::int64_t gid = 0;
};
struct EntryInfo {
  EntryOwner owner;
  mode_t mode = 0755;  // permission bits with setuid, setgid and sticky
  timespec modified{};
  std::vector<std::pair<std::string, std::string>> attributes;  // extended, as in the archive
};

// A path of an archive, cut in two: "a/b" and "c". Both empty: the root itself.
struct EntryPath {
  std::string parent;
  std::string name;
  std::string text() const { return parent.empty() ? name : parent + "/" + name; }
  std::string shown() const { return excerpt(text(), 300); }  // for messages
};
// Drops leading and double slashes and "."; ImageInvalid for "..", for more than 4096 bytes and for an empty text.
Result<EntryPath> parseEntryPath(std::string_view path);

enum class AttributeRule { Set, Skip, Refuse };
// user.* and security.capability are set; what steers the overlay or is ours is refused; the rest is not for a user.
AttributeRule attributeRule(std::string_view name);

// Runs as uid 0 of a user namespace. One thread. Parents resolve with RESOLVE_IN_ROOT: links that the layer itself
// brought ("bin" -> "usr/bin") lead on, but never out. An entry replaces what has its name, as in all unpackers;
// missing parents are made 0755, root's. Errors name the path in the image.
class LayerTree {
 public:
  // ignoreChownErrors: what belongs to an owner that is not mapped is left to uid 0 and counted, instead of
  // SubIdMissing.
  explicit LayerTree(int root, bool ignoreChownErrors = false) : root_(root), ignoreChownErrors_(ignoreChownErrors) {}

  Status setRoot(const EntryInfo& info);
  Status makeDirectory(const EntryPath& path, const EntryInfo& info);
  Result<UniqueFd> createFile(const EntryPath& path,
                              mode_t mode);  // write-only, empty; mode: permission bits, less the umask's
  Status finishFile(const UniqueFd& file, const EntryPath& path, const EntryInfo& info);
  Status makeSymlink(const EntryPath& path, const std::string& target, const EntryInfo& info);
  Status makeHardLink(const EntryPath& path, const EntryPath& target);  // the target must be in this layer
  Status makeFifo(const EntryPath& path, const EntryInfo& info);
  Status makeWhiteout(const EntryPath& path);  // hides `path` of the layers below; not what this layer has there
  Status makeOpaque(const std::string& directory);
  // Times of directories, which later entries have changed. Last.
  Status finish();

  std::int64_t inodes() const { return inodes_; }
  std::int64_t displacedBytes() const { return displacedBytes_; }  // of files that later entries have replaced
  std::int64_t squashed() const { return squashed_; }              // files whose owner was not kept

 private:
  Result<int> parentOf(const EntryPath& path);
  Result<int> openDirectory(const std::string& directory, bool make);
  Status displace(int parent, const EntryPath& path);
  // Of `name` in `directory`, or of the file itself when empty; `path` is for the message.
  Status setOwner(int directory, const std::string& name, const EntryPath& path, const EntryOwner& owner);
  Status setAttributes(int file, const EntryPath& path, const EntryInfo& info);
  Status markOpaque(int parent, const EntryPath& path);
  bool uncover(int parent, const std::string& name);
  void keepTime(const EntryPath& path, timespec modified);

  int root_;
  bool ignoreChownErrors_;
  std::unordered_map<std::string, UniqueFd> directories_;  // open ones by path; emptied when a name changes its meaning
  std::vector<std::pair<EntryPath, timespec>> times_;
  std::size_t timesBytes_ = 0;
  std::int64_t inodes_ = 0;
  std::int64_t displacedBytes_ = 0;
  std::int64_t squashed_ = 0;
  bool hidesByNames_ = false;  // the file system takes no whiteouts: see storage/layer_format.hpp
};

}  // namespace userpod::images
