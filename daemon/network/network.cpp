#include "daemon/network/network.hpp"

#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <optional>
#include <set>

#include "daemon/network/backend.hpp"
#include "daemon/network/bridge.hpp"
#include "daemon/network/pins.hpp"
#include "daemon/network/pod_files.hpp"
#include "daemon/network/sysctls.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "userns/host_address.hpp"
#include "userns/uplink.hpp"

namespace userpod::network {
namespace {

constexpr int kSctp = 2;  // of the CRI's Protocol

bool ofNode(NamespaceMode mode) {
  return mode == NamespaceMode::Node;
}

bool hasHostPorts(const PodConfig& config) {
  return std::any_of(config.ports.begin(), config.ports.end(), [](const auto& port) { return port.hostPort != 0; });
}

class PodNetworks final : public Network {
 public:
  PodNetworks(const Paths& paths, const LiveSettings& settings, Pins pins, std::unique_ptr<Ports> ports)
      : paths_(paths),
        live_(settings),
        settings_(*settings.current()),
        pins_(std::move(pins)),
        ports_(std::move(ports)) {}

  Status start(const NodeInside& node, const Earlier& earlier);

  Result<std::vector<std::string>> reserve(const std::string& podId, const PodConfig& config) override;
  Result<PodNetwork> setUp(const PodRecord& pod, const std::string& hostname) override;
  PodNamespaces namespacesOf(const PodRecord& pod) const override;
  Status tearDown(const PodRecord& pod) override;
  void recovered() override { backend_->recovered(); }
  void stop() override { backend_->stop(); }
  void followHost() override;
  std::string problem() const override { return backend_->problem(); }
  std::string note() const override;
  std::string stack() const override { return backend_->stack(); }
  NetworkView view() override;
  Findings check(const std::set<std::string>& known) override;
  Status mend(const Finding& finding) override;

 private:
  void takeUpPorts(const std::vector<PodRecord>& living);
  PublishedPod published(const PodRecord& pod, const std::vector<std::string>& addresses) const;
  NodeRules::PodPorts translated(const PodRecord& pod, const Joined& joined) const;
  Result<PodNetwork> make(const PodRecord& pod, const std::string& hostname);
  Status makeNamespaces(const PodRecord& pod, const std::string& hostname);
  Status joinFromOutside(const PodRecord& pod, const std::vector<Sysctl>& sysctls, Joined& joined);
  Status openPorts(const PodRecord& pod, const Joined& joined);
  Status closePorts(const PodRecord& pod);

