#include "daemon/network/ports/table.hpp"

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::ports {
namespace {

constexpr std::size_t kWorkers = 2;
constexpr rlim_t kMostDescriptors = 65536;
constexpr rlim_t kReservedDescriptors = 256;  // for control, pipes and the like; listeners take of the rest
constexpr int kTcp = 0;                       // numbers of the CRI
constexpr int kUdp = 1;
constexpr int kSctp = 2;
constexpr int kPrivileged = 1024;
constexpr int kHighestPort = 65535;
constexpr std::chrono::seconds kProbeAgain{10};

// Two descriptors a connection, and as many in reserve.
int connectionLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return 256;
  limit.rlim_cur = std::min(limit.rlim_max, kMostDescriptors);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
  rlim_t free = limit.rlim_cur - std::min(limit.rlim_cur / 2, kReservedDescriptors);
  return static_cast<int>(free / 3);
}

bool absent(const Error& error) {
  return error.sysErrno() == EADDRNOTAVAIL || error.sysErrno() == EAFNOSUPPORT || error.sysErrno() == EINVAL;
}

bool everywhere(const std::string& hostIp) {
  return hostIp.empty() || hostIp == "0.0.0.0" || hostIp == "::";
}

Result<std::uint16_t> checkedPort(std::int64_t port, const char* what) {
  if (port < 1 || port > kHighestPort)
    return Error(Code::InvalidArgument, fmt::format("{} {} is not between 1 and {}", what, port, kHighestPort));
  return static_cast<std::uint16_t>(port);
}

bool same(const PortMapping& one, const PortMapping& other) {
  return one.protocol == other.protocol && one.containerPort == other.containerPort && one.hostPort == other.hostPort &&
         one.hostIp == other.hostIp;
}

bool same(const network::PublishedPod& one, const network::PublishedPod& other) {
  return one.addresses == other.addresses && one.nodeNetwork == other.nodeNetwork &&
         std::equal(one.ports.begin(), one.ports.end(), other.ports.begin(), other.ports.end(),
                    [](const auto& left, const auto& right) { return same(left, right); });
}

}  // namespace

Result<std::unique_ptr<Table>> Table::open(int nodeNamespace) {
  std::unique_ptr<Table> table(new Table);
  table->shared_.most = connectionLimit();
  for (std::size_t index = 0; index < kWorkers; ++index) {
    USERPOD_TRY(worker, Worker::start(static_cast<unsigned>(index), nodeNamespace, table->shared_));
    table->workers_.push_back({std::move(worker), nullptr});
  }
  Status status;
  table->workers_.front().worker->run([&] {
    auto sources = Sources::open();
    if (sources)
      table->sources_ = std::move(*sources);
    else
      status = std::move(sources).error();
  });
  USERPOD_CHECK(std::move(status));
  table->probed_ = Worker::Clock::now();
  for (auto& one : table->workers_)
    one.worker->run([&] { one.server = std::make_unique<Server>(*one.worker, *table->sources_); });
  return table;
}

Table::~Table() {
  for (auto& one : workers_) one.worker->run([&] { one.server.reset(); });
}

void Table::onWorker(std::size_t index, const std::function<void(Server&)>& task) {
  auto& one = workers_[index];
  one.worker->run([&] { task(*one.server); });
}

Result<Table::Mapping> Table::plan(const network::PublishedPod& pod, const PortMapping& asked,
                                   std::int64_t offset) const {
  if (asked.protocol == kSctp)
    return Error(Code::NotSupported,
                 fmt::format("host port {} of SCTP: only TCP and UDP can be forwarded without root", asked.hostPort));
  if (asked.protocol != kTcp && asked.protocol != kUdp)
    return Error(Code::InvalidArgument, fmt::format("protocol {} of a host port is unknown", asked.protocol));
  USERPOD_TRY(hostPort, checkedPort(asked.hostPort, "host port"));
  USERPOD_TRY(containerPort,
              checkedPort(asked.containerPort != 0 ? asked.containerPort : asked.hostPort, "container port"));
  USERPOD_TRY(listenPort, checkedPort(hostPort < kPrivileged ? hostPort + offset : hostPort,
                                      "with privileged-port-offset, the host port"));
  if (!everywhere(asked.hostIp) && !Endpoint::parse(asked.hostIp, hostPort))
    return Error(Code::InvalidArgument,
                 fmt::format("host_ip \"{}\" of host port {} is not an IP address", excerpt(asked.hostIp), hostPort));
  auto service = std::make_shared<Service>();
  if (auto counters = countersOf(pod.podId, asked)) service->counters = counters;
  service->podId = pod.podId;
  service->nodeNetwork = pod.nodeNetwork;
  for (const auto& text : pod.addresses) {
    auto address = Endpoint::parse(text, containerPort);
    if (!address || address->loopback() || address->unspecified())
      return Error(Code::InvalidArgument, fmt::format("no host port can lead to the address \"{}\"", excerpt(text)));
    auto& family = address->v6() ? service->v6 : service->v4;
    if (!family) family = *address;
  }
  if (!service->v4 && !service->v6)
    return Error(Code::InvalidArgument, fmt::format("host port {} leads to a pod without an address", hostPort));
  Mapping made{.asked = asked, .listenPort = listenPort, .service = service};
  return made;
}

