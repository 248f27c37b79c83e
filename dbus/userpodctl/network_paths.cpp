#include "dbus/userpodctl/network_paths.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

// The node's own, on its tap (userns/node_network.cpp), and the uplink's, to which host.userpod.internal leads.
constexpr const char* kTapAddress = "10.0.2.100";
constexpr const char* kHostName = "host.userpod.internal (10.0.2.2)";

std::string member(const Json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

unsigned portMember(const Json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<unsigned>() : 0;
}

Json listMember(const Json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_array() ? *found : Json::array();
}

// Tells the paths of one pod, or of any.
class Teller {
 public:
  Teller(const Json& network, const Json& pods, std::size_t pod) : network_(network), pods_(pods), index_(pod) {
    if (!known()) return;
    const Json& own = pods.at(pod);
    place_ = "pod " + member(own, "Name");
    addresses_ = listMember(own, "Addresses");
    ofNode_ = member(own, "NetworkMode") == "node";
    path_ = member(own, "Path");
  }

  std::vector<Path> tell();

 private:
  bool known() const { return index_ != kAnyPod; }
  bool cni() const { return member(network_, "stack") == "cni"; }
  bool uplink() const { return member(network_, "uplink") != "none"; }
  std::string who() const { return known() ? place_.substr(4) : "a pod"; }
  std::string eth0() const { return "eth0 " + (known() ? joined(addresses_) : "with the pod's addresses"); }
  std::string podPort(unsigned port) const;
  std::string linkOf(const std::string& path) const;
  const Json* chosenNetwork() const;
  bool pluginMapsPorts() const;
  std::string pluginsText() const;
  Hop attached() const;
  void start(Path& path, const std::string& target = "") const;
  void leave(Path& path, const std::string& last) const;
  Path toOutside() const;
  Path toHost() const;
  Path toPod() const;
  Path fromHost(const Json& port) const;
  Path fromNode(const Json& port) const;

  const Json& network_;
  const Json& pods_;
  const std::size_t index_;
  std::string place_ = "pod";
  Json addresses_ = Json::array();
  bool ofNode_ = false;
  std::string path_;
};

std::string Teller::podPort(unsigned port) const {
  if (!known()) return "eth0, the container's port";
  if (ofNode_) return endpoints(uplink() ? Json::array({kTapAddress}) : listMember(network_, "gateways"), port);
  return "eth0 " + endpoints(addresses_, port);
}

std::string Teller::linkOf(const std::string& path) const {
  auto links = network_.find("links");
  std::string link = links != network_.end() && links->is_object() ? member(*links, path.c_str()) : "";
  return link.empty() ? "up... (its end of the veth)" : link;
}

const Json* Teller::chosenNetwork() const {
  auto networks = network_.find("cni");
  if (networks == network_.end() || !networks->is_array()) return nullptr;
  for (const auto& network : *networks)
    if (network.value("chosen", false)) return &network;
  return nullptr;
}

bool Teller::pluginMapsPorts() const {
  const Json* network = cni() ? chosenNetwork() : nullptr;
  if (network == nullptr) return false;
  auto plugins = listMember(*network, "plugins");
  return std::find(plugins.begin(), plugins.end(), "portmap") != plugins.end();
}

std::string Teller::pluginsText() const {
  const Json* network = chosenNetwork();
  if (network == nullptr) return "no CNI network to join";
  return fmt::format("CNI network {}, made by {}", member(*network, "name"), joined(listMember(*network, "plugins")));
}

// Where a pod's packets come out in the node.
Hop Teller::attached() const {
  if (cni()) return {"node", pluginsText()};
  return {"node", fmt::format("{}, a port of {}", linkOf(path_), member(network_, "bridge"))};
}

void Teller::start(Path& path, const std::string& target) const {
  path.hops.push_back({place_, (ofNode_ ? "in the node's own network" : eth0()) + target});
  if (ofNode_) return;
  path.hops.push_back(attached());
}

void Teller::leave(Path& path, const std::string& last) const {
  if (!uplink()) {
    path.hops.push_back({"node", "no uplink (uplink = \"none\"): it ends here"});
    return;
  }
  path.hops.push_back({"node", fmt::format("tap0 {}", kTapAddress)});
  std::string state = member(network_, "uplink") == "up" ? "" : "; DOWN: " + member(network_, "uplink-reason");
  std::string program = member(network_, "uplink-program");
  std::string uplink = program.empty() ? "the uplink" : program.substr(program.rfind('/') + 1) + ", the uplink";
  path.hops.push_back({"host", uplink + ", connects as a program of this user" + state});
  path.hops.push_back({"outside", last});
}

Path Teller::toOutside() const {
  Path path{"pod-to-outside", fmt::format("From {} to the outside", who()), {}};
  start(path);
  if (!ofNode_ && !cni())
    path.hops.push_back({"node", fmt::format("{} {}, the pods' gateway", member(network_, "bridge"),
                                             joined(listMember(network_, "gateways")))});
  if (!ofNode_ && uplink())
    path.hops.push_back({"node", cni() ? "masquerade, if the plugins do so (ipMasq)"
                                       : "nftables inet userpod, chain postrouting: masquerade as tap0"});
  leave(path, "sees the host's address");
  return path;
}

Path Teller::toHost() const {
  Path path{"pod-to-host", fmt::format("From {} to the host, by the name host.userpod.internal", who()), {}};
  start(path, std::string(", to ") + kHostName);
  std::string address = member(network_, "host-address");
  bool loopback = network_.value("host-loopback", false);
  if (uplink() && !address.empty())
    path.hops.push_back({"node", fmt::format("nftables inet userpod, chain {}: dnat to {} (map host)",
                                             ofNode_ ? "output" : "prerouting", address)});
  leave(path, loopback          ? "services on the host's 127.0.0.1 (host-loopback is set)"
              : address.empty() ? "nothing: the host has no address but its loopback"
                                : "services on the host's " + address + "; not those on its 127.0.0.1 only");
  if (uplink()) path.hops.back().place = "host";
  return path;
}

Path Teller::toPod() const {
  Path path{"pod-to-pod", fmt::format("From {} to another pod", who()), {}};
  start(path);
  const Json* other = nullptr;
  for (std::size_t i = 0; known() && i < pods_.size() && other == nullptr; ++i)
    if (i != index_ && member(pods_[i], "NetworkMode") != "node") other = &pods_[i];
  if (!cni() && !ofNode_) path.hops.push_back({"node", "nftables bridge userpod: only with the pod's own addresses"});
  if (!cni() && ofNode_) path.hops.push_back({"node", member(network_, "bridge")});
  if (cni() && ofNode_) path.hops.push_back({"node", pluginsText()});
  if (!cni())
    path.hops.push_back({"node", other == nullptr ? "up... of that pod, at the same bridge"
                                                  : linkOf(member(*other, "Path")) + ", at the same bridge"});
  path.hops.push_back({other == nullptr ? "other pod" : "pod " + member(*other, "Name"),
                       other == nullptr ? "eth0" : "eth0 " + joined(listMember(*other, "Addresses"))});
  return path;
}

Path Teller::fromHost(const Json& port) const {
  unsigned inside = portMember(port, "container-port");
  Path path{"host-to-pod", "From the host or its network, by a host port, to " + who(), {}};
  if (known()) path.title += fmt::format(" ({} {})", member(port, "protocol"), portMember(port, "host-port"));
  std::string listens =
      known() ? endpoints(listMember(port, "host-addresses"), portMember(port, "listen-port")) : "the host port";
  std::string source = member(port, "source-note");
  path.hops.push_back({"host", listens});
  path.hops.push_back({"host", "userpod-ports, a process of this user, takes it up, and connects from the node"});
  if (known())
    path.hops.push_back({"node", source.empty() ? "with the client's own address (mark 0x75)"
                                                : "not always with the client's own address: " + source});
  if (!ofNode_) path.hops.push_back(attached());
  path.hops.push_back({place_, podPort(inside)});
  return path;
}

Path Teller::fromNode(const Json& port) const {
  unsigned inside = portMember(port, "container-port");
  unsigned hostPort = portMember(port, "host-port");
  Path path{"node-to-pod", "From the node or a pod, by a host port, to " + who(), {}};
  if (known()) path.title += fmt::format(" ({} {})", member(port, "protocol"), hostPort);
  Json reached = Json::array({"127.0.0.1"});
  for (const auto& gateway : listMember(network_, "gateways")) reached.push_back(gateway);
  if (uplink()) reached.push_back(kTapAddress);
  if (auto asked = member(port, "host-ip"); !asked.empty() && asked != "0.0.0.0" && asked != "::")
    reached = Json::array({asked});
  if (ofNode_) {
    path.hops.push_back({"node", "no translation: the pod listens in the node itself"});
    path.hops.push_back({place_, known() ? fmt::format("port {} of the node's addresses", inside) : "its own port"});
    return path;
  }
  path.hops.push_back({"node", known() ? endpoints(reached, hostPort) : "127.0.0.1 or the node's address, host port"});
  path.hops.push_back({"node", pluginMapsPorts()
                                   ? "dnat by the plugin portmap"
                                   : "nftables inet userpod, chain output (from a pod: prerouting): dnat"});
  if (auto own = listMember(port, "node-addresses"); !own.empty())
    path.hops.push_back({"node", fmt::format("or, for what is not translated ([::1]), userpod-ports, which listens at "
                                             "{} in the node as well",
                                             endpoints(own, hostPort))});
  path.hops.push_back(attached());
  path.hops.push_back({place_, podPort(inside)});
  return path;
}

std::vector<Path> Teller::tell() {
  std::vector<Path> paths = {toOutside(), toHost(), toPod()};
  if (!known()) {
    paths.push_back(fromHost(Json::object()));
    paths.push_back(fromNode(Json::object()));
    return paths;
  }
  for (const auto& port : listMember(network_, "ports")) {
    if (member(port, "pod") != path_) continue;
    paths.push_back(fromHost(port));
    paths.push_back(fromNode(port));
  }
  return paths;
}

}  // namespace

