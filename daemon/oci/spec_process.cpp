// process: arguments, environment, working directory, user, limits of the process itself.
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <tuple>

#include "daemon/oci/spec.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// OCI JSON has no bytes: what is not UTF-8 cannot be passed on unchanged, and is not passed on changed.
Status checkBytes(const std::string& what, const std::string& text) {
  if (text.find('\0') != std::string::npos) return Error(Code::InvalidArgument, what + " contains a NUL byte");
  if (!isUtf8(text))
    return Error(Code::InvalidArgument,
                 what + " is not UTF-8, which the OCI runtime needs; encode it, in base64 for one");
  return {};
}

class Environment {
 public:
  void set(const std::string& assignment) {
    auto name = assignment.substr(0, assignment.find('='));
    auto known =
        std::find_if(list_.begin(), list_.end(), [&](const auto& entry) { return entry.starts_with(name + "="); });
    if (known == list_.end())
      list_.push_back(assignment);
    else
      *known = assignment;
  }
  bool has(const std::string& name) const {
    return std::any_of(list_.begin(), list_.end(), [&](const auto& entry) { return entry.starts_with(name + "="); });
  }
  std::vector<std::string> take() { return std::move(list_); }

 private:
  std::vector<std::string> list_;  // order kept: first seen first
};

// The kernel lets nobody below his own value without CAP_SYS_RESOURCE on the host; crun would fail at it.
std::int64_t clampOomScore(SpecInput& input, std::int64_t wanted) {
  auto text = readFile("/proc/self/oom_score_adj", 16);
  std::int64_t own = text ? std::strtoll(text->c_str(), nullptr, 10) : 0;
  if (wanted < own && wanted != 0)  // 0: not said
    input.warnings.push_back(
        fmt::format("oom_score_adj {} is below the {} of this user's services and becomes {}", wanted, own, own));
  return std::clamp<std::int64_t>(std::max(wanted, own), -1000, 1000);
}

Json fileLimit(SpecInput& input) {
  rlimit own{};
  if (::getrlimit(RLIMIT_NOFILE, &own) < 0) return Json::array();
  FileLimit limit{std::min<std::uint64_t>(input.nofile.soft, own.rlim_max),
                  std::min<std::uint64_t>(input.nofile.hard, own.rlim_max)};
  if (input.nofileSet && limit.hard < input.nofile.hard)
    input.warnings.push_back(
        fmt::format("nofile {} of userpod.toml is more than this user may have and becomes {}; raise "
                    "LimitNOFILE= of user@.service",
                    input.nofile.hard, limit.hard));
  return Json::array({{{"type", "RLIMIT_NOFILE"}, {"soft", limit.soft}, {"hard", limit.hard}}});
}

Result<std::string> workingDirectory(const SpecInput& input) {
  const auto& config = input.container.config;
  std::string directory = !config.workingDirectory.empty() ? config.workingDirectory : input.image.workingDirectory;
  if (directory.empty()) directory = "/";
  USERPOD_CHECK(checkBytes("working_dir", directory));
  if (directory.front() != '/') {
    if (config.workingDirectory.empty()) return "/" + directory;  // images exist that say "app"
    return Error(Code::InvalidArgument,
                 "working_dir " + directory.substr(0, 256) + " is not absolute; begin it with /");
  }
  return directory;
}

}  // namespace

Result<std::vector<std::string>> buildArgs(const SpecInput& input) {
  const auto& config = input.container.config;
  // command replaces the image's entrypoint and with it the image's arguments; args alone replace these only.
  std::vector<std::string> args = config.command.empty() ? input.image.entrypoint : config.command;
  const auto& rest = !config.args.empty() || !config.command.empty() ? config.args : input.image.command;
  args.insert(args.end(), rest.begin(), rest.end());
  if (args.empty())
    return Error(Code::InvalidArgument,
                 "image " + input.container.imageName +
                     " names no program to run, and neither do command and args; give a command");
  if (args.front().empty())
    return Error(Code::InvalidArgument, "the first word of the command is empty; name a program");
  for (const auto& word : args) USERPOD_CHECK(checkBytes("a word of the command", word));
  return args;
}

