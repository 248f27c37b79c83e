#include "daemon/network/network.hpp"

#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <future>
#include <mutex>
#include <optional>

#include "daemon/network/bridge.hpp"
#include "daemon/network/pins.hpp"
#include "daemon/network/pod_files.hpp"
#include "daemon/network/sysctls.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

bool ofNode(NamespaceMode mode) {
  return mode == NamespaceMode::Node;
}

class BridgeNetwork final : public Network {
 public:
  BridgeNetwork(Pins pins, const Subnet& subnet) : pins_(std::move(pins)), pool_(subnet), subnet_(subnet) {}

  // What lives, from the pins and from the store, keeps its address.
  void takeUp(const std::vector<std::string>& inUse);
  Status start(const NodeInside& node);

  Result<PodNetwork> setUp(const std::string& podId, const PodConfig& config) override;
  PodNamespaces namespacesOf(const std::string& podId, const PodConfig& config) const override;
  Status tearDown(const std::string& podId, const std::vector<std::string>& addresses) override;
  std::string problem() const override { return {}; }
  std::string note() const override { return note_; }
  std::string stack() const override { return "bridge"; }

 private:
  // In the network thread, which is in the node's network namespace.
  Status inNode(const std::function<Status()>& function);
  Status joinAndOpen(int networkNamespace);
  void openNftables();
  Status attach(const Port& port, Netlink& pod, int podNamespace);

  Result<Port> newPort(const std::string& podId);
  Status makeNamespaces(const std::string& podId, const PodConfig& config, const std::optional<Port>& port,
                        const std::vector<Sysctl>& sysctls);
  Status joinNetwork(const std::string& podId, const Port& port);
  void release(const std::string& podId, std::uint32_t address);

  Pins pins_;
  std::mutex mutex_;  // guards pool_ and nextLink_
  AddressPool pool_;
  std::uint32_t nextLink_ = 0;
  const Subnet subnet_;
  std::string note_;  // set before open() returns

  // The network thread's own.
  std::optional<Bridge> bridge_;
  std::optional<Nftables> nftables_;
  bool guarded_ = false;

  std::unique_ptr<EventLoop> thread_;  // last: it ends before what it uses
};

void BridgeNetwork::takeUp(const std::vector<std::string>& inUse) {
  for (const auto& text : inUse) {
    if (auto address = parseAddress(text)) pool_.reserve(*address, "");
  }
  for (const auto& podId : pins_.pods()) {
    if (auto port = pins_.port(podId)) pool_.reserve(port->address, podId);
  }
  // Anywhere in the number space: a name of the daemon before this one does not come back soon.
  nextLink_ = static_cast<std::uint32_t>(std::stoul(randomHex(4), nullptr, 16));
}

Status BridgeNetwork::start(const NodeInside& node) {
  USERPOD_TRY(thread, EventLoop::start("network"));
  thread_ = std::move(thread);
  return inNode([this, fd = node.networkNamespace.get()] { return joinAndOpen(fd); });
}

Status BridgeNetwork::inNode(const std::function<Status()>& function) {
  std::promise<Status> done;
  thread_->post([&] { done.set_value(function()); });
  return done.get_future().get();
}

Status BridgeNetwork::joinAndOpen(int networkNamespace) {
  if (::setns(networkNamespace, CLONE_NEWNET) < 0) return sysError("join the node's network namespace");
  auto bridge = Bridge::open(subnet_);
  if (!bridge) return std::move(bridge).error().as(Code::NetworkSetupFailed).wrap(kBridge);
  bridge_ = std::move(*bridge);
  openNftables();
  if (!note_.empty()) logWarning("{}", note_);
  return {};
}

void BridgeNetwork::openNftables() {
  auto opened = Nftables::open();
  if (!opened) {
    note_ = "pods reach each other and the node, not the outside: " + opened.error().text();
    return;
  }
  nftables_ = std::move(*opened);
  if (auto nat = nftables_->run(natRules(subnet_)); !nat)
    note_ = "pods reach each other and the node, not the outside (CONFIG_NFT_MASQ): " + nat.error().text();
  if (auto guard = nftables_->run(guardRules()); guard) {
    guarded_ = true;
  } else {
    note_ += (note_.empty() ? "" : "; ") +
             ("pods can take each other's addresses (CONFIG_NF_TABLES_BRIDGE): " + guard.error().text());
  }
}

Status BridgeNetwork::attach(const Port& port, Netlink& pod, int podNamespace) {
  // The guard first: not one packet leaves the pod unchecked, and none is lost.
  if (guarded_) USERPOD_CHECK(nftables_->run(guardAdd(port)));
  return bridge_->attach(port, pod, podNamespace);
}

Result<Port> BridgeNetwork::newPort(const std::string& podId) {
  std::lock_guard lock(mutex_);
  USERPOD_TRY(address, pool_.allocate(podId));
  // Counting up: the kernel reaps a veth some time after its pod has gone, so a name must not come back at once.
  return Port{fmt::format("up{:08x}", nextLink_++), address};
}

void BridgeNetwork::release(const std::string& podId, std::uint32_t address) {
  std::lock_guard lock(mutex_);
  pool_.release(address, podId);
}

