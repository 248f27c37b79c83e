// All that is published: which pod has which ports.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/network/ports/listener.hpp"
#include "daemon/network/ports/messages.hpp"
#include "daemon/network/ports/server.hpp"

namespace userpod::ports {

// Of the control thread, which is in the host's network namespace.
class Table {
 public:
  static Result<std::unique_ptr<Table>> open(int nodeNamespace);
  ~Table();

  Status publish(const network::PublishedPod& pod, std::int64_t offset, std::optional<Taken>& taken);
  void withdraw(const std::string& podId);
  std::vector<network::PublishedPort> list();
  // Readable when refresh() is due.
  int changes() const { return sources_->changes(); }
  void refresh() { sources_->refresh(); }

 private:
  struct Listener {
    std::uint64_t number = 0;
    std::string podId;
    ServicePointer service;
    UniqueFd socket;
    std::size_t worker = 0;  // of a UDP port
  };
  using Listeners = std::map<ListenAddress, Listener>;
  struct Mapping {
    PortMapping asked;
    std::uint16_t listenPort = 0;
    ServicePointer service;
    std::vector<ListenAddress> addresses;  // that are listened on
  };
  struct Pod {
    network::PublishedPod published;
    std::int64_t offset = 0;
    std::vector<Mapping> mappings;
  };
  struct Worked {
    std::unique_ptr<Worker> worker;
    std::unique_ptr<Server> server;
  };

  Table() = default;
  void onWorker(std::size_t index, const std::function<void(Server&)>& task);
  Result<Mapping> plan(const network::PublishedPod& pod, const PortMapping& asked, std::int64_t offset) const;
  std::shared_ptr<Counters> countersOf(const std::string& podId, const PortMapping& asked) const;
  Status openAll(Pod& pod, Listeners& opened, std::optional<Taken>& taken);
  Status openSide(Pod& pod, Side side, Listeners& opened, std::optional<Taken>& taken);
  Status openOne(const std::string& podId, Mapping& mapping, const ListenAddress& address, bool optional,
                 Listeners& opened, std::optional<Taken>& taken);
  Error takenError(const std::string& podId, const ListenAddress& address, std::optional<Taken>& taken) const;
  Status serve(const Pod& pod, Listeners& opened);
  void dropUnused(const Pod& pod);
  void drop(const std::vector<ListenAddress>& addresses, const std::string& endedPod);
  void probe();
  std::string note(const Mapping& mapping) const;

  Shared shared_;
  std::unique_ptr<Sources> sources_;
  std::vector<Worked> workers_;
  Listeners listeners_;
  std::map<std::string, Pod> pods_;
  std::uint64_t nextNumber_ = 1;
  std::size_t nextWorker_ = 0;
  Worker::Clock::time_point probed_;
};

}  // namespace userpod::ports
