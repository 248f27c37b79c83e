// CNI's formats: configurations, results, quantities, capabilities, the cache.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "daemon/network/cni/cache.hpp"
#include "daemon/network/cni/registry.hpp"
#include "daemon/network/cni/result.hpp"
#include "daemon/sys/fd.hpp"
#include "tests/unit/namespace.hpp"

namespace userpod::network::cni {
namespace {

std::string problemOf(const std::string& text, bool list = true) {
  auto network = parseNetwork(text, list);
  if (network) return "";
  EXPECT_EQ(network.error().code(), Code::ConfigInvalid);
  return network.error().text();
}

void expectProblem(const std::string& text, const std::string& part, bool list = true) {
  auto problem = problemOf(text, list);
  EXPECT_NE(problem.find(part), std::string::npos) << text << "\n gives: " << problem;
}

TEST(CniConfig, ReadsAList) {
  auto network = parseNetwork(R"({"cniVersion": "0.4.0", "name": "pods", "disableCheck": "true", "disableGC": true,
    "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}},
                {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}}]})",
                              true);
  ASSERT_TRUE(network) << network.error().text();
  EXPECT_EQ(network->name, "pods");
  EXPECT_EQ(network->version, "0.4.0");
  EXPECT_TRUE(network->disableCheck && network->disableGc);
  ASSERT_EQ(network->plugins.size(), 2U);
  EXPECT_EQ(network->plugins[0].ipam, "host-local");
  EXPECT_TRUE(network->plugins[1].takes("portMappings"));
  EXPECT_FALSE(network->plugins[1].takes("mac"));
  EXPECT_FALSE(network->plugins[0].takes("portMappings"));
}

TEST(CniConfig, ReadsASinglePlugin) {
  auto network = parseNetwork(R"({"name": "one", "type": "ptp"})", false);
  ASSERT_TRUE(network) << network.error().text();
  EXPECT_EQ(network->version, "0.1.0");
  ASSERT_EQ(network->plugins.size(), 1U);
  EXPECT_EQ(network->plugins[0].type, "ptp");
}

TEST(CniConfig, TakesTheHighestKnownVersion) {
  auto versions = [](const std::string& members) {
    auto network = parseNetwork(R"({"name": "n", "plugins": [{"type": "p"}], )" + members + "}", true);
    EXPECT_TRUE(network) << network.error().text();
    return network ? network->versions : std::vector<std::string>();
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(versions(R"("cniVersion": "0.3.1")"), List{"0.3.1"});
  EXPECT_EQ(versions(R"("cniVersions": ["0.3.1", "1.1.0", "0.4.0", "9.0.0"])"), (List{"1.1.0", "0.4.0", "0.3.1"}));
  EXPECT_EQ(versions(R"("cniVersion": "1.0.0", "cniVersions": ["0.3.0", "1.0.0"])"), (List{"1.0.0", "0.3.0"}));
  expectProblem(R"({"name": "n", "cniVersion": "1.2.0", "plugins": [{"type": "p"}]})", "1.1.0: write one of them");
  expectProblem(R"({"name": "n", "cniVersion": 1, "plugins": [{"type": "p"}]})", "\"cniVersion\" must be a string");
  for (auto one : kVersions)
    EXPECT_EQ(versions(R"("cniVersion": ")" + std::string(one) + "\""), List{std::string(one)});
}

