#include "daemon/network/cni/cni.hpp"

#include <fmt/core.h>
#include <linux/magic.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/vfs.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <shared_mutex>

#include "daemon/network/cni/cache.hpp"
#include "daemon/network/cni/registry.hpp"
#include "daemon/network/cni/result.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/netlink.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace cni {
namespace {

using namespace std::chrono_literals;

// Nobody waits longer than this for another pod's first plugin.
constexpr auto kFirstAddWait = 3s;
// Of plugins that an ADD or DEL waits for without being theirs.
constexpr std::chrono::milliseconds kAsideTime = 10s;
constexpr std::string_view kCollects = "1.1.0";  // the version that has GC

// Not the bare id: the core ends cgroups named so of pods that it does not know.
std::string cgroupOf(const std::string& podId) {
  return "pod-" + podId;
}

bool isNamespace(const std::string& path) {
  struct statfs info{};
  return !path.empty() && ::statfs(path.c_str(), &info) == 0 && info.f_type == NSFS_MAGIC;
}

Status setLoopbackUpIn(const std::string& networkNamespace) {
  USERPOD_TRY(file, openFile(networkNamespace, O_RDONLY));
  return inOwnThread([&]() -> Status {
    if (::setns(file.get(), CLONE_NEWNET) < 0) return sysError("join " + networkNamespace);
    USERPOD_TRY(socket, Netlink::open());
    NetlinkBatch batch;
    auto& link = batch.begin<ifinfomsg>(RTM_NEWLINK, 0, "bring lo up");
    link.ifi_index = 1;  // in every network namespace
    link.ifi_flags = link.ifi_change = IFF_UP;
    return socket.run(batch);
  });
}

class PluginNetworks final : public Cni {
 public:
  PluginNetworks(const LiveSettings& settings, const NodeInside& node)
      : plugins_(settings.current()->cniPluginDirs, settings, node) {}
  Status start(const Paths& paths, const Settings& settings, const std::string& results);

  Result<CniAttachment> add(const std::string& podId, const PodConfig& config, const std::string& cgroup,
                            const std::string& networkNamespace) override;
  Status check(const std::string& podId) override;
  CniAttachment attachment(const std::string& podId) override;
  Status remove(const std::string& podId, const std::string& networkNamespace) override;
  Status collectGarbage(const std::set<std::string>& living) override;
  void stop() override;
  std::string problem() const override { return registry_->problem(); }
  std::vector<CniNetwork> networks() const override;

 private:
  Status checkRuns() const;
  Status runAdd(Attachment& attachment, PluginCgroup& cgroup, std::int64_t& code);
  Status runDel(const Attachment& attachment, PluginCgroup& cgroup);
  Status addOnce(Attachment& attachment, PluginCgroup& cgroup, bool& again);
  Status removeAll(const std::string& podId, const std::string& networkNamespace);
  Status collectOf(const NetworkConfig& network);
  static CniAttachment summary(const Attachment& attachment);
  Invocation invocationFor(const char* command, const Attachment& attachment, const PluginConfig& plugin) const;

  Plugins plugins_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<Cache> cache_;
  // Plugins that make what all pods share, as a bridge, get in each other's way the first time.
  std::timed_mutex firstAdd_;
  // GC must not take what an ADD beside it has just got: it has the list of what is valid from before.
  std::shared_mutex collecting_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::set<std::string> used_;    // networks that a pod has joined; guarded by mutex_
  std::set<std::string> busy_;    // pods of which a call is under way; guarded by mutex_
  std::set<std::string> joined_;  // pods of this daemon, from add() to remove(); guarded by mutex_
  friend class OnePod;
};

// One call for a pod at a time: garbage is collected beside the others.
class OnePod {
 public:
  OnePod(PluginNetworks& networks, std::string podId) : networks_(networks), podId_(std::move(podId)) {
    std::unique_lock lock(networks_.mutex_);
    networks_.freed_.wait(lock, [&] { return networks_.busy_.insert(podId_).second; });
  }
  OnePod(const OnePod&) = delete;
  OnePod& operator=(const OnePod&) = delete;
  ~OnePod() {
    std::lock_guard lock(networks_.mutex_);
    networks_.busy_.erase(podId_);
    networks_.freed_.notify_all();
  }

