// The ways of packets that userpodctl network tells, from answers of the daemon.
#include <gtest/gtest.h>

#include "dbus/userpodctl/network_paths.hpp"

namespace userpod::ctl {
namespace {

const std::string kWeb = "/org/userpod1/pods/aa";

Json bridgeNetwork() {
  return Json::parse(R"({"stack": "bridge", "bridge": "upbr0", "gateways": ["10.88.0.1", "fd75::1"], "uplink": "up",
    "uplink-reason": "", "uplink-program": "/usr/bin/pasta", "host-address": "192.0.2.7", "host-loopback": false,
    "links": {"/org/userpod1/pods/aa": "upaa", "/org/userpod1/pods/bb": "upbb"},
    "ports": [{"pod": "/org/userpod1/pods/aa", "protocol": "tcp", "container-port": 80, "host-port": 81,
               "listen-port": 10081, "host-addresses": ["0.0.0.0", "::"], "node-addresses": ["::1"], "host-ip": "",
               "source-note": ""},
              {"pod": "/org/userpod1/pods/bb", "protocol": "udp", "container-port": 53, "host-port": 5300,
               "listen-port": 5300, "host-addresses": ["127.0.0.1"], "node-addresses": [], "host-ip": "127.0.0.1",
               "source-note": "not from the host"}]})");
}

Json twoPods() {
  return Json::parse(R"([
    {"Path": "/org/userpod1/pods/aa", "Name": "web", "Addresses": ["10.88.0.2", "fd75::2"], "NetworkMode": "pod"},
    {"Path": "/org/userpod1/pods/bb", "Name": "dns", "Addresses": ["10.88.0.3"], "NetworkMode": "pod"}])");
}

const Path* named(const std::vector<Path>& paths, const std::string& name) {
  for (const auto& path : paths)
    if (path.name == name) return &path;
  return nullptr;
}