TEST(CniConfig, NamesWhatIsWrong) {
  expectProblem("{\n\"name\": }", "line 2");
  expectProblem("[]", "not a JSON object");
  expectProblem("", "not JSON");
  expectProblem("{}", "\"name\" is missing");
  expectProblem(R"({"name": 1})", "\"name\" must be a string");
  for (const char* name : {"../up", "a/b", ".a", "-a", "a b", "a\\u0000"})
    expectProblem(std::string(R"({"name": ")") + name + "\"}", "\"name\" must begin with a letter");
  expectProblem(R"({"name": "n", "plugins": {}})", "\"plugins\" must be a list");
  expectProblem(R"({"name": "n", "plugins": []})", "\"plugins\" has no plugin");
  expectProblem(R"({"name": "n", "plugins": [1]})", "\"plugins[0]\" must be an object");
  expectProblem(R"({"name": "n", "plugins": [{"type": "a"}, {}]})", "\"plugins[1].type\" is missing");
  expectProblem(R"({"name": "n", "plugins": [{"type": "../sh"}]})", "\"plugins[0].type\" must be the name");
  expectProblem(R"({"name": "n", "type": "/bin/sh"})", "\"type\" must be the name", false);
  expectProblem(R"({"name": "n", "plugins": [{"type": "a", "capabilities": []}]})", "must be an object");
  expectProblem(R"({"name": "n", "plugins": [{"type": "a", "capabilities": {"x": 1}}]})",
                "\"plugins[0].capabilities.x\" must be true or false");
  expectProblem(R"({"name": "n", "plugins": [{"type": "a", "ipam": {"type": "a/b"}}]})", "plugins[0].ipam.type");
  expectProblem(R"({"name": "n", "disableCheck": 1, "plugins": [{"type": "a"}]})", "\"disableCheck\"");
  expectProblem(R"({"name": "n", "cniVersions": "1", "plugins": [{"type": "a"}]})", "\"cniVersions\" must be a list");
  expectProblem(std::string(2 << 20, ' '), "longer than");
  expectProblem(R"({"name":)" + std::string(1000, '[') + std::string(1000, ']') + "}", "nested deeper");
}

class CniFiles : public ::testing::Test {
 protected:
  ~CniFiles() override { (void)removeTree(base_); }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(base_ + "/" + name).parent_path());
    ASSERT_TRUE(writeFile(base_ + "/" + name, text));
  }
  std::string base_ = userpod::testing::makeTestDirectory();
};

TEST_F(CniFiles, ComeByDirectoryAndName) {
  auto list = [](const std::string& name) { return R"({"name": ")" + name + R"(", "plugins": [{"type": "p"}]})"; };
  write("user/20.conflist", list("c"));
  write("user/10.json", R"({"name": "b", "type": "p"})");
  write("user/05.txt", "not looked at");
  write("user/.hidden.conflist", list("hidden"));
  write("user/dir.conflist/x", "");
  write("etc/01.conf", R"({"name": "d", "type": "p"})");
  write("etc/02.conflist", "{");
  ASSERT_EQ(::mkfifo((base_ + "/etc/03.conf").c_str(), 0600), 0);
  auto networks = readNetworks({base_ + "/user", base_ + "/nowhere", base_ + "/etc"});
  std::vector<std::string> names;
  for (const auto& network : networks) names.push_back(network.name);
  EXPECT_EQ(names, (std::vector<std::string>{"b", "c", "d", "", ""}));
  EXPECT_EQ(networks[3].problem.find(base_ + "/etc/02.conflist: is not JSON"), 0U) << networks[3].problem;
  EXPECT_NE(networks[4].problem.find("not a regular file"), std::string::npos) << networks[4].problem;
}

TEST_F(CniFiles, PluginsLieBesideTheList) {
  write("n.conflist", R"({"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "a"}]})");
  write("n/20.conf", R"({"type": "c"})");
  write("n/10.conf", R"({"type": "b"})");
  auto types = [&] {
    auto networks = readNetworks({base_});
    std::string all;
    for (const auto& plugin : networks.at(0).plugins) all += plugin.type;
    return all + networks.at(0).problem;
  };
  EXPECT_EQ(types(), "abc");
  write("n.conflist", R"({"name": "n", "cniVersion": "1.1.0"})");
  EXPECT_EQ(types(), "bc");
  write("n.conflist", R"({"name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "a"}]})");
  EXPECT_EQ(types(), "a");
  write("n.conflist", R"({"name": "n", "loadOnlyInlinedPlugins": true})");
  EXPECT_NE(types().find("has no plugin"), std::string::npos);
  write("n.conflist", R"({"name": "n"})");
  write("n/20.conf", "{}");
  EXPECT_EQ(types(), base_ + "/n/20.conf: \"type\" is missing");
}