Result<std::vector<std::string>> buildEnvironment(const SpecInput& input, const std::string& home) {
  const auto& config = input.container.config;
  Environment environment;
  environment.set(kPath);
  if (config.tty) environment.set("TERM=xterm");
  environment.set("HOSTNAME=" + input.hostname);
  for (const auto& entry : input.image.environment) {
    if (entry.empty() || entry.front() == '=') continue;
    USERPOD_CHECK(checkBytes("environment of image " + input.container.imageName, entry));
    environment.set(entry.find('=') == std::string::npos ? entry + "=" : entry);
  }
  for (const auto& [name, value] : config.environment) {
    if (name.empty() || name.find('=') != std::string::npos)
      return Error(Code::InvalidArgument, "envs has a name that is empty or contains \"=\"; give NAME and value apart");
    USERPOD_CHECK(checkBytes("the name of an environment variable", name));
    USERPOD_CHECK(checkBytes("environment variable " + name, value));
    environment.set(name + "=" + value);
  }
  // The runtime would look the home directory up itself, but only when it starts, and not the same for exec.
  if (!environment.has("HOME")) environment.set("HOME=" + home);
  return environment.take();
}

Status addProcess(SpecParts& parts) {
  SpecInput& input = parts.input;
  const auto& config = input.container.config;
  USERPOD_TRY(args, buildArgs(input));
  USERPOD_TRY(who, resolveUser(input));
  USERPOD_CHECK(addFiles(input, who));
  USERPOD_TRY(environment, buildEnvironment(input, who.home));
  USERPOD_TRY(directory, workingDirectory(input));
  Json process;
  process["terminal"] = config.tty;
  process["args"] = args;
  process["env"] = environment;
  process["cwd"] = directory;
  process["user"] = {{"uid", who.user.uid}, {"gid", who.user.gid}, {"additionalGids", who.user.groups}};
  process["oomScoreAdj"] = clampOomScore(input, config.resources ? config.resources->oomScoreAdj : 0);
  process["rlimits"] = fileLimit(input);
  parts.spec["process"] = std::move(process);
  parts.built.args = args;
  parts.built.workingDirectory = directory;
  parts.built.user = who.user;
  int signal = config.stopSignal != 0 ? config.stopSignal : signalNumber(input.image.stopSignal);
  parts.built.stopSignal = signal != 0 ? signal : SIGTERM;
  return {};
}

int signalNumber(const std::string& text) {
  if (text.empty()) return 0;
  if (std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    auto number = text.size() <= 2 ? std::strtol(text.c_str(), nullptr, 10) : 0;
    return number >= 1 && number <= 64 ? static_cast<int>(number) : 0;
  }
  std::string name = text.starts_with("SIG") ? text.substr(3) : text;
  // Real-time signals by the kernel's numbers less the two that libc keeps, as images mean them.
  for (auto [base, number, sign] : {std::tuple{"RTMIN", 34, 1}, std::tuple{"RTMAX", 64, -1}}) {
    if (!name.starts_with(base)) continue;
    std::string offset = name.substr(5);
    if (offset.empty()) return number;
    if (offset.front() != (sign > 0 ? '+' : '-') || offset.size() > 3) return 0;
    auto result = number + sign * static_cast<int>(std::strtol(offset.c_str() + 1, nullptr, 10));
    return result >= 34 && result <= 64 ? result : 0;
  }
  for (int number = 1; number < 32; ++number)
    if (const char* known = ::sigabbrev_np(number); known != nullptr && name == known) return number;
  return name == "IOT" ? SIGABRT : name == "CLD" ? SIGCHLD : name == "POLL" ? SIGPOLL : 0;
}

}  // namespace userpod::oci
