#include "daemon/network/pod_files.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>

#include "daemon/network/network.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "userns/resolver.hpp"

namespace userpod::network {
namespace {

constexpr std::size_t kMostValues = 256;
constexpr std::size_t kLongestValue = 1024;
constexpr std::size_t kLongestHostname = 64;    // HOST_NAME_MAX of the kernel
constexpr std::size_t kLargestFile = 1U << 20;  // of the node's own hosts file

Status checkValues(const char* field, const std::vector<std::string>& values) {
  if (values.size() > kMostValues)
    return Error(Code::InvalidArgument,
                 fmt::format("{}: {} values are too many, {} at most", field, values.size(), kMostValues));
  for (const auto& value : values) {
    bool bad = value.empty() || value.size() > kLongestValue ||
               std::any_of(value.begin(), value.end(), [](unsigned char c) { return c <= ' ' || c == 0x7f; });
    if (bad)
      return Error(Code::InvalidArgument,
                   fmt::format("{}: each value must be one word of at most {} bytes, without blanks and line breaks",
                               field, kLongestValue));
  }
  return {};
}

std::string joined(const char* keyword, const std::vector<std::string>& values) {
  std::string line;
  for (const auto& value : values) line += " " + value;
  return line.empty() ? line : keyword + line + "\n";
}

Result<std::string> resolvConfOf(const PodConfig& config) {
  const auto& dns = config.dns;
  if (dns && !(dns->servers.empty() && dns->searches.empty() && dns->options.empty())) return resolvConf(*dns);
  return podResolvConf();
}

}  // namespace

Result<std::string> resolvConf(const DnsConfig& dns) {
  USERPOD_CHECK(checkValues("dns_config.servers", dns.servers));
  USERPOD_CHECK(checkValues("dns_config.searches", dns.searches));
  USERPOD_CHECK(checkValues("dns_config.options", dns.options));
  std::string text = joined("search", dns.searches);
  for (const auto& server : dns.servers) text += "nameserver " + server + "\n";
  return text + joined("options", dns.options);
}

std::string podHosts(const std::string& hostname, const std::vector<std::string>& addresses, bool uplink) {
  std::string text =
      "127.0.0.1\tlocalhost\n"
      "::1\tlocalhost ip6-localhost ip6-loopback\n"
      "fe00::0\tip6-localnet\n"
      "fe00::0\tip6-mcastprefix\n"
      "fe00::1\tip6-allnodes\n"
      "fe00::2\tip6-allrouters\n";
  // The canonical name first, as gethostbyaddr takes it; a full name has its short form too, as from kubelet and
  // Docker.
  std::string names = hostname;
  if (auto dot = hostname.find('.'); dot != std::string::npos && dot > 0) names += " " + hostname.substr(0, dot);
  for (const auto& address : addresses) text += address + "\t" + names + "\n";
  return nodeHosts(text, uplink);
}

Status checkHostname(const std::string& hostname) {
  bool good = !hostname.empty() && hostname.size() <= kLongestHostname &&
              std::all_of(hostname.begin(), hostname.end(),
                          [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_'; });
  if (good) return {};
  return Error(Code::InvalidArgument,
               fmt::format("hostname: \"{}\" is not a host name of 1 to {} letters, digits, dots and hyphens",
                           isUtf8(hostname) ? hostname.substr(0, kLongestHostname) : "?", kLongestHostname));
}

Status writePodFiles(const std::string& directory, const PodConfig& config, const std::string& hostname,
                     const std::vector<std::string>& addresses) {
  USERPOD_CHECK(checkHostname(hostname));
  USERPOD_TRY(resolv, resolvConfOf(config));
  auto resolver = readFile("/etc/resolv.conf", kLargestFile);
  std::string hosts = podHosts(hostname, addresses, resolver && namesUplinkResolver(*resolver));
  if (config.security.namespaces.network == NamespaceMode::Node) {
    if (auto node = readFile("/etc/hosts", kLargestFile); node && !node->empty()) hosts = std::move(*node);
  }
  USERPOD_CHECK(makeDirectories(directory, 0700));
  USERPOD_CHECK(writeFile(directory + "/resolv.conf", resolv));
  USERPOD_CHECK(writeFile(directory + "/hosts", hosts));
  return writeFile(directory + "/hostname", hostname + "\n");
}

}  // namespace userpod::network