TEST(CniResult, AddressesOfEachVersion) {
  auto addresses = [](const std::string& text) {
    auto result = parseResult(text, "1.0.0");
    EXPECT_TRUE(result) << result.error().text();
    return result ? addressesIn(*result, "eth0") : std::vector<std::string>();
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(addresses(R"({"cniVersion": "0.2.0", "ip6": {"ip": "FD00::0:2/64"}, "ip4": {"ip": "10.1.0.2/16"}})"),
            (List{"10.1.0.2", "fd00::2"}));
  EXPECT_EQ(
      addresses(R"({"ips": [{"address": "fd00::2/64"}, {"address": "10.1.0.2/16"}, {"address": "10.1.0.3/16"}]})"),
      (List{"10.1.0.2", "fd00::2", "10.1.0.3"}));
  std::string interfaces = R"("interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/ns"},
    {"name": "net1", "sandbox": "/ns"}])";
  EXPECT_EQ(addresses("{" + interfaces + R"(, "ips": [{"interface": 0, "address": "10.1.0.1/16"},
    {"interface": 2, "address": "10.2.0.2/16"}, {"version": "4", "interface": 1, "address": "10.1.0.2/16"}]})"),
            List{"10.1.0.2"});
  EXPECT_EQ(addresses("{" + interfaces + R"(, "ips": [{"interface": 2, "address": "10.2.0.2/16"}]})"),
            List{"10.2.0.2"});
  EXPECT_EQ(addresses("{}"), List{});
  EXPECT_EQ(parseResult("{}", "0.3.1")->at("cniVersion"), "0.3.1");
}

TEST(CniResult, NamesWhatIsWrong) {
  auto problem = [](const std::string& text) {
    auto result = parseResult(text, "1.0.0");
    return result ? "" : result.error().text();
  };
  EXPECT_NE(problem("hello").find("not JSON"), std::string::npos);
  EXPECT_EQ(problem(R"({"ips": {}})"), "\"ips\" must be a list");
  EXPECT_EQ(problem(R"({"ips": [{}]})"), "\"ips[0].address\" must be an address with its prefix length");
  for (const char* address : {"10.0.0/8", "10.0.0.1/33", "fd00::/129", "1.2.3.4/", "x", "1.2.3.4/8x", "1.2.3.4\\u0000"})
    EXPECT_NE(problem(std::string(R"({"ips": [{"address": ")") + address + "\"}]}"), "") << address;
  for (const char* index : {"1", "-1", "\"0\"", "0.5", "18446744073709551615"})
    EXPECT_EQ(
        problem(std::string(R"({"interfaces": [{}], "ips": [{"address": "10.0.0.1/8", "interface": )") + index + "}]}"),
        "\"ips[0].interface\" must be the number of an entry of \"interfaces\"")
        << index;
  EXPECT_EQ(problem(R"({"ip4": {"ip": 1}})"), "\"ip4.ip\" must be a string");
  EXPECT_EQ(problem(R"({"interfaces": [{"sandbox": {}}]})"), "\"interfaces[0].sandbox\" must be a string");
  EXPECT_EQ(problem(R"({"cniVersion": "7"})"), "\"cniVersion\" is \"7\", which is not known");
}

TEST(CniResult, ErrorsOfPlugins) {
  auto error = parsePluginError(R"({"cniVersion": "1.0.0", "code": 7, "msg": "bad", "details": "so and so"})");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->text(), "bad; so and so (code 7)");
  EXPECT_EQ(parsePluginError(R"({"code": 100})")->text(), "it gave no reason (code 100)");
  for (const char* text : {"", "{}", R"({"code": "7"})", R"({"code": 7, "msg": 1})", "failed"})
    EXPECT_FALSE(parsePluginError(text)) << text;
  EXPECT_EQ(parseVersions(R"({"supportedVersions": ["0.4.0", "1.0.0"]})"),
            (std::vector<std::string>{"0.4.0", "1.0.0"}));
  EXPECT_TRUE(parseVersions(R"({"supportedVersions": 1})").empty());
}

