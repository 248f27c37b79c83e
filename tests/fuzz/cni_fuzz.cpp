// CNI: configurations of users, what plugins print, the cache, annotations. The first byte says which.
#include <algorithm>

#include "daemon/network/cni/cache.hpp"
#include "daemon/network/cni/result.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::network::cni;
using fuzz::require;

namespace {

void checkError(const Error& error, Code code) {
  require(error.code() == code, "wrong bytes are the writer's fault");
  require(error.text().size() < 2000 && isUtf8(error.text()), "the message is short and UTF-8");
}

// What is read fits into a file name, an environment variable and a program's path, and comes back from the cache.
void checkNetwork(const NetworkConfig& network) {
  require(isPlainName(network.name) && network.name.size() < 200, "a name is part of a file's name");
  require(isKnownVersion(network.version) && network.version == network.versions.front(), "the version is the highest");
  require(!network.plugins.empty(), "there is a plugin");
  Json capabilities = {{"mac", "02:00:00:00:00:01"}, {"portMappings", Json::array()}};
  for (const auto& plugin : network.plugins) {
    require(isPlainName(plugin.type) && (plugin.ipam.empty() || isPlainName(plugin.ipam)),
            "a program is a file's name");
    auto input = pluginInput(network, plugin, Json(), capabilities);
    require(input["name"] == network.name && input["cniVersion"] == network.version, "plugins get name and version");
    require(!input.contains("runtimeConfig") || plugin.takes("mac") || plugin.takes("portMappings") ||
                plugin.config.contains("runtimeConfig"),
            "only what is declared");
  }
  Attachment attachment{.podId = "a1", .networkNamespace = "/run/x", .network = network};
  auto again = parseAttachment(attachmentText(attachment));
  require(static_cast<bool>(again), "the cache reads what it wrote");
  require(networkJson(again->network) == networkJson(network), "and it is the same");
}

void checkResult(std::string_view text) {
  auto result = parseResult(text, "1.0.0");
  if (!result) return checkError(result.error(), Code::ConfigInvalid);
  for (const auto& address : addressesIn(*result, "eth0"))
    require(!address.empty() && address.find_first_not_of("0123456789abcdef.:") == std::string::npos,
            "an address is one");
}

void checkAnnotations(const std::string& text) {
  for (const char* name : {kIngressBandwidth, kMac, kAddresses, kAddressRanges}) {
    PodConfig config;
    config.annotations[name] = text;
    auto args = capabilityArgs(config, "");
    if (!args) checkError(args.error(), Code::InvalidArgument);
  }
  PodConfig config{.name = text};
  auto args = cniArgs("id", config);
  if (!args) return checkError(args.error(), Code::InvalidArgument);
  require(text.find_first_of(";=") == std::string::npos, "no name ends its value");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view text = fuzz::text(data + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
    case 1: {
      auto network = parseNetwork(text, data[0] % 5 == 0);
      if (network)
        checkNetwork(*network);
      else
        checkError(network.error(), Code::ConfigInvalid);
      break;
    }
    case 2:
      checkResult(text);
      if (auto error = parsePluginError(text)) require(isUtf8(error->text()), "the message is UTF-8");
      (void)parseVersions(text);
      break;
    case 3:
      if (auto attachment = parseAttachment(text))
        require(attachmentText(*attachment) == attachmentText(*parseAttachment(attachmentText(*attachment))),
                "the cache reads what it wrote");
      else
        checkError(attachment.error(), Code::ConfigInvalid);
      break;
    default:
      checkAnnotations(std::string(text));
  }
  return 0;
}