// Of the mapping that is replaced by this one.
std::shared_ptr<Counters> Table::countersOf(const std::string& podId, const PortMapping& asked) const {
  auto pod = pods_.find(podId);
  if (pod == pods_.end()) return nullptr;
  for (const auto& mapping : pod->second.mappings)
    if (mapping.asked.protocol == asked.protocol && mapping.asked.hostPort == asked.hostPort &&
        mapping.asked.hostIp == asked.hostIp)
      return mapping.service->counters;
  return nullptr;
}

Status Table::openOne(const std::string& podId, Mapping& mapping, const ListenAddress& address, bool optional,
                      Listeners& opened, std::optional<Taken>& taken) {
  auto known = listeners_.find(address);
  if (opened.contains(address) || (known != listeners_.end() && known->second.podId != podId))
    return takenError(podId, address, taken);
  Listener listener{.podId = podId, .service = mapping.service};
  if (known == listeners_.end()) {
    auto socket = openListener(address);
    if (!socket && socket.error().sysErrno() == EADDRINUSE) return takenError(podId, address, taken);
    if (!socket && optional && absent(socket.error())) return {};
    if (!socket && socket.error().code() == Code::AccessDenied) return std::move(socket).error();
    if (!socket) return std::move(socket).error().as(Code::NetworkSetupFailed);
    listener.socket = std::move(*socket);
  }
  mapping.addresses.push_back(address);
  opened.emplace(address, std::move(listener));
  return {};
}

Error Table::takenError(const std::string& podId, const ListenAddress& address, std::optional<Taken>& taken) const {
  std::string who;
  for (const auto& [other, listener] : listeners_)
    if (other.overlaps(address)) who = listener.podId;
  if (who.empty()) taken = Taken{address.side, address.endpoint.address(), address.endpoint.port(), address.udp};
  std::string text = address.text() + " is taken";
  if (!who.empty()) text += who == podId ? " by the same pod already" : " by pod " + who;
  return Error(Code::NetworkSetupFailed, text, EADDRINUSE);
}

// In a thread of that side's network namespace.
Status Table::openSide(Pod& pod, Side side, Listeners& opened, std::optional<Taken>& taken) {
  if (side == Side::Node && pod.published.nodeNetwork) return {};
  for (auto& mapping : pod.mappings) {
    auto port = side == Side::Host ? mapping.listenPort : static_cast<std::uint16_t>(mapping.asked.hostPort);
    std::vector<Endpoint> endpoints;
    bool all = everywhere(mapping.asked.hostIp);
    if (all)
      endpoints = {Endpoint::any(AF_INET, port), Endpoint::any(AF_INET6, port)};
    else
      endpoints = {*Endpoint::parse(mapping.asked.hostIp, port)};
    for (const auto& endpoint : endpoints)
      USERPOD_CHECK(openOne(pod.published.podId, mapping, {side, mapping.asked.protocol == kUdp, endpoint},
                            !all || endpoint.v6(), opened, taken));
  }
  return {};
}

Status Table::openAll(Pod& pod, Listeners& opened, std::optional<Taken>& taken) {
  USERPOD_CHECK(openSide(pod, Side::Host, opened, taken));
  if (!pod.published.nodeNetwork) {
    Status status;
    workers_.front().worker->run([&] { status = openSide(pod, Side::Node, opened, taken); });
    USERPOD_CHECK(std::move(status));
  }
  for (const auto& mapping : pod.mappings)
    if (mapping.addresses.empty())
      return Error(Code::InvalidArgument,
                   fmt::format("neither the host nor the node has the address {} (host_ip of host port {})",
                               mapping.asked.hostIp, mapping.asked.hostPort));
  return {};
}

// The new ones become known to all workers, or to none.
Status Table::serve(const Pod& pod, Listeners& opened) {
  for (auto& [address, listener] : opened) {
    if (!listener.socket) continue;
    listener.number = nextNumber_++;
    listener.worker = nextWorker_++ % workers_.size();
  }
  Status status;
  for (std::size_t index = 0; index < workers_.size() && status; ++index)
    onWorker(index, [&](Server& server) {
      for (const auto& [address, listener] : opened)
        if (listener.socket && status && (!address.udp || listener.worker == index))
          status = server.add(listener.number, listener.socket.get(), address, listener.service);
    });
  if (!status) {
    for (std::size_t index = 0; index < workers_.size(); ++index)
      onWorker(index, [&](Server& server) {
        for (const auto& [address, listener] : opened)
          if (listener.socket) server.remove(listener.number);
      });
    return std::move(status).error().wrap("host ports of pod " + pod.published.podId);
  }
  return {};
}