TEST(CniResult, TheVersionAllSpeak) {
  NetworkConfig network{.versions = {"1.1.0", "1.0.0", "0.4.0"}};
  EXPECT_EQ(commonVersion(network, {}), "1.1.0");
  EXPECT_EQ(commonVersion(network, {{"a", {"0.4.0", "1.0.0"}}, {"b", {}}}), "1.0.0");
  EXPECT_EQ(commonVersion(network, {{"a", {"1.0.0"}}, {"b", {"0.4.0"}}}), "");
}

TEST(CniCapabilities, Quantities) {
  for (const auto& [text, value] : std::map<std::string, std::int64_t>{{"0", 0},
                                                                       {"1", 1},
                                                                       {"10M", 10'000'000},
                                                                       {"1k", 1000},
                                                                       {"1.1k", 1100},
                                                                       {"0.0001k", 1},
                                                                       {"1500m", 2},
                                                                       {"1Ki", 1024},
                                                                       {"1.5Mi", 1572864},
                                                                       {"1e6", 1'000'000},
                                                                       {"1.5E3", 1500},
                                                                       {"25e-1", 3},
                                                                       {"+2G", 2'000'000'000},
                                                                       {".5k", 500},
                                                                       {"5.", 5},
                                                                       {"1E", 1'000'000'000'000'000'000},
                                                                       {"1n", 1},
                                                                       {"7Ei", 7LL << 60}}) {
    auto parsed = parseQuantity(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, value) << text;
  }
  for (const char* text : {"", "-1", "M", ".", "1.2.3", "1KB", "1 k", "0x10", "8Ei", "10E", "1e99", "1e", "1e+", "k1",
                           "9999999999999999999", "999999999999999999P", "1\n"})
    EXPECT_FALSE(parseQuantity(text)) << text;
}

PodConfig fullPod() {
  PodConfig config{.name = "web", .uid = "u-1", .nameSpace = "default"};
  config.ports = {{.protocol = 0, .containerPort = 80, .hostPort = 8080, .hostIp = ""},
                  {.protocol = 1, .containerPort = 53, .hostPort = 5353, .hostIp = "127.0.0.1"},
                  {.protocol = 0, .containerPort = 81, .hostPort = 0, .hostIp = ""}};
  config.dns = DnsConfig{.servers = {"10.0.0.10"}, .searches = {"a.b"}, .options = {"ndots:5"}};
  config.annotations = {{kIngressBandwidth, "10M"},
                        {kEgressBandwidth, "1Mi"},
                        {kMac, "02:00:00:12:34:56"},
                        {kAddresses, "10.1.0.9/16, fd00::9"},
                        {kAddressRanges, "10.2.0.0/24"}};
  return config;
}

TEST(CniCapabilities, OfAPod) {
  auto config = fullPod();
  auto args = capabilityArgs(config, "/kubepods/pod1");
  ASSERT_TRUE(args) << args.error().text();
  auto annotations = (*args)["io.kubernetes.cri.pod-annotations"];
  EXPECT_EQ(annotations.size(), 5U);
  args->erase("io.kubernetes.cri.pod-annotations");
  EXPECT_EQ(*args, Json::parse(R"({
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                     {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}],
    "bandwidth": {"ingressRate": 10000000, "ingressBurst": 2147483647, "egressRate": 1048576, "egressBurst": 2147483647},
    "mac": "02:00:00:12:34:56", "ips": ["10.1.0.9/16", "fd00::9"], "ipRanges": [[{"subnet": "10.2.0.0/24"}]],
    "dns": {"servers": ["10.0.0.10"], "searches": ["a.b"], "options": ["ndots:5"]}, "cgroupPath": "/kubepods/pod1"})"));
  EXPECT_EQ(*capabilityArgs({}, ""), Json::object());
}

