// The layers of one pull that are not here yet: each comes from userpod-pull by a pipe to a userpod-unpack of its own.
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/images/layer_pool.hpp"
#include "daemon/images/pull_processes.hpp"
#include "daemon/images/pull_progress.hpp"
#include "daemon/images/transfer/messages.hpp"

namespace userpod::images {

struct WantedLayer {
  Descriptor descriptor;
  std::string diffId;  // empty: told once it is unpacked (Docker schema 1)
  std::string file;    // of an artifact; see UnpackOrder
};

// One thread: that of the pull.
class LayerFetches {
 public:
  struct Parts {
    const PullPrograms& programs;
    const Settings& settings;
    LayerPool& pool;
    Channel& channel;
    Progress& progress;
    int stop;  // descriptor that becomes readable when the pull is to end
  };
  explicit LayerFetches(const Parts& parts) : parts_(parts) {}

  void add(WantedLayer layer) { wanted_.push_back(std::move(layer)); }
  // Blocks until all are in the pool, or the first failure; what is complete by then stays in the pool. Nothing else is
  // left: processes are ended, half-filled directories thrown away.
  Status run();
  // Of each blob, the layer that it has become.
  const std::map<std::string, std::string>& layers() const { return layers_; }

 private:
  struct Active {
    std::size_t number;
    LayerPool::Slot slot;
    LayerPool::Workspace workspace;
    UnpackProcess process;
    bool fetched = false;
    bool readerGone = false;
    std::optional<Unpacked> unpacked;
  };
  Status checkSpace();
  Status step();
  bool mayBegin() const;
  Status begin(std::size_t number);
  Status wait();
  Status hear();
  Status hearOutcome(Active& active);
  Status settle();
  void writeOut();
  Active* find(std::size_t number);

  const Parts parts_;
  std::optional<SharedCounters> counters_;
  std::vector<WantedLayer> wanted_;
  std::size_t next_ = 0;
  std::list<Active> active_;
  std::map<std::string, std::string> layers_;
  std::atomic<bool> writing_{false};
  std::jthread writer_;
};

}  // namespace userpod::images
