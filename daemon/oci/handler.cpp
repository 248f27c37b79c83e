// OCI runtime programs: found, bound read-only, asked for their version.
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "daemon/oci/runtime_impl.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kMessageLimit = 4096;

Result<std::string> findRuntime(const std::string& name, const std::string& configured) {
  if (configured.empty()) return findProgram(name);
  if (configured.front() != '/')
    return Error(Code::ConfigInvalid, "path of runtime " + name + " is " + configured + "; give an absolute path");
  if (::access(configured.c_str(), X_OK) < 0) return sysError("runtime " + configured).as(Code::HelperMissing);
  return configured;
}

bool boundAlready(const std::string& program, const std::string& target) {
  struct stat wanted {};
  struct stat bound {};
  struct statvfs flags {};
  return ::stat(program.c_str(), &wanted) == 0 && ::stat(target.c_str(), &bound) == 0 &&
         ::statvfs(target.c_str(), &flags) == 0 && wanted.st_dev == bound.st_dev && wanted.st_ino == bound.st_ino &&
         (flags.f_flag & ST_RDONLY) != 0;
}

// crun guards its own file against containers (CVE-2019-5736) by running a copy of itself, unless it lies on a
// read-only mount: that saves 1.5 ms of each call. An upgrade of the package leaves the old file bound until the next
// start.
Status bindReadOnly(const std::string& program, const std::string& target) {
  if (boundAlready(program, target)) return {};
  USERPOD_CHECK(unmountDetached(target));
  USERPOD_CHECK(writeFile(target, "", 0644));
  USERPOD_CHECK(bindMount(program, target, false));
  USERPOD_CHECK(remountReadOnly(target));
  return setPropagation(target, MS_PRIVATE);
}

bool isTimestamp(std::string_view word) {
  return word.size() >= 20 && word[4] == '-' && word[10] == 'T' && (word.back() == ':' || word.back() == 'Z');
}

// One line of a log: crun writes "2026-01-01T00:00:00.000000Z: text" or JSON with msg, runc level=error msg="text".
std::string plainLine(std::string_view line) {
  line = trim(line);
  if (line.starts_with("{")) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("msg") && json["msg"].is_string()) return json["msg"];
  }
  auto space = line.find(' ');
  if (space != std::string_view::npos && isTimestamp(line.substr(0, space))) line = trim(line.substr(space));
  if (line.starts_with("[conmon:")) {
    auto end = line.find("]: ");
    if (end != std::string_view::npos) line.remove_prefix(end + 3);
  }
  for (std::string_view prefix : {"error: ", "crun: ", "runc: "})
    if (line.starts_with(prefix)) line.remove_prefix(prefix.size());
  return std::string(line);
}

}  // namespace

std::string plainMessage(std::string_view text) {
  std::string result;
  for (const auto& line : split(text, '\n')) {
    std::string plain = plainLine(line);
    if (plain.empty()) continue;
    result += (result.empty() ? "" : "; ") + plain;
  }
  std::replace_if(
      result.begin(), result.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  if (result.size() > kMessageLimit) result.resize(kMessageLimit);
  if (!isUtf8(result))
    std::replace_if(
        result.begin(), result.end(), [](char c) { return (c & 0x80) != 0; }, '?');
  return result;
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
  return handler;
}

}  // namespace userpod::oci
