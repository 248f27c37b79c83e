// OCI runtime programs: found, bound read-only, asked for their version.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "daemon/oci/messages.hpp"
#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

Result<std::string> findRuntime(const std::string& name, const std::string& configured) {
  if (configured.empty()) return findProgram(name);
  if (configured.front() != '/')
    return Error(Code::ConfigInvalid, "path of runtime " + name + " is " + configured + "; give an absolute path");
  if (::access(configured.c_str(), X_OK) < 0) return sysError("runtime " + configured).as(Code::HelperMissing);
  return configured;
}

bool boundAlready(const std::string& program, const std::string& target) {
  struct stat wanted{};
  struct stat bound{};
  struct statvfs flags{};
  return ::stat(program.c_str(), &wanted) == 0 && ::stat(target.c_str(), &bound) == 0 &&
         ::statvfs(target.c_str(), &flags) == 0 && wanted.st_dev == bound.st_dev && wanted.st_ino == bound.st_ino &&
         (flags.f_flag & ST_RDONLY) != 0;
}

}  // namespace

// crun guards its own file against containers (CVE-2019-5736) by running a copy of itself, unless it lies on a
// read-only mount: that saves 1.5 ms of each call.
Status bindReadOnly(const std::string& program, const std::string& target) {
  if (boundAlready(program, target)) return {};
  USERPOD_CHECK(unmountDetached(target));
  USERPOD_CHECK(writeFile(target, "", 0644));
  USERPOD_CHECK(bindMount(program, target, false));
  USERPOD_CHECK(remountReadOnly(target));
  return setPropagation(target, MS_PRIVATE);
}

// Of "1.8.1"; a number that is missing is 0.
bool atLeast(const std::string& version, int major, int minor) {
  int have[2] = {0, 0};
  std::sscanf(version.c_str(), "%d.%d", &have[0], &have[1]);
  return have[0] > major || (have[0] == major && have[1] >= minor);
}

// mount_setattr(2) for a whole tree, in Linux since 5.12; asked without a mount to change.
bool kernelHasRecursiveReadOnly() {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  return ::syscall(SYS_mount_setattr, -1, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0 ||
         errno == EBADF;
}

// `features` is the runtimes' own word (OCI runtime-spec, features.md): runc has it since 1.1, crun since 1.9. crun
// knows the option since 1.4.
Result<bool> runtimeHasRecursiveReadOnly(const Handler& handler, SpawnOptions options) {
  options.argv = {handler.program, "features"};
  USERPOD_TRY(output, run(options, std::chrono::seconds(10)));
  if (output.status.code != 0) return handler.flavour == "crun" && atLeast(handler.version, 1, 4);
  auto features = nlohmann::json::parse(output.out, nullptr, false);
  auto known = features.is_object() ? features.value("mountOptions", nlohmann::json()) : nlohmann::json();
  return std::find(known.begin(), known.end(), "rro") != known.end();
}

std::vector<std::string> Handler::command() const {
  std::vector<std::string> list{program, "--root=" + stateRoot};
  if (flavour == "crun") list.emplace_back("--cgroup-manager=cgroupfs");  // runc has no other way without being asked
  return list;
}

Result<Handler> openHandler(const Paths& paths, const std::string& name, const std::string& configuredPath) {
  bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
  if (!plain) return Error(Code::ConfigInvalid, "runtime name \"" + name + "\": use letters, digits, - and _");
  USERPOD_TRY(program, findRuntime(name, configuredPath));
  Handler handler;
  handler.name = name;
  handler.program = paths.node + "/bin/" + name;
  handler.stateRoot = paths.node + "/oci/" + name;
  USERPOD_CHECK(bindReadOnly(program, handler.program));
  USERPOD_CHECK(makeDirectories(handler.stateRoot, 0700));
  SpawnOptions options;
  options.argv = {handler.program, "--version"};
  options.environment = toolEnvironment(paths);
  USERPOD_TRY(output, run(options, std::chrono::seconds(10)));
  auto words = split(split(output.out, '\n').front(), ' ');  // "crun version 1.8.1"
  if (output.status.code != 0 || words.size() < 3)
    return Error(Code::HelperMissing,
                 program + " --version does not answer as an OCI runtime: " + plainMessage(output.err));
  handler.flavour = words[0];
  handler.version = words[2];
  USERPOD_TRY(recursive, runtimeHasRecursiveReadOnly(handler, options));
  handler.recursiveReadOnly = recursive && kernelHasRecursiveReadOnly();
  return handler;
}

}  // namespace userpod::oci