 private:
  PluginNetworks& networks_;
  const std::string podId_;
};

Status PluginNetworks::start(const Paths& paths, const Settings& settings, const std::string& results) {
  // Plugins that a killed daemon has left running. One that cannot be killed, in the kernel, keeps nobody.
  if (auto removed = plugins_.node().removeCgroup("/cni"); !removed) logWarning("{}", removed.error());
  auto directories = settings.cniConfigDirs;
  if (directories.empty())
    directories = {std::filesystem::path(paths.config).parent_path().string() + "/cni/net.d", "/etc/cni/net.d"};
  USERPOD_TRY(registry, Registry::open(directories, settings.cniNetwork, plugins_));
  registry_ = std::move(registry);
  USERPOD_TRY(cache, Cache::open(results, registry_->networks()));
  cache_ = std::move(cache);
  return {};
}

Invocation PluginNetworks::invocationFor(const char* command, const Attachment& attachment,
                                         const PluginConfig& plugin) const {
  bool add = std::string_view(command) == "ADD";
  // DEL and CHECK know of it since 0.4.0.
  bool previous = add || isAtLeast(attachment.network.version, "0.4.0");
  return {
      .command = command,
      .plugin = plugin.type,
      .input = pluginInput(attachment.network, plugin, previous ? attachment.result : Json(), attachment.capabilities),
      .podId = attachment.podId,
      .networkNamespace = attachment.networkNamespace,
      .args = attachment.args};
}

Status PluginNetworks::checkRuns() const {
  if (!plugins_.stopped()) return {};
  return Error(Code::Canceled, "CNI: no plugin is run any more, as the daemon is ending");
}

// On disk before each plugin: that it may have begun, and what those before it gave, which DEL needs to undo it.
Status PluginNetworks::runAdd(Attachment& attachment, PluginCgroup& cgroup, std::int64_t& code) {
  attachment.result = Json();
  attachment.complete = false;
  USERPOD_CHECK(cache_->put(attachment));
  reachStage("cni.add.begun", attachment.podId);
  const auto& plugins = attachment.network.plugins;
  for (const auto& plugin : plugins) {
    auto out = plugins_.run(invocationFor("ADD", attachment, plugin), cgroup, plugins_.timeout(), &code);
    if (!out) return std::move(out).error();
    reachStage("cni.add.plugin", attachment.podId);
    auto result = parseResult(*out, attachment.network.version);
    if (!result)
      return std::move(result)
          .error()
          .as(Code::NetworkSetupFailed)
          .wrap(fmt::format("CNI plugin \"{}\" (ADD): its result", plugin.type));
    attachment.result = std::move(*result);
    attachment.complete = &plugin == &plugins.back();
    USERPOD_CHECK(cache_->put(attachment));
    reachStage("cni.add.cached", attachment.podId);
  }
  if (!addressesIn(attachment.result, kInterface).empty()) return {};
  return Error(Code::NetworkSetupFailed,
               "the plugins gave the pod no address; give the network an \"ipam\" in its configuration");
}

// Every plugin, whatever the others say: each frees what it can.
Status PluginNetworks::runDel(const Attachment& attachment, PluginCgroup& cgroup) {
  Status first;
  const auto& plugins = attachment.network.plugins;
  for (auto plugin = plugins.rbegin(); plugin != plugins.rend(); ++plugin) {
    auto out = plugins_.run(invocationFor("DEL", attachment, *plugin), cgroup, plugins_.timeout());
    reachStage("cni.del.plugin", attachment.podId);
    if (out) continue;
    logFailure(Level::Warning, out.error(), {{"POD_ID", attachment.podId}});
    if (first) first = std::move(out).error();
  }
  if (!first) return std::move(first).error().wrap("network " + attachment.network.name);
  reachStage("cni.del.done", attachment.podId);
  USERPOD_CHECK(cache_->remove(attachment));
  reachStage("cni.deleted", attachment.podId);
  return {};
}

Status PluginNetworks::addOnce(Attachment& attachment, PluginCgroup& cgroup, bool& again) {
  std::int64_t code = 0;
  auto added = runAdd(attachment, cgroup, code);
  if (added) return {};
  again = code == kTryAgainLater || code >= kFirstOwnCode;
  std::string text = added.error().text();
  // What DEL cannot undo now stays in the cache, for remove() and collectGarbage().
  if (auto undone = runDel(attachment, cgroup); !undone) {
    again = false;
    text += "; and undoing it failed: " + undone.error().text();
  }
  auto failed = std::move(added).error();
  bool timeout = failed.code() == Code::Timeout;
  return Error(timeout ? Code::NetworkSetupFailed : failed.code(),
               fmt::format("network {}: {}", attachment.network.name, text), failed.sysErrno());
}

Result<CniAttachment> PluginNetworks::add(const std::string& podId, const PodConfig& config, const std::string& cgroup,
                                          const std::string& networkNamespace) {
  OnePod guard(*this, podId);
  USERPOD_CHECK(checkRuns());
  {
    std::lock_guard lock(mutex_);
    joined_.insert(podId);
  }
  Attachment attachment{.podId = podId, .networkNamespace = networkNamespace};
  USERPOD_TRY(network, registry_->chosen());
  attachment.network = network;
  USERPOD_TRY(args, cniArgs(podId, config));
  attachment.args = args;
  USERPOD_TRY(capabilities, capabilityArgs(config, cgroup));
  attachment.capabilities = capabilities;
  USERPOD_CHECK(checkTaken(network, config));
  USERPOD_CHECK(removeAll(podId, networkNamespace));  // of an ADD under this id that a killed daemon began
  if (auto up = setLoopbackUpIn(networkNamespace); !up) return std::move(up).error().as(Code::NetworkSetupFailed);
  USERPOD_TRY(pluginCgroup, PluginCgroup::make(plugins_.node(), cgroupOf(podId)));

  std::shared_lock notCollecting(collecting_, std::defer_lock);
  if (isAtLeast(network.version, kCollects)) notCollecting.lock();
  std::unique_lock<std::timed_mutex> first(firstAdd_, std::defer_lock);
  auto isUsed = [&] {
    std::lock_guard lock(mutex_);
    return used_.contains(network.name);
  };
  if (!isUsed() && first.try_lock_for(kFirstAddWait) && isUsed()) first.unlock();
  bool again = false;
  auto added = addOnce(attachment, pluginCgroup, again);
  // Once more for what may be over: Debian's bridge (1.1.1) fails on a bridge that an ADD which failed has left.
  if (!added && again) {
    logFailure(Level::Notice, added.error(), {{"POD_ID", podId}}, "once more");
    added = addOnce(attachment, pluginCgroup, again);
  }
  if (!added) {
    registry_->lookAgain();
    return std::move(added).error();
  }
  std::lock_guard lock(mutex_);
  used_.insert(network.name);
  return summary(attachment);
}

CniAttachment PluginNetworks::summary(const Attachment& attachment) {
  CniAttachment summary;
  if (!attachment.complete) return summary;
  summary.addresses = addressesIn(attachment.result, kInterface);
  const auto& plugins = attachment.network.plugins;
  summary.mapsPorts =
      attachment.capabilities.contains("portMappings") &&
      std::any_of(plugins.begin(), plugins.end(), [](const auto& plugin) { return plugin.takes("portMappings"); });
  return summary;
}

CniAttachment PluginNetworks::attachment(const std::string& podId) {
  auto known = cache_->ofPod(podId);
  return known.empty() ? CniAttachment{} : summary(known.front());
}

Status PluginNetworks::check(const std::string& podId) {
  OnePod guard(*this, podId);
  auto known = cache_->ofPod(podId);
  if (known.empty() || !known.front().complete)
    return Error(Code::NetworkSetupFailed, "the pod has not joined a network");
  const auto& attachment = known.front();
  if (attachment.network.disableCheck || !isAtLeast(attachment.network.version, "0.4.0")) return {};
  USERPOD_TRY(cgroup, PluginCgroup::make(plugins_.node(), cgroupOf(podId)));
  for (const auto& plugin : attachment.network.plugins) {
    auto out = plugins_.run(invocationFor("CHECK", attachment, plugin), cgroup,
                            std::min<std::chrono::milliseconds>(plugins_.timeout(), kAsideTime));
    if (!out) return std::move(out).error().as(Code::NetworkSetupFailed).wrap("network " + attachment.network.name);
  }
  return {};
}

Status PluginNetworks::removeAll(const std::string& podId, const std::string& networkNamespace) {
  auto known = cache_->ofPod(podId);
  if (known.empty()) return {};
  USERPOD_TRY(cgroup, PluginCgroup::make(plugins_.node(), cgroupOf(podId)));
  Status first;
  for (auto& attachment : known) {
    attachment.networkNamespace = isNamespace(networkNamespace) ? networkNamespace : "";
    auto removed = runDel(attachment, cgroup);
    if (!removed && first) first = std::move(removed);
  }
  return first;
}

Status PluginNetworks::remove(const std::string& podId, const std::string& networkNamespace) {
  OnePod guard(*this, podId);
  USERPOD_CHECK(checkRuns());
  {
    std::lock_guard lock(mutex_);
    joined_.erase(podId);
  }
  reachStage("cni.del", podId);
  return removeAll(podId, networkNamespace);
}

// The plugins' own search for what nobody has: spec 1.1.0.
Status PluginNetworks::collectOf(const NetworkConfig& network) {
  if (network.disableGc || !isAtLeast(network.version, kCollects)) return {};
  USERPOD_TRY(cgroup, PluginCgroup::make(plugins_.node(), "gc"));
  Status first;
  for (const auto& plugin : network.plugins) {
    // For one plugin at a time: every ADD waits meanwhile.
    std::unique_lock collecting(collecting_);
    Json valid = Json::array();
    for (const auto& [container, interface] : cache_->attachedTo(network.name))
      valid.push_back({{"containerID", container}, {"ifname", interface}});
    Invocation invocation{
        .command = "GC", .plugin = plugin.type, .input = pluginInput(network, plugin, Json(), Json::object())};
    // The second name is that of a misprint in the first text of 1.1.0, by which plugins have been written.
    invocation.input["cni.dev/valid-attachments"] = valid;
    invocation.input["cni.dev/attachments"] = valid;
    auto out = plugins_.run(invocation, cgroup, std::min<std::chrono::milliseconds>(plugins_.timeout(), kAsideTime));
    if (!out && first) first = std::move(out).error().wrap("network " + network.name);
  }
  return first;
}

Status PluginNetworks::collectGarbage(const std::set<std::string>& living) {
  Status first;
  std::map<std::string, NetworkConfig> networks;
  for (const auto& attachment : cache_->all()) {
    if (living.contains(attachment.podId)) {
      networks[attachment.network.name] = attachment.network;
      continue;
    }
    OnePod guard(*this, attachment.podId);
    {
      std::lock_guard lock(mutex_);
      if (joined_.contains(attachment.podId)) continue;
    }
    auto removed = removeAll(attachment.podId, attachment.networkNamespace);
    if (!removed && first) first = std::move(removed);
  }
  if (auto chosen = registry_->chosen()) networks[chosen->name] = *chosen;
  for (const auto& [name, network] : networks) {
    auto collected = collectOf(network);
    if (!collected && first) first = std::move(collected);
  }
  return first;
}

void PluginNetworks::stop() {
  plugins_.stop();
  if (auto removed = plugins_.node().removeCgroup("/cni"); !removed) logWarning("{}", removed.error());
}

std::vector<CniNetwork> PluginNetworks::networks() const {
  std::vector<CniNetwork> list;
  std::string chosen = registry_->chosenFile();
  for (const auto& network : registry_->networks()) {
    CniNetwork one{.name = network.name, .file = network.file, .version = network.version};
    for (const auto& plugin : network.plugins) one.plugins.push_back(plugin.type);
    one.chosen = network.file == chosen;
    one.problem = network.problem;
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace
}  // namespace cni

Result<std::unique_ptr<Cni>> Cni::open(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                       const std::string& results) {
  auto networks = std::make_unique<cni::PluginNetworks>(settings, node);
  USERPOD_CHECK(networks->start(paths, *settings.current(), results));
  return std::unique_ptr<Cni>(std::move(networks));
}

}  // namespace userpod::network
