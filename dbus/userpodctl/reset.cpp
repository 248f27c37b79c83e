// reset: stops the units and removes all data, that of subordinate ids included.
#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"
#include "userns/idmap.hpp"
#include "userns/node.hpp"

namespace userpod::ctl {
namespace {

constexpr const char* kUnits[] = {"userpod.socket", "userpod.service", "userpod-node.service"};

Status confirm(const Paths& paths) {
  if (::isatty(STDIN_FILENO) != 1) return Error(Code::InvalidArgument, "reset removes all pods and images: say --yes");
  if (confirmed(fmt::format("This stops all pods and removes {} with all images and containers, and {}.", paths.data,
                            paths.runtime)))
    return {};
  return Error(Code::Canceled, "nothing was removed");
}

Status stopUnits(const Paths& paths) {
  USERPOD_TRY(systemctl, findProgram("systemctl"));
  SpawnOptions options;
  options.argv = {systemctl, "--user", "stop"};
  for (const char* unit : kUnits) options.argv.emplace_back(unit);
  for (char** entry = environ; *entry != nullptr; ++entry) options.environment.emplace_back(*entry);
  // As long as the node's unit takes to stop: every container has its grace.
  auto output = run(options, std::chrono::minutes(10));
  auto node = Node::find(paths);
  if (!node) return {};
  std::string why = output ? std::string(trim(output->err)) : output.error().text();
  return Error(Code::Busy,
               fmt::format("the node (process {}) still runs: systemctl --user stop userpod-node.service: {}",
                           node->state().pid, why));
}

// The body of the child: the maps have been written, and all ids that files may have are mapped.
int removeAll(const Paths& paths) {
  if (::setgid(0) < 0 || ::setuid(0) < 0) return EXIT_FAILURE;
  for (const auto& path : {paths.data, paths.runtime}) {
    if (auto status = removeTree(path); !status) {
      fmt::print(stderr, "userpodctl: {}\n", status.error().text());
      return EXIT_FAILURE;
    }
  }
  return EXIT_SUCCESS;
}

Status removeMapped(const Paths& paths, const IdMaps& maps) {
  USERPOD_TRY(made, makePipe());
  USERPOD_TRY(mapped, makePipe());
  std::fflush(nullptr);
  pid_t pid = ::fork();
  if (pid < 0) return sysError("fork");
  if (pid == 0) {
    made.read.reset();
    mapped.write.reset();
    int failed = ::unshare(CLONE_NEWUSER) < 0 ? errno : 0;
    char byte = 0;
    if (::write(made.write.get(), &failed, sizeof(failed)) != sizeof(failed) || failed != 0) ::_exit(EXIT_FAILURE);
    if (::read(mapped.read.get(), &byte, 1) != 1) ::_exit(EXIT_FAILURE);
    int status = removeAll(paths);
    std::fflush(nullptr);
    ::_exit(status);
  }
  USERPOD_TRY(pidfd, openPidfd(pid));
  Child child(pid, std::move(pidfd));
  made.write.reset();
  mapped.read.reset();
  int failed = 0;
  if (::read(made.read.get(), &failed, sizeof(failed)) != sizeof(failed))
    return Error(Code::Internal, "the helper process ended");
  if (failed != 0) return userNamespaceError(failed);
  USERPOD_CHECK(writeIdMaps(pid, maps));
  if (::write(mapped.write.get(), "1", 1) != 1) return sysError("release the helper process");
  USERPOD_TRY(status, child.wait());
  return status.code == 0 ? Status() : Status(Error(Code::StorageFailed, "not all data could be removed"));
}

// Without subordinate ids there can be no file of theirs.
Status removePlain(const Paths& paths) {
  USERPOD_CHECK(removeTree(paths.data));
  return removeTree(paths.runtime);
}

Status reset(bool yes, const Display& display) {
  USERPOD_TRY(paths, userPaths());
  if (::getuid() == 0)
    return Error(Code::InvalidArgument, "reset is for the ordinary user whose pods they are, outside the node");
  if (!yes) USERPOD_CHECK(confirm(paths));
  USERPOD_CHECK(stopUnits(paths));
  auto maps = ownIdMaps();
  USERPOD_CHECK(maps ? removeMapped(paths, *maps) : removePlain(paths));
  if (display.json)
    fmt::print("{}\n", Json({{"removed", {paths.data, paths.runtime}}}).dump());
  else
    fmt::print("Removed {} and {}; {} is left.\nStart again with: systemctl --user start userpod.socket\n", paths.data,
               paths.runtime, paths.config);
  return {};
}

}  // namespace

int runReset(bool yes, const Display& display) {
  return finish(reset(yes, display), display);
}

}  // namespace userpod::ctl
