#include "daemon/network/cni/result.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "daemon/network/cni/config.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

constexpr std::size_t kResultEntries = 256;  // interfaces, and addresses

// The address of "10.1.2.3/24" or "10.1.2.3", written as the kernel would; empty: it is none.
std::string bareAddress(const std::string& text) {
  auto slash = text.find('/');
  std::string address = text.substr(0, slash);
  std::array<unsigned char, 16> bytes{};
  std::array<char, INET6_ADDRSTRLEN> written{};
  int family = address.find(':') == std::string::npos ? AF_INET : AF_INET6;
  if (address.find('\0') != std::string::npos || ::inet_pton(family, address.c_str(), bytes.data()) != 1) return {};
  if (slash != std::string::npos) {
    unsigned prefix = 0;
    const char* end = text.data() + text.size();
    auto parsed = std::from_chars(text.data() + slash + 1, end, prefix);
    if (parsed.ec != std::errc() || parsed.ptr != end || prefix > (family == AF_INET ? 32U : 128U)) return {};
  }
  return ::inet_ntop(family, bytes.data(), written.data(), written.size());
}

Status checkInterfaces(const Json& result) {
  USERPOD_TRY(interfaces, containerOf(result, "interfaces", "", Json::value_t::array));
  if (interfaces->size() > kResultEntries) return wrongKey("", "interfaces", "has too many entries");
  for (std::size_t i = 0; i < interfaces->size(); ++i) {
    const auto& item = (*interfaces)[i];
    std::string place = fmt::format("interfaces[{}]", i);
    if (!item.is_object()) return wrongKey("", place, "must be an object");
    for (const char* key : {"name", "mac", "sandbox"}) {
      auto text = textOf(item, key, place);
      if (!text) return std::move(text).error();
    }
  }
  return {};
}

Status checkAddresses(const Json& result) {
  USERPOD_TRY(ips, containerOf(result, "ips", "", Json::value_t::array));
  std::size_t interfaces = memberOf(result, "interfaces").size();
  if (ips->size() > kResultEntries) return wrongKey("", "ips", "has too many entries");
  for (std::size_t i = 0; i < ips->size(); ++i) {
    const auto& item = (*ips)[i];
    std::string place = fmt::format("ips[{}]", i);
    if (!item.is_object()) return wrongKey("", place, "must be an object");
    USERPOD_TRY(address, textOf(item, "address", place));
    if (bareAddress(address).empty()) return wrongKey(place, "address", "must be an address with its prefix length");
    const auto& interface = memberOf(item, "interface");
    if (interface.is_null()) continue;
    if (!interface.is_number_integer() || interface < 0 || interface >= interfaces)
      return wrongKey(place, "interface", "must be the number of an entry of \"interfaces\"");
  }
  return {};
}

// Before 0.3.0 there was one address of each family.
Status checkOldAddresses(const Json& result) {
  for (const char* key : {"ip4", "ip6"}) {
    USERPOD_TRY(family, containerOf(result, key, "", Json::value_t::object));
    if (family->is_null()) continue;
    USERPOD_TRY(address, textOf(*family, "ip", key));
    if (bareAddress(address).empty()) return wrongKey(key, "ip", "must be an address with its prefix length");
  }
  return {};
}

}  // namespace

Result<Json> parseResult(std::string_view out, const std::string& version, const JsonLimits& limits) {
  USERPOD_TRY(result, parseObject(out, limits));
  USERPOD_TRY(own, textOf(result, "cniVersion", ""));
  if (own.empty()) result["cniVersion"] = own = version;
  if (!isKnownVersion(own))
    return wrongKey("", "cniVersion", fmt::format("is \"{}\", which is not known", excerpt(own)));
  USERPOD_CHECK(checkInterfaces(result));
  USERPOD_CHECK(checkAddresses(result));
  USERPOD_CHECK(checkOldAddresses(result));
  return std::move(result);
}

std::vector<std::string> addressesIn(const Json& result, const std::string& interface) {
  std::vector<std::string> own, others;
  const auto& interfaces = memberOf(result, "interfaces");
  for (const auto& item : memberOf(result, "ips")) {
    std::string address = bareAddress(item["address"]);
    const auto& index = memberOf(item, "interface");
    if (index.is_null()) {
      own.push_back(address);
      continue;
    }
    const auto& link = interfaces[index.get<std::size_t>()];
    if (memberOf(link, "sandbox").is_null() || link["sandbox"] == "") continue;  // the node's end
    (memberOf(link, "name") == interface ? own : others).push_back(address);
  }
  for (const char* key : {"ip4", "ip6"})
    if (const auto& family = memberOf(result, key); family.is_object()) own.push_back(bareAddress(family["ip"]));
  auto& addresses = own.empty() ? others : own;
  auto first = std::find_if(addresses.begin(), addresses.end(),
                            [](const auto& address) { return address.find(':') == std::string::npos; });
  if (first != addresses.end()) std::rotate(addresses.begin(), first, first + 1);
  return addresses;
}

std::string PluginError::text() const {
  std::string all = excerpt(message, 1000);
  if (!details.empty() && details != message) all += "; " + excerpt(details, 1000);
  return fmt::format("{} (code {})", all.empty() ? "it gave no reason" : all, code);
}

std::optional<PluginError> parsePluginError(std::string_view out) {
  auto object = parseObject(out);
  if (!object) return {};
  const auto& code = memberOf(*object, "code");
  auto message = textOf(*object, "msg", "");
  auto details = textOf(*object, "details", "");
  // Unsigned above the signed range reads as another number: no plugin has such codes.
  if (!code.is_number_integer() || !message || !details) return {};
  return PluginError{code.get<std::int64_t>(), *message, *details};
}

std::vector<std::string> parseVersions(std::string_view out) {
  auto object = parseObject(out);
  if (!object) return {};
  auto versions = textsOf(*object, "supportedVersions", "");
  return versions ? std::move(*versions) : std::vector<std::string>();
}

}  // namespace userpod::network::cni