std::string joined(const Json& texts) {
  std::string all;
  for (const auto& text : texts)
    if (text.is_string()) all += (all.empty() ? "" : ", ") + text.get<std::string>();
  return all;
}

std::string endpoints(const Json& addresses, unsigned port) {
  Json list = Json::array();
  for (const auto& item : addresses) {
    if (!item.is_string()) continue;
    auto address = item.get<std::string>();
    bool v6 = address.find(':') != std::string::npos;
    list.push_back(fmt::format("{}{}{}:{}", v6 ? "[" : "", address, v6 ? "]" : "", port));
  }
  return joined(list);
}

std::vector<Path> packetPaths(const Json& network, const Json& pods, std::size_t pod) {
  return Teller(network, pods, pod).tell();
}

Json pathsJson(const std::vector<Path>& paths) {
  Json all = Json::array();
  for (const auto& path : paths) {
    Json hops = Json::array();
    for (const auto& hop : path.hops) hops.push_back({{"place", hop.place}, {"text", hop.text}});
    all.push_back({{"name", path.name}, {"title", path.title}, {"hops", std::move(hops)}});
  }
  return all;
}

std::string picture(const Path& path, bool color) {
  std::size_t width = 0;
  for (const auto& hop : path.hops) width = std::max(width, hop.place.size());
  std::string text = fmt::format("{}{}{}\n", color ? "\033[1m" : "", printable(path.title), color ? "\033[0m" : "");
  for (std::size_t i = 0; i < path.hops.size(); ++i) {
    const Hop& hop = path.hops[i];
    if (i != 0) text += fmt::format("  {:<{}}   {}\n", "", width, i + 1 == path.hops.size() ? "v" : "|");
    text += fmt::format("  {}{:<{}}{}  {}\n", color ? "\033[36m" : "", printable(hop.place), width,
                        color ? "\033[0m" : "", printable(hop.text));
  }
  return text;
}

}  // namespace userpod::ctl
