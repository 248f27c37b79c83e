// The built-in network: bridge, addresses, guard and NAT.
#include <mutex>

#include "daemon/network/backend.hpp"
#include "daemon/network/rules.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

// In the name of a link, which has 15 characters. Of a random id: it never comes again, which matters as the kernel
// reaps a veth some time after its pod has gone.
constexpr std::size_t kIdInLink = 13;

std::optional<std::uint32_t> addressOf(const PodRecord& pod) {
  for (const auto& text : pod.addresses)
    if (auto address = parseAddress(text)) return *address;
  return std::nullopt;
}

Port portOf(const PodRecord& pod, std::uint32_t address) {
  return {linkName(pod.id), address};
}

class BridgeBackend final : public Backend {
 public:
  BridgeBackend(NodeRules& rules, const Subnets& subnets, LiveSettings settings)
      : settings_(std::move(settings)), rules_(rules), subnets_(subnets), pool_(subnets.v4, delay()) {}

  void takeUp(const Earlier& earlier);
  Status open(const Earlier& earlier);

  Result<std::vector<std::string>> reserve(const std::string& podId) override;
  Result<Joined> join(const PodRecord& pod, const std::string& pin) override;
  bool joinsInside() const override { return true; }
  Joined joined(const PodRecord& pod) override { return {pod.addresses, false}; }
  Status leave(const PodRecord& pod, const std::string& pin) override;
  void release(const PodRecord& pod) override;
  std::string problem() const override { return {}; }
  std::string note() const override { return note_; }
  std::string stack() const override { return "bridge"; }
  void describe(NetworkView& view) const override;

 private:
  // In the network thread.
  Status makeRules(const Earlier& earlier);
  std::int64_t delay() const { return settings_.current()->addressReuseDelay * 1'000'000'000; }
  void addNote(const std::string& text) { note_ += (note_.empty() ? "" : "; ") + text; }

  const LiveSettings settings_;
  NodeRules& rules_;
  const Subnets subnets_;
  mutable std::mutex mutex_;
  AddressPool pool_;  // guarded by mutex_
  std::string note_;  // set before open() returns

  // The network thread's own.
  std::optional<Bridge> bridge_;
  bool guarded_ = false;
  bool neighbours_ = false;
};

void BridgeBackend::takeUp(const Earlier& earlier) {
  for (const auto& pod : earlier.living)
    if (auto address = addressOf(pod)) pool_.reserve(*address, pod.id);
  for (const auto& [text, freedAt] : earlier.freed)
    if (auto address = parseAddress(text)) pool_.rest(*address, freedAt);
}

Status BridgeBackend::open(const Earlier& earlier) {
  return rules_.run([&]() -> Status {
    auto bridge = Bridge::open(subnets_);
    if (!bridge) return std::move(bridge).error().as(Code::NetworkSetupFailed).wrap(kBridge);
    bridge_ = std::move(*bridge);
    return makeRules(earlier);
  });
}

Status BridgeBackend::makeRules(const Earlier& earlier) {
  Nftables* nftables = rules_.nftables();
  if (nftables == nullptr) {
    addNote("pods reach each other and the node, not the outside (CONFIG_NF_TABLES)");
    return {};
  }
  if (auto nat = nftables->run(natRules(subnets_)); !nat)
    addNote("pods reach each other and the node, not the outside (CONFIG_NFT_MASQ): " + nat.error().text());
  if (auto guard = nftables->run(guardRules(subnets_.v6.has_value())); !guard) {
    addNote("pods can take each other's addresses (CONFIG_NF_TABLES_BRIDGE): " + guard.error().text());
    return {};
  }
  guarded_ = true;
  if (subnets_.v6) neighbours_ = bool(nftables->run(neighbourRules()));
  std::string elements = guardFlush(subnets_.v6.has_value(), neighbours_);
  for (const auto& pod : earlier.living)
    if (auto address = addressOf(pod)) elements += guardAdd(portOf(pod, *address), subnets_, neighbours_);
  return nftables->run(elements);
}

Result<std::vector<std::string>> BridgeBackend::reserve(const std::string& podId) {
  std::lock_guard lock(mutex_);
  pool_.setDelay(delay());
  USERPOD_TRY(address, pool_.allocate(podId, bootNanos()));
  std::vector<std::string> addresses{addressText(address)};
  if (subnets_.v6) addresses.push_back(addressText(Port{"", address}.address6(subnets_)));
  return addresses;
}

Result<Joined> BridgeBackend::join(const PodRecord& pod, const std::string& pin) {
  auto address = addressOf(pod);
  if (!address) return Error(Code::Internal, "pod " + pod.id + " has no address of its own");
  USERPOD_TRY(inside, Netlink::open());
  USERPOD_TRY(podNamespace, openFile(pin, O_RDONLY));
  Port port = portOf(pod, *address);
  auto attached = rules_.run([&]() -> Status {
    // The guard first: not one packet leaves the pod unchecked, and none is lost.
    if (guarded_) USERPOD_CHECK(rules_.nftables()->run(guardAdd(port, subnets_, neighbours_)));
    return bridge_->attach(port, inside, podNamespace.get());
  });
  if (!attached) return std::move(attached).error().as(Code::NetworkSetupFailed);
  return Joined{pod.addresses, false};
}

Status BridgeBackend::leave(const PodRecord& pod, const std::string&) {
  auto address = addressOf(pod);
  if (!address) return {};
  return rules_.run([&]() -> Status {
    if (!guarded_) return {};
    return rules_.nftables()->run(guardRemove(portOf(pod, *address), subnets_, neighbours_));
  });
}

void BridgeBackend::release(const PodRecord& pod) {
  auto address = addressOf(pod);
  if (!address) return;
  std::lock_guard lock(mutex_);
  pool_.release(*address, pod.id, bootNanos());
}

void BridgeBackend::describe(NetworkView& view) const {
  view.bridge = kBridge;
  view.subnets = {subnets_.v4.text()};
  view.gateways = {addressText(subnets_.v4.gateway())};
  if (subnets_.v6) {
    view.subnets.push_back(subnets_.v6->text());
    view.gateways.push_back(addressText(subnets_.v6->at(1)));
  }
  std::lock_guard lock(mutex_);
  view.addressesUsed = pool_.used();
  view.addressesAll = pool_.capacity();
}

}  // namespace

std::string linkName(const std::string& podId) {
  return "up" + podId.substr(0, kIdInLink);
}

Result<std::unique_ptr<Backend>> openBridge(const LiveSettings& live, NodeRules& rules, const Earlier& earlier) {
  const Settings settings = *live.current();
  USERPOD_TRY(subnet, Subnet::parse(settings.subnet));
  Subnets subnets{subnet, std::nullopt};
  if (!settings.subnet6.empty()) {
    USERPOD_TRY(subnet6, Subnet6::parse(settings.subnet6, subnet));
    if (pathExists("/proc/sys/net/ipv6")) subnets.v6 = subnet6;
  }
  auto backend = std::make_unique<BridgeBackend>(rules, subnets, live);
  backend->takeUp(earlier);
  USERPOD_CHECK(backend->open(earlier));
  if (!backend->note().empty()) logWarning("{}", backend->note());
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace userpod::network
