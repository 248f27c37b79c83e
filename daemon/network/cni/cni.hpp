// Pod networks by CNI plugins: https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md and older versions.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::network {

// What a pod got from the plugins.
struct CniAttachment {
  std::vector<std::string> addresses;  // textual, without prefix lengths, of eth0; the first IPv4 one leads
  bool mapsPorts = false;              // a plugin of the chain has taken the port mappings (capability portMappings)
};

// One network of the configuration directories, for people.
struct CniNetwork {
  std::string name;
  std::string file;
  std::string version;               // cniVersion
  std::vector<std::string> plugins;  // types, in order
  bool chosen = false;               // pods join this one
  std::string problem;               // why it cannot be used; empty: nothing is known against it
};

// All methods may be called from any worker thread, for different pods at once; a call for a pod waits for one that is
// under way. collectGarbage() may run beside them: it leaves pods alone that this daemon has added.
// Plugins run in the node's network namespace and in a cgroup below the node's "/cni", which ends with the call: one
// that hangs is killed after Settings::cniTimeout.
class Cni {
 public:
  // Watches the configuration directories from here on. Directories and files that are not there are no error: see
  // problem(). Kills plugins that an earlier daemon has left running: to be called before the first add(). `results` is
  // libcni's cache, which the node binds from the user's data directory. The node outlives the Cni.
  static Result<std::unique_ptr<Cni>> open(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                           const std::string& results = "/var/lib/cni/results");
  virtual ~Cni() = default;

  // ADD of the whole chain for eth0. The configuration used and the result are cached on disk before it returns, so
  // that DEL and CHECK get what ADD got, also after a restart. A failure undoes the chain by DEL before it is returned:
  // NetworkSetupFailed with network, plugin, the plugin's message and the end of its standard error; NotReady when
  // there is no usable configuration.
  virtual Result<CniAttachment> add(const std::string& podId, const PodConfig& config, const std::string& cgroup,
                                    const std::string& networkNamespace) = 0;
  // CHECK against the cached result (spec 0.4.0 and later; nothing to do before). NetworkSetupFailed names the
  // plugin and what it found changed.
  virtual Status check(const std::string& podId) = 0;
  // What the pod got at ADD; nothing when it is not known.
  virtual CniAttachment attachment(const std::string& podId) = 0;
  // DEL in reverse order from the cache, with an empty CNI_NETNS when the namespace is gone. An unknown pod and
  // repetition are fine. An error leaves the cache, so that the next DEL or collectGarbage() tries again.
  virtual Status remove(const std::string& podId, const std::string& networkNamespace) = 0;
  // DEL of every cached pod that is not among these (of an earlier node or a killed daemon), then GC of plugins that
  // know it (spec 1.1.0).
  virtual Status collectGarbage(const std::set<std::string>& living) = 0;
  // Ends what runs and starts nothing more, so that a daemon that is asked to end does not wait for plugins: add() and
  // remove() are Canceled from here on. What was under way is undone by the next one's collectGarbage(). Repetition is
  // fine.
  virtual void stop() = 0;

  // Empty when pods can get a network; else why not, and how to mend it. Does not block: the state is found by the
  // watch of the directories and, with spec 1.1.0, by STATUS from time to time.
  virtual std::string problem() const = 0;
  virtual std::vector<CniNetwork> networks() const = 0;
};

}  // namespace userpod::network