// The hops of one path as "place: text", one a line; empty when there is no such path.
std::string told(const std::vector<Path>& paths, const std::string& name) {
  std::string text;
  const Path* path = named(paths, name);
  for (const auto& hop : path == nullptr ? std::vector<Hop>() : path->hops) text += hop.place + ": " + hop.text + "\n";
  return text;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(NetworkPaths, OfAPodOnTheBridge) {
  auto paths = packetPaths(bridgeNetwork(), twoPods(), 0);
  EXPECT_EQ(told(paths, "pod-to-outside"),
            "pod web: eth0 10.88.0.2, fd75::2\n"
            "node: upaa, a port of upbr0\n"
            "node: upbr0 10.88.0.1, fd75::1, the pods' gateway\n"
            "node: nftables inet userpod, chain postrouting: masquerade as tap0\n"
            "node: tap0 10.0.2.100\n"
            "host: pasta, the uplink, connects as a program of this user\n"
            "outside: sees the host's address\n");
  EXPECT_EQ(told(paths, "pod-to-pod"),
            "pod web: eth0 10.88.0.2, fd75::2\n"
            "node: upaa, a port of upbr0\n"
            "node: nftables bridge userpod: only with the pod's own addresses\n"
            "node: upbb, at the same bridge\n"
            "pod dns: eth0 10.88.0.3\n");
  EXPECT_TRUE(has(told(paths, "pod-to-host"), "dnat to 192.0.2.7"));
  EXPECT_EQ(paths.size(), 5U);  // of its own port, not of the other pod's
}

TEST(NetworkPaths, OfAHostPort) {
  auto paths = packetPaths(bridgeNetwork(), twoPods(), 0);
  auto host = told(paths, "host-to-pod");
  EXPECT_TRUE(has(host, "host: 0.0.0.0:10081, [::]:10081\n")) << host;
  EXPECT_TRUE(has(host, "with the client's own address")) << host;
  EXPECT_TRUE(has(host, "pod web: eth0 10.88.0.2:80, [fd75::2]:80\n")) << host;
  auto node = told(paths, "node-to-pod");
  EXPECT_TRUE(has(node, "node: 127.0.0.1:81, 10.88.0.1:81, [fd75::1]:81, 10.0.2.100:81\n")) << node;
  EXPECT_TRUE(has(node, "userpod-ports, which listens at [::1]:81 in the node")) << node;
  auto other = packetPaths(bridgeNetwork(), twoPods(), 1);
  EXPECT_TRUE(has(told(other, "host-to-pod"), "not always with the client's own address: not from the host"));
  EXPECT_TRUE(has(told(other, "node-to-pod"), "node: 127.0.0.1:5300\n")) << told(other, "node-to-pod");
}

TEST(NetworkPaths, OfAPodOfTheNodesNetwork) {
  auto pods = twoPods();
  pods[0]["NetworkMode"] = "node";
  pods[0]["Addresses"] = Json::array();
  auto paths = packetPaths(bridgeNetwork(), pods, 0);
  EXPECT_FALSE(has(told(paths, "pod-to-outside"), "upbr0"));
  EXPECT_TRUE(has(told(paths, "pod-to-outside"), "pod web: in the node's own network\nnode: tap0"));
  EXPECT_TRUE(has(told(paths, "host-to-pod"), "pod web: 10.0.2.100:80"));
  EXPECT_TRUE(has(told(paths, "node-to-pod"), "no translation"));
  EXPECT_FALSE(has(told(paths, "node-to-pod"), "dnat"));
}

TEST(NetworkPaths, AnUplinkThatIsDownOrNone) {
  auto network = bridgeNetwork();
  network["uplink"] = "down";
  network["uplink-reason"] = "slirp4netns ended";
  EXPECT_TRUE(has(told(packetPaths(network, twoPods(), 0), "pod-to-outside"), "DOWN: slirp4netns ended"));
  network["uplink-program"] = "";
  EXPECT_TRUE(has(told(packetPaths(network, twoPods(), 0), "pod-to-outside"), "host: the uplink, connects"));
  network["uplink"] = "none";
  auto paths = packetPaths(network, twoPods(), 0);
  for (const char* name : {"pod-to-outside", "pod-to-host"}) {
    EXPECT_TRUE(has(told(paths, name), "it ends here")) << told(paths, name);
    EXPECT_FALSE(has(told(paths, name), "tap0")) << told(paths, name);
  }
}

TEST(NetworkPaths, OfCni) {
  auto network = bridgeNetwork();
  network["stack"] = "cni";
  network.erase("links");
  network["cni"] = Json::parse(R"([{"name": "other", "plugins": ["ptp"], "chosen": false},
                                   {"name": "lan", "plugins": ["bridge", "portmap"], "chosen": true}])");
  auto paths = packetPaths(network, twoPods(), 0);
  EXPECT_TRUE(has(told(paths, "pod-to-outside"), "CNI network lan, made by bridge, portmap"));
  EXPECT_FALSE(has(told(paths, "pod-to-outside"), "upbr0"));
  EXPECT_TRUE(has(told(paths, "node-to-pod"), "dnat by the plugin portmap"));
  network["cni"][1]["plugins"] = Json::array({"bridge"});
  EXPECT_TRUE(has(told(packetPaths(network, twoPods(), 0), "node-to-pod"), "nftables inet userpod"));
}

TEST(NetworkPaths, OfAnyPodAndOfNothing) {
  auto paths = packetPaths(bridgeNetwork(), twoPods(), kAnyPod);
  EXPECT_EQ(paths.size(), 5U);
  for (const auto& path : paths)
    for (const auto& hop : path.hops) EXPECT_FALSE(has(hop.text, "10.88.0.2")) << hop.text;
  // An answer with nothing in it, as an older daemon might give.
  EXPECT_EQ(packetPaths(Json::object(), Json::array(), kAnyPod).size(), 5U);
}

TEST(NetworkPaths, ThePicture) {
  Path path{"x", "From here", {{"pod \033[1m", "a"}, {"node", "b"}, {"host", "c"}}};
  EXPECT_EQ(picture(path, false),
            "From here\n"
            "  pod ?[1m  a\n"
            "             |\n"
            "  node      b\n"
            "             v\n"
            "  host      c\n");
  EXPECT_TRUE(has(picture(path, true), "\033[1mFrom here\033[0m"));
}

TEST(NetworkPaths, Endpoints) {
  EXPECT_EQ(endpoints(Json::array({"127.0.0.1", "::1", 7}), 80), "127.0.0.1:80, [::1]:80");
  EXPECT_EQ(endpoints(Json::array(), 80), "");
}

}  // namespace
}  // namespace userpod::ctl