  const Paths paths_;
  const LiveSettings live_;
  const Settings settings_;  // what counts from the start on
  Pins pins_;
  std::unique_ptr<Ports> ports_;
  std::unique_ptr<NodeRules> rules_;
  std::unique_ptr<Backend> backend_;
  std::mutex mutex_;
  std::map<std::string, NodeRules::PodPorts> open_;  // by pod, what is published; guarded by mutex_
  std::mutex hostMutex_;
  std::optional<std::string> hostAddress_;  // where its name leads; guarded by hostMutex_
};

Status PodNetworks::start(const NodeInside& node, const Earlier& earlier) {
  USERPOD_TRY(rules, NodeRules::open(node));
  rules_ = std::move(rules);
  USERPOD_TRY(backend,
              settings_.network == "cni" ? openCni(paths_, live_, node, earlier) : openBridge(live_, *rules_, earlier));
  backend_ = std::move(backend);
  followHost();
  takeUpPorts(earlier.living);
  return {};
}

void PodNetworks::takeUpPorts(const std::vector<PodRecord>& living) {
  std::vector<PublishedPod> all;
  std::vector<NodeRules::PodPorts> rules;
  for (const auto& pod : living) {
    if (!hasHostPorts(pod.config)) continue;
    Joined joined = backend_->joined(pod);
    all.push_back(published(pod, joined.addresses));
    open_[pod.id] = translated(pod, joined);
    rules.push_back(open_[pod.id]);
  }
  if (auto done = rules_->replacePorts(rules); !done) logWarning("host ports: {}", done.error());
  if (auto done = ports_->synchronise(all); !done) logWarning("host ports: {}", done.error());
}

// The node's own address for a pod that is in its network: any but 127.0.0.1, which is where that pod trusts callers.
PublishedPod PodNetworks::published(const PodRecord& pod, const std::vector<std::string>& addresses) const {
  bool node = ofNode(pod.config.security.namespaces.network);
  PublishedPod result{pod.id, addresses, pod.config.ports, node};
  if (!node) return result;
  if (settings_.uplink != "none") {
    result.addresses = {"10.0.2.100"};
  } else {
    NetworkView view;
    backend_->describe(view);
    result.addresses = view.gateways;
  }
  return result;
}

NodeRules::PodPorts PodNetworks::translated(const PodRecord& pod, const Joined& joined) const {
  if (joined.mapsPorts || ofNode(pod.config.security.namespaces.network)) return {};
  return {pod.config.ports, joined.addresses};
}

std::string PodNetworks::note() const {
  std::string note = backend_->note();
  if (!rules_->note().empty()) note += (note.empty() ? "" : "; ") + rules_->note();
  return note;
}

Result<std::vector<std::string>> PodNetworks::reserve(const std::string& podId, const PodConfig& config) {
  for (const auto& port : config.ports)
    if (port.hostPort != 0 && port.protocol == kSctp)
      return Error(Code::InvalidArgument,
                   fmt::format("port_mappings: host port {} is SCTP, which cannot leave a user's network: slirp4netns "
                               "and pasta carry TCP and UDP only; use one of these or leave host_port out",
                               port.hostPort));
  if (ofNode(config.security.namespaces.network)) return std::vector<std::string>();
  return backend_->reserve(podId);
}

// In a thread of its own. Everything that it makes hangs on the pins: without them it is gone.
Status PodNetworks::makeNamespaces(const PodRecord& pod, const std::string& hostname) {
  const auto& modes = pod.config.security.namespaces;
  bool own = !ofNode(modes.network);
  int flags = (own ? CLONE_NEWNET | CLONE_NEWUTS : 0) | (ofNode(modes.ipc) ? 0 : CLONE_NEWIPC);
  if (flags != 0 && ::unshare(flags) < 0) {
    int reason = errno;
    if (reason == ENOSPC)
      return Error(Code::LimitsExceeded,
                   "make a pod's namespaces: the limit is reached; raise user.max_net_namespaces, "
                   "user.max_ipc_namespaces and user.max_uts_namespaces by sysctl",
                   reason);
    return sysError("make a pod's namespaces", reason);
  }
  if (!ofNode(modes.ipc)) USERPOD_CHECK(pins_.pin(pod.id, "ipc"));
  if (!own) return {};
  if (::sethostname(hostname.data(), hostname.size()) < 0) return sysError("set host name " + hostname);
  USERPOD_CHECK(pins_.pin(pod.id, "uts"));
  return pins_.pin(pod.id, "net");
}

Status PodNetworks::joinFromOutside(const PodRecord& pod, const std::vector<Sysctl>& sysctls, Joined& joined) {
  USERPOD_TRY(got, backend_->join(pod, pins_.file(pod.id, "net")));
  joined = std::move(got);
  if (sysctls.empty()) return {};
  return inOwnThread([&]() -> Status {
    for (const char* name : {"net", "uts"}) USERPOD_CHECK(pins_.enter(pod.id, name));
    if (!ofNode(pod.config.security.namespaces.ipc)) USERPOD_CHECK(pins_.enter(pod.id, "ipc"));
    return applySysctls(sysctls);
  });
}

Status PodNetworks::openPorts(const PodRecord& pod, const Joined& joined) {
  if (!hasHostPorts(pod.config)) return {};
  auto rules = translated(pod, joined);
  auto note = [&](const NodeRules::PodPorts& ports) {
    std::lock_guard lock(mutex_);
    open_[pod.id] = ports;
  };
  // Listening first: it finds out whether a port is free. Until then what the maps say of it is another pod's.
  note({});
  USERPOD_CHECK(ports_->publish(published(pod, joined.addresses)));
  note(rules);
  reachStage("pod.ports", pod.id);
  return rules.ports.empty() ? Status() : rules_->addPorts(rules);
}

// Only once: the ports may be another pod's by the next time.
Status PodNetworks::closePorts(const PodRecord& pod) {
  NodeRules::PodPorts rules;
  {
    std::lock_guard lock(mutex_);
    auto known = open_.find(pod.id);
    if (known == open_.end()) return {};
    rules = std::move(known->second);
    open_.erase(known);
  }
  Status removed = rules.ports.empty() ? Status() : rules_->removePorts(rules);
  USERPOD_CHECK(ports_->withdraw(pod.id));
  return removed;
}

Result<PodNetwork> PodNetworks::make(const PodRecord& pod, const std::string& hostname) {
  const auto& modes = pod.config.security.namespaces;
  USERPOD_TRY(sysctls, checkSysctls(pod.config.sysctls, modes));
  if (!ofNode(modes.network)) USERPOD_CHECK(checkHostname(hostname));
  USERPOD_CHECK(pins_.begin(pod.id));
  Joined joined;
  bool outside = !ofNode(modes.network) && !backend_->joinsInside();
  USERPOD_CHECK(inOwnThread([&]() -> Status {
    USERPOD_CHECK(makeNamespaces(pod, hostname));
    if (outside) return {};
    if (!ofNode(modes.network)) {
      USERPOD_TRY(got, backend_->join(pod, pins_.file(pod.id, "net")));
      joined = std::move(got);
    }
    return applySysctls(sysctls);  // last: those of eth0 need it
  }));
  if (outside) USERPOD_CHECK(joinFromOutside(pod, sysctls, joined));
  USERPOD_CHECK(openPorts(pod, joined));
  USERPOD_CHECK(pins_.mountShm(pod.id, ofNode(modes.ipc)));
  return PodNetwork{namespacesOf(pod), std::move(joined.addresses)};
}

Result<PodNetwork> PodNetworks::setUp(const PodRecord& pod, const std::string& hostname) {
  auto made = make(pod, hostname);
  if (made) return made;
  if (auto undone = tearDown(pod); !undone) logFailure(Level::Warning, undone.error(), {{"POD_ID", pod.id}});
  return made;
}

PodNamespaces PodNetworks::namespacesOf(const PodRecord& pod) const {
  const auto& modes = pod.config.security.namespaces;
  bool node = ofNode(modes.network);
  // A pod of the node's network has the node's host name too, as CRI-O does.
  return {.network = node ? "/proc/1/ns/net" : pins_.file(pod.id, "net"),
          .ipc = ofNode(modes.ipc) ? "/proc/1/ns/ipc" : pins_.file(pod.id, "ipc"),
          .uts = node ? "/proc/1/ns/uts" : pins_.file(pod.id, "uts")};
}

Status PodNetworks::tearDown(const PodRecord& pod) {
  Status result;
  auto note = [&](Status status) {
    if (!status && result) result = std::move(status);
  };
  note(closePorts(pod));
  // What plugins or rules do not give back must not keep the pod: a link's name does not come again, so a rule left
  // behind lets nothing through, and what a plugin keeps is tried again at the next start.
  if (!ofNode(pod.config.security.namespaces.network)) note(backend_->leave(pod, pins_.file(pod.id, "net")));
  note(pins_.unmountShm(pod.id));
  if (auto removed = pins_.remove(pod.id); !removed) {
    note(std::move(removed));
    return result;
  }
  // Only now, so that two pods never have the same address.
  backend_->release(pod);
  return result;
}

void PodNetworks::followHost() {
  std::lock_guard lock(hostMutex_);
  std::string address;
  // With the host's loopback open, the uplink itself leads there.
  if (!settings_.hostLoopback && settings_.uplink != "none") address = hostAddresses().v4;
  if (address == hostAddress_) return;
  if (auto led = rules_->leadHostTo(address); !led) return logWarning("host.userpod.internal: {}", led.error());
  hostAddress_ = address;
}

NetworkView PodNetworks::view() {
  NetworkView view;
  view.stack = backend_->stack();
  backend_->describe(view);
  auto uplink = readUplinkState(paths_);
  view.uplink = uplink.phase == UplinkState::Phase::Up     ? "up"
                : uplink.phase == UplinkState::Phase::None ? "none"
                                                           : "down: " + uplink.reason;
  view.uplinkProgram = uplink.program;
  view.uplinkChoice = uplink.choice;
  {
    std::lock_guard lock(hostMutex_);
    view.hostAddress = hostAddress_.value_or("");
  }
  view.problem = problem();
  view.note = note();
  if (auto ports = ports_->list()) {
    view.ports = std::move(*ports);
  } else {
    view.note += (view.note.empty() ? "" : "; ") + ports.error().text();
  }
  return view;
}

Findings PodNetworks::check(const std::set<std::string>& known) {
  using Severity = Finding::Severity;
  constexpr const char* kRepair = "userpodctl check --repair";
  Findings found;
  std::set<std::string> links;
  for (const auto& id : known) links.insert(linkName(id));
  std::vector<std::string> unknown;
  auto listed = rules_->run([&]() -> Status {
    USERPOD_TRY(names, linksOfPods());
    for (const auto& name : names)
      if (!links.contains(name)) unknown.push_back(name);
    return {};
  });
  if (!listed)
    found.push_back({"network-unreadable", Severity::Error, "network", "links", listed.error().text(),
                     "systemctl --user restart userpod.service", false});
  for (const auto& name : unknown)
    found.push_back({"link-unknown", Severity::Warning, "link", name, "in the node's network, of a pod that is gone",
                     kRepair, true});
  auto ports = ports_->list();
  if (!ports)
    found.push_back({"ports-unanswered", Severity::Error, "network", "userpod-ports", ports.error().text(),
                     "systemctl --user restart userpod.service", false});
  std::set<std::string> served;
  for (const auto& port : ports ? *ports : std::vector<PublishedPort>())
    if (!known.contains(port.podId)) served.insert(port.podId);
  for (const auto& pod : served)
    found.push_back({"port-unknown", Severity::Warning, "port", pod, "host ports are served for a pod that is gone",
                     kRepair, true});
  return found;
}

Status PodNetworks::mend(const Finding& finding) {
  if (finding.kind == "port") return ports_->withdraw(finding.id);
  return rules_->run([&] { return deleteLink(finding.id); });
}

}  // namespace

Result<std::unique_ptr<Network>> Network::open(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                               const Earlier& earlier, std::unique_ptr<Ports> ports) {
  USERPOD_TRY(pins, Pins::open(paths));
  if (!ports) {
    USERPOD_TRY(opened, Ports::open(paths, *settings.current(), node));
    ports = std::move(opened);
  }
  auto network = std::make_unique<PodNetworks>(paths, settings, std::move(pins), std::move(ports));
  USERPOD_CHECK(network->start(node, earlier));
  return std::unique_ptr<Network>(std::move(network));
}

}  // namespace userpod::network
