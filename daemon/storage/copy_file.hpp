// One file's content and attributes, copied the cheapest way the file system has.
#pragma once

#include <sys/stat.h>

#include "daemon/sys/error.hpp"

namespace userpod::storage {

// One thread. Errors do not name the file.
class FileCopier {
 public:
  // `to` is empty. By sharing blocks (FICLONE), else inside the kernel, else by reading and writing; holes stay holes.
  Status copyData(int from, int to, const struct stat& info);
  // Owner, mode and the extended attributes that layers carry; not the marks among them.
  static Status copyMetadata(int from, int to, const struct stat& info);

 private:
  Status copyRange(int from, int to, off_t begin, off_t end);

  bool clones_ = true;  // until the file system has shown that it cannot
  bool ranges_ = true;
};

}  // namespace userpod::storage