TEST(CniCapabilities, WrongAnnotationsAreNamed) {
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{kIngressBandwidth, "999"},
                                                        {kEgressBandwidth, "2P"},
                                                        {kIngressBandwidth, "fast"},
                                                        {kMac, "02:00:00:12:34"},
                                                        {kMac, "02:00:00:12:34:5g"},
                                                        {kAddresses, "10.1.0.9,"},
                                                        {kAddresses, "10.1.0.9/64"},
                                                        {kAddressRanges, "10.2.0.0"},
                                                        {kAddressRanges, "[{}]"},
                                                        {kAddressRanges, "[[]], \"x\": [1"}}) {
    PodConfig config;
    config.annotations[name] = value;
    auto args = capabilityArgs(config, "");
    ASSERT_FALSE(args) << name << " " << value;
    EXPECT_EQ(args.error().code(), Code::InvalidArgument);
    EXPECT_NE(args.error().text().find(name), std::string::npos) << args.error().text();
  }
}

TEST(CniCapabilities, WhatIsAskedForMustBeTaken) {
  auto network = parseNetwork(R"({"name": "n", "plugins": [{"type": "p", "capabilities": {"mac": true}}]})", true);
  PodConfig config;
  config.annotations[kMac] = "02:00:00:12:34:56";
  EXPECT_TRUE(checkTaken(*network, config));
  config.annotations[kAddresses] = "10.1.0.9";
  auto refused = checkTaken(*network, config);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::InvalidArgument);
  EXPECT_NE(refused.error().text().find("\"ips\": true"), std::string::npos) << refused.error().text();
}

TEST(CniCapabilities, PluginsGetWhatTheyDeclare) {
  auto network = parseNetwork(R"({"cniVersion": "1.0.0", "cniVersions": ["1.0.0"], "name": "n", "plugins": [
    {"type": "a", "capabilities": {"mac": true, "ips": true}, "runtimeConfig": {"old": 1}}, {"type": "b"}]})",
                              true);
  Json capabilities = {{"mac", "02:00:00:00:00:01"}, {"portMappings", Json::array()}};
  EXPECT_EQ(pluginInput(*network, network->plugins[0], Json(), capabilities),
            Json::parse(R"({"type": "a", "name": "n", "cniVersion": "1.0.0", "capabilities": {"mac": true, "ips": true},
                            "runtimeConfig": {"mac": "02:00:00:00:00:01"}})"));
  EXPECT_EQ(pluginInput(*network, network->plugins[1], {{"ips", Json::array()}}, capabilities),
            Json::parse(R"({"type": "b", "name": "n", "cniVersion": "1.0.0", "prevResult": {"ips": []}})"));
}

TEST(CniCapabilities, ArgsOfKubernetes) {
  PodConfig config{.name = "web", .uid = "u-1", .nameSpace = "default"};
  auto args = cniArgs("id", config);
  ASSERT_TRUE(args);
  EXPECT_EQ(*args, (CniArgs{{"IgnoreUnknown", "1"},
                            {"K8S_POD_NAMESPACE", "default"},
                            {"K8S_POD_NAME", "web"},
                            {"K8S_POD_INFRA_CONTAINER_ID", "id"},
                            {"K8S_POD_UID", "u-1"}}));
  for (const char* name : {"a;K8S_POD_UID=x", "a=b", "a\nb"}) {
    config.name = name;
    auto refused = cniArgs("id", config);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text().find("K8S_POD_NAME"), std::string::npos);
  }
}

const std::string kId(64, 'a');
const std::string kOtherId(64, 'b');

Attachment someAttachment(const std::string& id = kId) {
  Attachment attachment{.podId = id, .networkNamespace = "/run/userpod/ns/x/net"};
  attachment.network = *parseNetwork(R"({"cniVersion": "1.0.0", "name": "pods-1", "plugins": [{"type": "p"}]})", true);
  attachment.args = *cniArgs(attachment.podId, fullPod());
  attachment.capabilities = *capabilityArgs(fullPod(), "/c");
  return attachment;
}