Status Table::publish(const network::PublishedPod& published, std::int64_t offset, std::optional<Taken>& taken) {
  auto known = pods_.find(published.podId);
  if (known != pods_.end() && known->second.offset == offset && same(known->second.published, published)) return {};
  Pod pod{.published = published, .offset = offset};
  for (const auto& asked : published.ports) {
    if (asked.hostPort == 0) continue;
    USERPOD_TRY(mapping, plan(published, asked, offset));
    pod.mappings.push_back(std::move(mapping));
  }
  probe();
  Listeners opened;
  USERPOD_CHECK(openAll(pod, opened, taken));
  USERPOD_CHECK(serve(pod, opened));
  // From here on nothing fails. Those that stay lead where the new ones do.
  for (std::size_t index = 0; index < workers_.size(); ++index)
    onWorker(index, [&](Server& server) {
      for (const auto& [address, listener] : opened)
        if (!listener.socket) server.replace(listeners_.at(address).number, listener.service);
    });
  for (auto& [address, listener] : opened) {
    if (listener.socket)
      listeners_.insert_or_assign(address, std::move(listener));
    else
      listeners_.at(address).service = listener.service;
  }
  dropUnused(pod);
  pods_.insert_or_assign(published.podId, std::move(pod));
  return {};
}

void Table::dropUnused(const Pod& pod) {
  std::vector<ListenAddress> unused;
  for (const auto& one : listeners_) {
    if (one.second.podId != pod.published.podId) continue;
    bool used = std::any_of(pod.mappings.begin(), pod.mappings.end(), [&](const Mapping& mapping) {
      return std::find(mapping.addresses.begin(), mapping.addresses.end(), one.first) != mapping.addresses.end();
    });
    if (!used) unused.push_back(one.first);
  }
  if (!unused.empty()) drop(unused, "");
}

void Table::drop(const std::vector<ListenAddress>& addresses, const std::string& endedPod) {
  for (std::size_t index = 0; index < workers_.size(); ++index)
    onWorker(index, [&](Server& server) {
      for (const auto& address : addresses) server.remove(listeners_.at(address).number);
      if (!endedPod.empty()) server.endConnections(endedPod);
    });
  for (const auto& address : addresses) listeners_.erase(address);
}

void Table::withdraw(const std::string& podId) {
  auto pod = pods_.find(podId);
  if (pod == pods_.end()) return;
  std::vector<ListenAddress> addresses;
  for (const auto& mapping : pod->second.mappings)
    addresses.insert(addresses.end(), mapping.addresses.begin(), mapping.addresses.end());
  drop(addresses, podId);
  pods_.erase(pod);
}

// The rules of the node may have come or gone since.
void Table::probe() {
  if (Worker::Clock::now() - probed_ < kProbeAgain) return;
  workers_.front().worker->run([&] { sources_->probe(); });
  probed_ = Worker::Clock::now();
}

std::string Table::note(const Mapping& mapping) const {
  std::string text;
  auto say = [&](const std::string& what) { text += (text.empty() ? "" : "; ") + what; };
  auto listens = [&](int family) {
    return std::any_of(mapping.addresses.begin(), mapping.addresses.end(),
                       [&](const ListenAddress& address) { return address.endpoint.family() == family; });
  };
  for (int family : {AF_INET, AF_INET6}) {
    const char* name = family == AF_INET6 ? "IPv6" : "IPv4";
    if (!listens(family)) continue;
    if (mapping.service->target(family).family() != family)
      say(fmt::format("clients of {}: the pod has no such address", name));
    else if (auto problem = sources_->problem(family); !problem.empty())
      say(fmt::format("clients of {}: {}", name, problem));
  }
  return text;
}

std::vector<network::PublishedPort> Table::list() {
  probe();
  std::vector<network::PublishedPort> all;
  for (const auto& [podId, pod] : pods_)
    for (const auto& mapping : pod.mappings) {
      network::PublishedPort port{.podId = podId, .mapping = mapping.asked, .listenPort = mapping.listenPort};
      for (const auto& address : mapping.addresses)
        (address.side == Side::Host ? port.host : port.node).push_back(address.endpoint.address());
      port.sourceNote = note(mapping);
      port.connections = mapping.service->counters->open;
      port.total = mapping.service->counters->total;
      all.push_back(std::move(port));
    }
  return all;
}

}  // namespace userpod::ports
