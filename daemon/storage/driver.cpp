#include "daemon/storage/driver.hpp"

#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "daemon/storage/layer_format.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::storage {

std::string RootPlan::layersFromDirectory() const {
  return std::filesystem::path(layersDirectory).lexically_relative(directory);
}

std::string RootPlan::directoryFromLayers() const {
  return std::filesystem::path(directory).lexically_relative(layersDirectory);
}

Result<std::vector<std::string>> stackOf(const RootPlan& plan) {
  if (plan.layers.empty()) return Error(Code::ImageInvalid, "an image without layers has no root file system");
  std::vector<std::string> stack;
  std::set<std::string> seen;
  for (auto name = plan.layers.rbegin(); name != plan.layers.rend(); ++name)
    if (seen.insert(*name).second) stack.push_back(*name);
  return stack;
}

Status makeRoot(const RootPlan& plan, const std::string& directory) {
  struct stat root{};
  root.st_mode = 0755;
  // From the highest layer whose archive had an entry for the root.
  for (auto name = plan.layers.rbegin(); name != plan.layers.rend(); ++name) {
    std::string path = plan.layersDirectory + "/" + *name;
    char mark = 0;
    if (::lgetxattr(path.c_str(), kRootMark, &mark, 1) == 1 && ::lstat(path.c_str(), &root) == 0) break;
  }
  USERPOD_CHECK(makeDirectories(directory, 0700));
  if (::chown(directory.c_str(), root.st_uid, root.st_gid) < 0) return sysError("set the owner of " + directory);
  if (::chmod(directory.c_str(), root.st_mode & 07777) < 0) return sysError("set the mode of " + directory);
  return {};
}

Status makeUpper(const RootPlan& plan) {
  USERPOD_CHECK(makeRoot(plan, plan.upper()));
  return plan.readOnly ? Status() : makeDirectories(plan.work(), 0700);
}

}  // namespace userpod::storage
