#include "daemon/network/cni/capabilities.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>

#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

// As kubelet has them: in bits per second, from 1 kbit to 1 Pbit. No limit of a burst but what plugins can count.
constexpr std::int64_t kLeastRate = 1000;
constexpr std::int64_t kMostRate = 1'000'000'000'000'000;
constexpr std::int64_t kBurst = INT32_MAX;

Error badAnnotation(const std::string& name, const std::string& value, std::string_view want) {
  return {Code::InvalidArgument, fmt::format("annotation {} is \"{}\"; {}", name, excerpt(value), want)};
}

struct Scale {
  int base = 10;
  int exponent = 0;
};

std::optional<Scale> scaleOf(std::string_view suffix) {
  static const std::map<std::string_view, Scale> table = {
      {"n", {10, -9}}, {"u", {10, -6}}, {"m", {10, -3}}, {"", {10, 0}},   {"k", {10, 3}},  {"M", {10, 6}},
      {"G", {10, 9}},  {"T", {10, 12}}, {"P", {10, 15}}, {"E", {10, 18}}, {"Ki", {2, 10}}, {"Mi", {2, 20}},
      {"Gi", {2, 30}}, {"Ti", {2, 40}}, {"Pi", {2, 50}}, {"Ei", {2, 60}}};
  auto found = table.find(suffix);
  if (found != table.end()) return found->second;
  if (suffix.size() < 2 || (suffix[0] != 'e' && suffix[0] != 'E')) return {};
  suffix.remove_prefix(suffix[1] == '+' ? 2 : 1);
  int exponent = 0;
  auto parsed = std::from_chars(suffix.data(), suffix.data() + suffix.size(), exponent);
  if (parsed.ec != std::errc() || parsed.ptr != suffix.data() + suffix.size() || exponent < -30 || exponent > 18)
    return {};
  return Scale{10, exponent};
}

std::vector<std::string> commaSeparated(const std::string& text) {
  std::vector<std::string> items;
  for (const auto& item : split(text, ',')) items.emplace_back(trim(item));
  return items;
}

bool isAddress(const std::string& text, bool prefixRequired) {
  auto slash = text.find('/');
  std::array<unsigned char, 16> bytes{};
  std::string address = text.substr(0, slash);
  int family = address.find(':') == std::string::npos ? AF_INET : AF_INET6;
  if (address.find('\0') != std::string::npos || ::inet_pton(family, address.c_str(), bytes.data()) != 1) return false;
  if (slash == std::string::npos) return !prefixRequired;
  unsigned prefix = 0;
  const char* end = text.data() + text.size();
  auto parsed = std::from_chars(text.data() + slash + 1, end, prefix);
  return parsed.ec == std::errc() && parsed.ptr == end && prefix <= (family == AF_INET ? 32U : 128U);
}

bool isMac(const std::string& text) {
  auto parts = split(text, ':');
  return parts.size() == 6 && std::all_of(parts.begin(), parts.end(), [](const auto& part) {
           return part.size() == 2 && part.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
         });
}

const std::string* annotation(const PodConfig& config, const char* name) {
  auto found = config.annotations.find(name);
  return found == config.annotations.end() || found->second.empty() ? nullptr : &found->second;
}

Status addBandwidth(const PodConfig& config, Json& args) {
  Json bandwidth;
  for (auto [name, direction] : {std::pair{kIngressBandwidth, "ingress"}, std::pair{kEgressBandwidth, "egress"}}) {
    const auto* text = annotation(config, name);
    if (text == nullptr) continue;
    auto rate = parseQuantity(*text);
    if (!rate || *rate < kLeastRate || *rate > kMostRate)
      return badAnnotation(name, *text, "write bits per second from 1k to 1P, as \"10M\"");
    bandwidth[std::string(direction) + "Rate"] = *rate;
    bandwidth[std::string(direction) + "Burst"] = kBurst;
  }
  if (!bandwidth.is_null()) args["bandwidth"] = std::move(bandwidth);
  return {};
}

// Each subnet is a range set of its own: host-local gives an address of each.
Result<Json> addressRanges(const std::string& text) {
  Json sets = Json::array();
  if (text.front() == '[') {
    auto wrapped = parseObject(fmt::format("{{\"sets\":{}}}", text));
    if (!wrapped) return badAnnotation(kAddressRanges, text, wrapped.error().text());
    sets = (*wrapped)["sets"];
    bool good = sets.is_array() && std::all_of(sets.begin(), sets.end(), [](const Json& set) {
                  return set.is_array() &&
                         std::all_of(set.begin(), set.end(), [](const Json& range) { return range.is_object(); });
                });
    if (!good) return badAnnotation(kAddressRanges, text, "write a list of lists of ranges, as for host-local");
    return sets;
  }
  for (const auto& subnet : commaSeparated(text)) {
    if (!isAddress(subnet, true)) return badAnnotation(kAddressRanges, text, "write subnets, as \"10.1.2.0/24\"");
    sets.push_back(Json::array({{{"subnet", subnet}}}));
  }
  return sets;
}

