// What is known of pods' networks across restarts of daemon and node: libcni's files (cniCacheV1), so that its tools
// read them too.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/network/cni/capabilities.hpp"

namespace userpod::network::cni {

inline constexpr const char* kInterface = "eth0";

// One pod in one network.
struct Attachment {
  std::string podId;
  std::string networkNamespace;  // path at ADD
  NetworkConfig network;         // as it was at ADD
  CniArgs args;
  Json capabilities = Json::object();
  Json result;            // of the last plugin that ended well; null before the first
  bool complete = false;  // ADD of the whole chain is done
};

std::string attachmentText(const Attachment& attachment);
// ConfigInvalid: it is none of this runtime's, or damaged.
Result<Attachment> parseAttachment(std::string_view text);

// All methods from any thread. A change is on disk when it returns, whole or not at all, in as far as a killed daemon
// is concerned: nothing waits for the disk itself.
class Cache {
 public:
  // Reads what an earlier daemon has left. A file that is damaged, as after a power cut, stands for its pod with the
  // `configured` network of the name that it has; without one it is removed. Files of other runtimes are left alone.
  static Result<std::unique_ptr<Cache>> open(const std::string& directory,
                                             const std::vector<NetworkConfig>& configured);

  Status put(const Attachment& attachment);
  Status remove(const Attachment& attachment);
  std::vector<Attachment> ofPod(const std::string& podId) const;
  std::vector<Attachment> all() const;
  // (container, interface) of everything that is attached to the network, by whatever runtime.
  std::vector<std::pair<std::string, std::string>> attachedTo(const std::string& network) const;

 private:
  explicit Cache(std::string directory) : directory_(std::move(directory)) {}
  std::string fileOf(const Attachment& attachment) const;
  void take(const std::string& name, const std::vector<NetworkConfig>& configured);

  const std::string directory_;
  mutable std::mutex mutex_;
  std::map<std::string, Attachment> attachments_;  // by file
};

}  // namespace userpod::network::cni