Status BridgeNetwork::joinNetwork(const std::string& podId, const Port& port) {
  USERPOD_TRY(pod, Netlink::open());
  USERPOD_TRY(podNamespace, openFile(pins_.file(podId, "net"), O_RDONLY));
  auto attached = inNode([&] { return attach(port, pod, podNamespace.get()); });
  if (attached) return {};
  return std::move(attached).error().as(Code::NetworkSetupFailed);
}

// In a thread of its own. Everything that it makes hangs on the pins: without them it is gone.
Status BridgeNetwork::makeNamespaces(const std::string& podId, const PodConfig& config, const std::optional<Port>& port,
                                     const std::vector<Sysctl>& sysctls) {
  const auto& modes = config.security.namespaces;
  int flags = (port ? CLONE_NEWNET | CLONE_NEWUTS : 0) | (ofNode(modes.ipc) ? 0 : CLONE_NEWIPC);
  if (flags != 0 && ::unshare(flags) < 0) {
    int reason = errno;
    if (reason == ENOSPC)
      return Error(Code::LimitsExceeded,
                   "make a pod's namespaces: the limit is reached; raise user.max_net_namespaces, "
                   "user.max_ipc_namespaces and user.max_uts_namespaces by sysctl",
                   reason);
    return sysError("make a pod's namespaces", reason);
  }
  if (!ofNode(modes.ipc)) USERPOD_CHECK(pins_.pin(podId, "ipc"));
  if (port) {
    if (::sethostname(config.hostname.data(), config.hostname.size()) < 0)
      return sysError("set host name " + config.hostname);
    USERPOD_CHECK(pins_.pin(podId, "uts"));
    USERPOD_CHECK(pins_.pin(podId, "net"));
    USERPOD_CHECK(joinNetwork(podId, *port));
  }
  // Last: those of eth0 need it.
  return applySysctls(sysctls);
}

Result<PodNetwork> BridgeNetwork::setUp(const std::string& podId, const PodConfig& config) {
  const auto& modes = config.security.namespaces;
  USERPOD_TRY(sysctls, checkSysctls(config.sysctls, modes));
  if (!ofNode(modes.network)) USERPOD_CHECK(checkHostname(config.hostname));
  if (pins_.known(podId)) USERPOD_CHECK(tearDown(podId, {}));
  PodNetwork network;
  network.namespaces = namespacesOf(podId, config);
  std::optional<Port> port;
  if (!ofNode(modes.network)) {
    USERPOD_TRY(made, newPort(podId));
    port = std::move(made);
    network.addresses.push_back(addressText(port->address));
  }
  Status status = pins_.begin(podId, port);
  if (status) status = inOwnThread([&] { return makeNamespaces(podId, config, port, sysctls); });
  if (status) status = pins_.mountShm(podId, ofNode(modes.ipc));
  if (status) return network;
  if (auto undone = tearDown(podId, network.addresses); !undone)
    logMessage(Level::Warning, undone.error().text(), {{"POD_ID", podId}});
  return std::move(status).error();
}

PodNamespaces BridgeNetwork::namespacesOf(const std::string& podId, const PodConfig& config) const {
  const auto& modes = config.security.namespaces;
  bool node = ofNode(modes.network);
  // A pod of the node's network has the node's host name too, as CRI-O does.
  return {.network = node ? "/proc/1/ns/net" : pins_.file(podId, "net"),
          .ipc = ofNode(modes.ipc) ? "/proc/1/ns/ipc" : pins_.file(podId, "ipc"),
          .uts = node ? "/proc/1/ns/uts" : pins_.file(podId, "uts")};
}

Status BridgeNetwork::tearDown(const std::string& podId, const std::vector<std::string>& addresses) {
  auto port = pins_.port(podId);
  if (port && guarded_) {
    auto removed = inNode([&] { return nftables_->run(guardRemove(*port)); });
    // The pod goes all the same: its port's name does not come back, so a rule left behind lets nothing through.
    if (!removed) logMessage(Level::Warning, removed.error().text(), {{"POD_ID", podId}});
  }
  // The pins last: while they are there, the next setUp of this id knows that there is something to undo.
  Status unmounted = pins_.unmountShm(podId);
  USERPOD_CHECK(pins_.remove(podId));
  // Only now, so that two pods never have the same address.
  if (port) release(podId, port->address);
  for (const auto& text : addresses) {
    if (auto address = parseAddress(text)) release(podId, *address);
  }
  return unmounted;
}

}  // namespace

Result<std::unique_ptr<Network>> Network::open(const Paths& paths, const Settings& settings, const NodeInside& node,
                                               const std::vector<std::string>& inUse) {
  USERPOD_TRY(subnet, Subnet::parse(settings.subnet));
  USERPOD_TRY(pins, Pins::open(paths));
  auto network = std::make_unique<BridgeNetwork>(std::move(pins), subnet);
  network->takeUp(inUse);
  USERPOD_CHECK(network->start(node));
  return std::unique_ptr<Network>(std::move(network));
}

}  // namespace userpod::network
