#include "daemon/network/cni/plugins.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/network/cni/cache.hpp"
#include "daemon/network/cni/result.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

constexpr std::size_t kOutputLimit = 1 << 20;
constexpr std::size_t kStderrTail = 800;  // bytes of it in an error

// A file, not a pipe: a plugin need not read it, and nothing blocks.
Result<UniqueFd> inputFile(const std::string& text) {
  UniqueFd fd(::memfd_create("cni-config", MFD_CLOEXEC));
  if (!fd) return sysError("make a plugin's input");
  USERPOD_CHECK(writeAll(fd.get(), text));
  if (::lseek(fd.get(), 0, SEEK_SET) < 0) return sysError("make a plugin's input");
  return fd;
}

// The end: it says what went wrong last.
std::string stderrOf(const std::string& text) {
  std::string_view all = trim(text);
  if (all.empty()) return {};
  bool cut = all.size() > kStderrTail;
  if (cut) all.remove_prefix(all.size() - kStderrTail);
  while (cut && !all.empty() && (static_cast<unsigned char>(all[0]) & 0xc0U) == 0x80U) all.remove_prefix(1);
  return fmt::format("; its standard error: {}{}", cut ? "..." : "", excerpt(all, kStderrTail));
}

std::string endOf(const ExitStatus& status) {
  return status.signal != 0 ? fmt::format("ended by signal {}", status.signal)
                            : fmt::format("ended with status {}", status.code);
}

}  // namespace

Result<PluginCgroup> PluginCgroup::make(const NodeInside& node, const std::string& name) {
  PluginCgroup cgroup(node, "/cni/" + name);
  USERPOD_TRY(fd, node.makeCgroup(cgroup.path_));
  cgroup.fd_ = std::move(fd);
  return cgroup;
}

PluginCgroup::~PluginCgroup() {
  if (!fd_) return;
  if (auto removed = node_->removeCgroup(path_); !removed) logWarning("{}", removed.error());
}

Status PluginCgroup::renew() {
  fd_.reset();
  USERPOD_CHECK(node_->removeCgroup(path_));
  USERPOD_TRY(fd, node_->makeCgroup(path_));
  fd_ = std::move(fd);
  return {};
}

Result<std::string> Plugins::find(const std::string& type) const {
  for (const auto& directory : directories_) {
    std::string path = directory + "/" + type;
    struct stat info{};
    if (::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0) return path;
  }
  return Error(Code::HelperMissing,
               fmt::format("there is no CNI plugin \"{}\" in {}; install it (Debian: containernetworking-plugins) or "
                           "name its directory in cni-plugin-dirs of userpod.toml",
                           type, fmt::join(directories_, ", ")));
}

std::vector<std::string> Plugins::environmentOf(const Invocation& invocation) const {
  std::string args;
  for (const auto& [key, value] : invocation.args) args += fmt::format("{}{}={}", args.empty() ? "" : ";", key, value);
  std::vector<std::string> environment = {"CNI_COMMAND=" + invocation.command,
                                          fmt::format("CNI_PATH={}", fmt::join(directories_, ":")),
                                          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  if (invocation.podId.empty()) return environment;
  environment.push_back("CNI_CONTAINERID=" + invocation.podId);
  environment.push_back("CNI_NETNS=" + invocation.networkNamespace);
  environment.push_back(std::string("CNI_IFNAME=") + kInterface);
  environment.push_back("CNI_ARGS=" + args);
  return environment;
}

Result<std::string> Plugins::run(const Invocation& invocation, PluginCgroup& cgroup, std::chrono::milliseconds time,
                                 std::int64_t* code) const {
  std::string who = fmt::format("CNI plugin \"{}\" ({})", invocation.plugin, invocation.command);
  if (stopped_) return Error(Code::Canceled, who + ": not run, as the daemon is ending");
  if (cgroup.fd() < 0)
    return Error(Code::NetworkSetupFailed,
                 who + ": not run, as the cgroup for it could not be made again after a plugin that hung");
  USERPOD_TRY(program, find(invocation.plugin));
  auto input = inputFile(invocation.input.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (!input) return std::move(input).error().wrap(who);
  auto ended = userpod::run({.argv = {program},
                             .environment = environmentOf(invocation),
                             .descriptors = {{input->get(), 0}},
                             .cgroup = cgroup.fd(),
                             .networkNamespace = node_.networkNamespace.get(),
                             .directory = "/"},
                            time, kOutputLimit + 1);
  if (!ended && ended.error().code() == Code::Timeout) {
    // Its children too.
    if (auto renewed = cgroup.renew(); !renewed) logWarning("{}", renewed.error());
    return std::move(ended).error().wrap(who);
  }
  if (!ended) return std::move(ended).error().as(Code::NetworkSetupFailed).wrap(who);
  auto failed = [&](const std::string& why) {
    return Error(Code::NetworkSetupFailed, fmt::format("{}: {}{}", who, why, stderrOf(ended->err)));
  };
  if (ended->out.size() > kOutputLimit) return failed(fmt::format("printed more than {} bytes", kOutputLimit));
  if (ended->status.code == 0) return std::move(ended->out);
  auto error = parsePluginError(ended->out);
  if (!error) return failed(endOf(ended->status));
  if (code != nullptr) *code = error->code;
  return failed(error->text());
}

}  // namespace userpod::network::cni
