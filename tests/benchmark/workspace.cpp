#include "tests/benchmark/workspace.hpp"

#include <algorithm>

#include "daemon/sys/log.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"
#include "tests/benchmark/bare_container.hpp"
#include "tests/benchmark/bare_sandbox.hpp"

namespace userpod::bench {
namespace {

// The topmost mount of a stack and the innermost of a tree is the last of its line in mountinfo.
Status unmountBelow(const std::string& directory) {
  USERPOD_TRY(table, readFile("/proc/self/mountinfo", 64 << 20));
  auto lines = split(table, '\n');
  std::reverse(lines.begin(), lines.end());
  for (const auto& line : lines) {
    auto fields = split(line, ' ');
    if (fields.size() > 4 && fields[4].starts_with(directory + "/")) USERPOD_CHECK(unmountDetached(fields[4]));
  }
  return {};
}

}  // namespace

Workspace::Workspace(const Paths& paths, const NodeInside& node)
    : node_(node), live_(paths.node + "-bench"), disk_(paths.data + "-bench") {}

Result<std::unique_ptr<Workspace>> Workspace::open(const Paths& paths, const NodeInside& node) {
  std::unique_ptr<Workspace> workspace(new Workspace(paths, node));
  USERPOD_CHECK(workspace->clear());
  USERPOD_CHECK(makeDirectories(workspace->live_, 0700));
  USERPOD_CHECK(makeDirectories(workspace->disk_, 0700));
  return workspace;
}

Workspace::~Workspace() {
  if (auto cleared = clear(); !cleared) logWarning("left behind by the benchmark: {}", cleared.error().text());
}

Status Workspace::clear() const {
  USERPOD_CHECK(node_.removeCgroup(kBareCgroup));
  USERPOD_CHECK(unmountBelow(live_));
  USERPOD_CHECK(unmountBelow(disk_));
  USERPOD_CHECK(removeBareBridge(node_));
  USERPOD_CHECK(removeTree(live_));
  return removeTree(disk_);
}

}  // namespace userpod::bench