Status addAddresses(const PodConfig& config, Json& args) {
  if (const auto* text = annotation(config, kMac)) {
    if (!isMac(*text)) return badAnnotation(kMac, *text, "write it as \"02:00:00:12:34:56\"");
    args["mac"] = *text;
  }
  if (const auto* text = annotation(config, kAddresses)) {
    Json list = Json::array();
    for (const auto& address : commaSeparated(*text)) {
      if (!isAddress(address, false)) return badAnnotation(kAddresses, *text, "write addresses, separated by commas");
      list.push_back(address);
    }
    args["ips"] = std::move(list);
  }
  if (const auto* text = annotation(config, kAddressRanges)) {
    USERPOD_TRY(ranges, addressRanges(*text));
    args["ipRanges"] = std::move(ranges);
  }
  return {};
}

void addPorts(const PodConfig& config, Json& args) {
  static constexpr std::array<const char*, 3> kProtocols = {"tcp", "udp", "sctp"};
  Json list = Json::array();
  for (const auto& port : config.ports) {
    if (port.hostPort <= 0 || port.protocol < 0 || port.protocol > 2) continue;
    list.push_back({{"hostPort", port.hostPort},
                    {"containerPort", port.containerPort},
                    {"protocol", kProtocols.at(static_cast<std::size_t>(port.protocol))},
                    {"hostIP", port.hostIp}});
  }
  if (!list.empty()) args["portMappings"] = std::move(list);
}

}  // namespace

Result<std::int64_t> parseQuantity(const std::string& text) {
  Error bad(Code::InvalidArgument, fmt::format("\"{}\" is no quantity, as 1.5M or 10Mi", excerpt(text)));
  std::string_view rest = text;
  if (rest.starts_with("+")) rest.remove_prefix(1);
  __int128 value = 0;
  int decimals = 0, digits = 0;
  bool point = false;
  for (; !rest.empty() && (rest[0] == '.' || (rest[0] >= '0' && rest[0] <= '9')); rest.remove_prefix(1)) {
    if (rest[0] == '.') {
      if (point) return bad;
      point = true;
      continue;
    }
    if (++digits > 18) return bad;
    value = value * 10 + (rest[0] - '0');
    decimals += point ? 1 : 0;
  }
  auto scale = scaleOf(rest);
  if (digits == 0 || !scale) return bad;
  if (scale->base == 2) value <<= scale->exponent;
  int exponent = (scale->base == 10 ? scale->exponent : 0) - decimals;
  for (; exponent > 0; --exponent) value *= 10;
  __int128 divisor = 1;
  for (; exponent < 0 && divisor < (static_cast<__int128>(1) << 120); ++exponent) divisor *= 10;
  value = (value + divisor - 1) / divisor;
  if (value > INT64_MAX) return bad;
  return static_cast<std::int64_t>(value);
}

Result<Json> capabilityArgs(const PodConfig& config, const std::string& cgroup) {
  Json args = Json::object();
  addPorts(config, args);
  USERPOD_CHECK(addBandwidth(config, args));
  USERPOD_CHECK(addAddresses(config, args));
  if (config.dns) {
    Json dns = Json::object();
    for (const auto& [key, list] : {std::pair{"servers", &config.dns->servers},
                                    {"searches", &config.dns->searches},
                                    {"options", &config.dns->options}})
      if (!list->empty()) dns[key] = *list;
    if (!dns.empty()) args["dns"] = std::move(dns);
  }
  if (!cgroup.empty()) args["cgroupPath"] = cgroup;
  if (!config.annotations.empty()) args["io.kubernetes.cri.pod-annotations"] = config.annotations;
  return args;
}

Status checkTaken(const NetworkConfig& network, const PodConfig& config) {
  for (auto [name, capability] :
       {std::pair{kMac, "mac"}, std::pair{kAddresses, "ips"}, std::pair{kAddressRanges, "ipRanges"}}) {
    bool taken = std::any_of(network.plugins.begin(), network.plugins.end(),
                             [capability = capability](const auto& plugin) { return plugin.takes(capability); });
    if (annotation(config, name) == nullptr || taken) continue;
    return Error(Code::InvalidArgument,
                 fmt::format("annotation {}: no plugin of network {} takes it; give one \"capabilities\": "
                             "{{\"{}\": true}} in {}",
                             name, network.name, capability, network.file));
  }
  return {};
}

Result<CniArgs> cniArgs(const std::string& podId, const PodConfig& config) {
  CniArgs args = {{"IgnoreUnknown", "1"},
                  {"K8S_POD_NAMESPACE", config.nameSpace},
                  {"K8S_POD_NAME", config.name},
                  {"K8S_POD_INFRA_CONTAINER_ID", podId},
                  {"K8S_POD_UID", config.uid}};
  for (const auto& [key, value] : args)
    if (value.find_first_of(std::string_view(";=\n\0", 4)) != std::string::npos)
      return Error(Code::InvalidArgument,
                   fmt::format("{} \"{}\" has a sign that CNI_ARGS has no way to write: ';', '=' or a line break", key,
                               excerpt(value)));
  return args;
}

Json pluginInput(const NetworkConfig& network, const PluginConfig& plugin, const Json& prevResult,
                 const Json& capabilities) {
  Json input = plugin.config;
  input["name"] = network.name;
  input["cniVersion"] = network.version;
  input.erase("cniVersions");
  if (!prevResult.is_null()) input["prevResult"] = prevResult;
  Json runtimeConfig = Json::object();
  for (const auto& item : capabilities.items())
    if (plugin.takes(item.key())) runtimeConfig[item.key()] = item.value();
  if (!runtimeConfig.empty()) input["runtimeConfig"] = std::move(runtimeConfig);
  return input;
}

}  // namespace userpod::network::cni