TEST_F(CniFiles, TheCacheIsLibcnis) {
  auto cache = Cache::open(base_ + "/results", {});
  ASSERT_TRUE(cache) << cache.error().text();
  auto attachment = someAttachment();
  ASSERT_TRUE((*cache)->put(attachment));
  std::string file = base_ + "/results/pods-1-" + kId + "-eth0";
  struct stat info{};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  auto object = Json::parse(*readFile(file));
  EXPECT_EQ(object["kind"], "cniCacheV1");
  EXPECT_EQ(object["containerId"], kId);
  EXPECT_EQ(object["ifName"], "eth0");
  EXPECT_EQ(object["networkName"], "pods-1");
  EXPECT_EQ(object["netns"], "/run/userpod/ns/x/net");
  EXPECT_EQ(object["cniArgs"][2], Json::parse(R"(["K8S_POD_NAME", "web"])"));
  EXPECT_EQ(object["capabilityArgs"]["mac"], "02:00:00:12:34:56");
  EXPECT_FALSE(object.contains("result"));
  EXPECT_EQ(object["config"].get<std::string>().substr(0, 8), "eyJjbmlW");  // base64 of {"cniV

  attachment.result = *parseResult(R"({"ips": [{"address": "10.1.0.2/16"}]})", "1.0.0");
  attachment.complete = true;
  ASSERT_TRUE((*cache)->put(attachment));
  auto again = Cache::open(base_ + "/results", {});
  auto known = (*again)->ofPod(kId);
  ASSERT_EQ(known.size(), 1U);
  EXPECT_EQ(attachmentText(known[0]), attachmentText(attachment));
  EXPECT_EQ(addressesIn(known[0].result, "eth0"), std::vector<std::string>{"10.1.0.2"});
  EXPECT_TRUE((*again)->ofPod(kOtherId).empty());
  ASSERT_TRUE((*again)->remove(known[0]));
  ASSERT_TRUE((*again)->remove(known[0]));
  EXPECT_FALSE(pathExists(file));
  EXPECT_TRUE((*again)->all().empty());
}

TEST_F(CniFiles, TheCacheLeavesOthersAloneAndCopesWithDamage) {
  auto network = someAttachment().network;
  auto other = Json::parse(attachmentText(someAttachment(kOtherId)));
  other.erase("org.userpod.attachment");
  write("results/pods-1-" + kOtherId + "-eth0", other.dump());
  write("results/pods-1-short-eth0", "");
  write("results/pods-1-" + kId + "-eth0", "");
  write("results/pods-1-" + std::string(64, 'c') + "-eth0.new", "{");
  write("results/gone-" + std::string(64, 'd') + "-eth0", "{\"kind\": \"cniC");
  auto cache = Cache::open(base_ + "/results", {network});
  ASSERT_TRUE(cache);
  auto known = (*cache)->all();
  ASSERT_EQ(known.size(), 1U);
  EXPECT_EQ(known[0].podId, kId);
  EXPECT_EQ(known[0].network.name, "pods-1");
  EXPECT_FALSE(known[0].complete);
  EXPECT_EQ(namesIn(base_ + "/results").size(), 3U);
  EXPECT_EQ((*cache)->attachedTo("pods-1"), (std::vector<std::pair<std::string, std::string>>{{kOtherId, "eth0"}}));
}

TEST(CniCache, ReadsNothingElse) {
  auto good = Json::parse(attachmentText(someAttachment()));
  ASSERT_TRUE(parseAttachment(good.dump()));
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{{"kind", "other"},
                                                                            {"ifName", "eth1"},
                                                                            {"containerId", "../x"},
                                                                            {"config", "e30="},
                                                                            {"config", "%%%"},
                                                                            {"config", 1},
                                                                            {"cniArgs", Json::array({1})},
                                                                            {"capabilityArgs", 1},
                                                                            {"result", 1},
                                                                            {"result", {{"ips", 1}}},
                                                                            {"org.userpod.attachment", "what"}}) {
    auto bad = good;
    bad[key] = value;
    EXPECT_FALSE(parseAttachment(bad.dump())) << key;
  }
}

}  // namespace
}  // namespace userpod::network::cni
