// The overlay in a process of the node's, for kernels and file systems on which the native one does not mount.
#include "daemon/storage/fuse_overlay.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "daemon/storage/driver.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::storage {
namespace {

constexpr std::chrono::seconds kMountTime{30};

std::string cgroupOf(const std::string& id) {
  return "/fuse/" + id;
}

// Last line of what it said: the one that tells why.
std::string lastWords(int fd) {
  std::array<char, 8192> buffer{};
  ssize_t count = ::read(fd, buffer.data(), buffer.size());
  auto text = trim({buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0))});
  auto line = text.rfind('\n');
  return std::string(line == std::string_view::npos ? text : text.substr(line + 1));
}

std::vector<pid_t> processesOf(const NodeInside& node, const std::string& id) {
  std::vector<pid_t> list;
  auto text = readFile(node.cgroupRoot + cgroupOf(id) + "/cgroup.procs");
  if (!text) return list;
  for (const auto& line : split(trim(*text), '\n'))
    if (auto pid = std::strtol(line.c_str(), nullptr, 10); pid > 0) list.push_back(static_cast<pid_t>(pid));
  return list;
}

class FuseOverlay final : public Driver {
 public:
  explicit FuseOverlay(const NodeInside& node) : node_(node) {}
  std::string name() const override { return "fuse-overlayfs"; }
  Status mount(const RootPlan& plan) override;

 private:
  const NodeInside& node_;
};

// The program mounts, leaves a process behind that serves, and ends. Names are relative to the plan's directory.
Status FuseOverlay::mount(const RootPlan& plan) {
  USERPOD_TRY(stack, stackOf(plan));
  USERPOD_CHECK(makeUpper(plan));
  USERPOD_TRY(program, findProgram("fuse-overlayfs"));
  if (auto device = openFile("/dev/fuse", O_RDWR); !device)
    return std::move(device).error().wrap("fuse-overlayfs needs /dev/fuse (modprobe fuse; its mode must be 0666)");
  USERPOD_TRY(cgroup, node_.makeCgroup(cgroupOf(plan.id)));
  USERPOD_TRY(words, makePipe(O_NONBLOCK));
  SpawnOptions options;
  std::string layers = plan.layersFromDirectory();
  std::string lower = fmt::format("{}/{}", layers, fmt::join(stack, fmt::format(":{}/", layers)));
  options.argv = {program, "-o",
                  plan.readOnly ? fmt::format("lowerdir=upper:{},ro", lower)
                                : fmt::format("lowerdir={},upperdir=upper,workdir=work,volatile", lower),
                  "merged"};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
  options.descriptors = {{words.write.get(), 1}, {words.write.get(), 2}};
  options.cgroup = cgroup.get();
  options.directory = plan.directory;
  options.newSession = true;
  USERPOD_TRY(starter, spawn(options));
  if (!plan.trial) reachStage("fuse.spawned", plan.id);
  USERPOD_TRY(ended, starter.waitFor(kMountTime));
  if (!ended)
    return Error(Code::Timeout, fmt::format("fuse-overlayfs did not mount {} within 30 seconds", plan.target()));
  if (ended->code != 0)
    return Error(Code::StorageFailed,
                 fmt::format("fuse-overlayfs on {}: {}", plan.target(), lastWords(words.read.get())));
  auto server = fuseServer(node_, plan.id);
  return server ? Status() : std::move(server).error();
}

}  // namespace

Result<UniqueFd> fuseServer(const NodeInside& node, const std::string& id) {
  if (!pathExists(node.cgroupRoot + cgroupOf(id))) return UniqueFd();
  for (pid_t pid : processesOf(node, id))
    if (auto pidfd = openPidfd(pid)) return std::move(*pidfd);
  return Error(Code::StorageFailed,
               fmt::format("fuse-overlayfs, which serves the root file system of container {}, has ended", id));
}

Status endFuseServer(const NodeInside& node, const std::string& id) {
  // One by one, as kernels before 5.14 have no cgroup.kill; what is born meanwhile dies of that one.
  for (pid_t pid : processesOf(node, id))
    if (auto pidfd = openPidfd(pid)) static_cast<void>(signalPidfd(pidfd->get(), SIGKILL));
  return node.removeCgroup(cgroupOf(id));
}

std::unique_ptr<Driver> makeFuseOverlay(const NodeInside& node) {
  return std::make_unique<FuseOverlay>(node);
}

}  // namespace userpod::storage
