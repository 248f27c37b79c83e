#include "daemon/network/sysctls.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cerrno>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

constexpr std::size_t kLongestName = 253;  // the Kubernetes API's own limit
constexpr std::size_t kLongestValue = 4096;

// sysctl.d(5): the first separator decides. "net.ipv4.conf.eth0/1.x" and "net/ipv4/conf/eth0.1/x" are the same.
std::string toPath(std::string name) {
  auto separator = name.find_first_of("./");
  if (separator == std::string::npos || name[separator] == '/') return name;
  for (char& c : name) c = c == '.' ? '/' : c == '/' ? '.' : c;
  return name;
}

bool wellFormed(const std::string& name, const std::string& path) {
  if (name.empty() || name.size() > kLongestName) return false;
  auto parts = split(path, '/');
  return parts.size() > 1 && std::all_of(parts.begin(), parts.end(), [](const std::string& part) {
           return !part.empty() && part != "." && part != ".." &&
                  std::all_of(part.begin(), part.end(), [](unsigned char c) {
                    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '*';
                  });
         });
}

bool ofNetwork(const std::string& path) {
  return path.starts_with("net/");
}

// Kubernetes' own list of what an IPC namespace has (pkg/kubelet/sysctl).
bool ofIpc(const std::string& path) {
  return path == "kernel/sem" || path.starts_with("kernel/shm") || path.starts_with("kernel/msg") ||
         path.starts_with("fs/mqueue/");
}

}  // namespace

Result<std::vector<Sysctl>> checkSysctls(const StringMap& sysctls, const NamespaceOptions& namespaces) {
  std::vector<Sysctl> list;
  for (const auto& [name, value] : sysctls) {
    std::string path = toPath(name);
    if (!wellFormed(name, path))
      return Error(Code::InvalidArgument,
                   fmt::format("sysctl \"{}\" is not a name like net.ipv4.ip_forward", name.substr(0, kLongestName)));
    if (value.size() > kLongestValue || value.find_first_of(std::string_view("\n\0", 2)) != std::string::npos)
      return Error(Code::InvalidArgument,
                   fmt::format("sysctl {}: its value must be one line of at most {} bytes", name, kLongestValue));
    if (path == "kernel/hostname")
      return Error(Code::InvalidArgument,
                   "sysctl kernel.hostname is not for a pod: config.hostname sets its host name");
    if (path == "kernel/domainname")
      return Error(Code::NotSupported,
                   "sysctl kernel.domainname: in a user namespace the kernel lets only the machine's root set it; "
                   "dns_config.searches is what programs look at");
    if (!ofNetwork(path) && !ofIpc(path))
      return Error(Code::InvalidArgument,
                   fmt::format("sysctl {} has no namespace: it would change the whole machine. A pod may set net.*, "
                               "kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*",
                               name));
    NamespaceMode mode = ofNetwork(path) ? namespaces.network : namespaces.ipc;
    if (mode == NamespaceMode::Node) {
      logWarning("sysctl {} is not set: the pod shares that namespace with the node", name);
      continue;
    }
    list.push_back({name, std::move(path), value});
  }
  return list;
}

Status applySysctls(const std::vector<Sysctl>& sysctls) {
  for (const auto& sysctl : sysctls) {
    auto file = openFile("/proc/sys/" + sysctl.path, O_WRONLY);
    Status written = file ? writeAll(file->get(), sysctl.value) : Status(std::move(file).error());
    if (written) continue;
    int reason = written.error().sysErrno();
    std::string what = "sysctl " + sysctl.name + " = " + sysctl.value;
    if (reason == ENOENT) return Error(Code::InvalidArgument, what + ": this kernel has no such sysctl", reason);
    if (reason == EACCES || reason == EPERM)
      return Error(Code::NotSupported, what + ": this kernel lets only the machine's root set it", reason);
    return sysError(what, reason).as(Code::InvalidArgument);
  }
  return {};
}

}  // namespace userpod::network
