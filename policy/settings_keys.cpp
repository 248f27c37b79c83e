#include "policy/settings_keys.hpp"

#include <algorithm>
#include <filesystem>

#include "policy/settings_types.hpp"

namespace userpod {
namespace {

using namespace types;

constexpr std::int64_t kDay = 86400;
constexpr std::int64_t kMebi = 1LL << 20;
constexpr std::int64_t kExbi = 1LL << 60;
constexpr std::int64_t kMostPids = 1 << 22;             // PID_MAX_LIMIT of 64 bit kernels
constexpr std::int64_t kMostPortOffset = 65535 - 1023;  // the highest of them is still a port

Key key(std::string name, Applies applies, Value value, std::string documentation) {
  return {std::move(name),        std::move(value.type), applies, std::move(documentation), std::move(value.read),
          std::move(value.value), std::move(value.copy)};
}

void addNetwork(std::vector<Key>& table) {
  table.push_back(key("uplink", Applies::Node, choice(&Settings::uplink, {"auto", "pasta", "slirp4netns", "none"}),
                      "How the node, and the pods in it, reach the outside: by pasta where the installed one has the "
                      "options that it needs, else by slirp4netns (auto), by one of them, or not at all."));
  table.push_back(
      key("pasta", Applies::Node, program(&Settings::pasta), "Path of pasta. Empty: found in the usual directories."));
  table.push_back(key("slirp4netns", Applies::Node, program(&Settings::slirp4netns),
                      "Path of slirp4netns. Empty: found in the usual directories."));
  table.push_back(key("host-loopback", Applies::Node, flag(&Settings::hostLoopback),
                      "Whether the node and its pods reach what listens on the 127.0.0.1 of the host, by 10.0.2.2."));
  table.push_back(key("network", Applies::Daemon, choice(&Settings::network, {"bridge", "cni"}),
                      "The network of pods: the built-in bridge, or CNI plugins. Remove all pods before it changes: "
                      "only what has set a pod's network up can take it down."));
  table.push_back(key("subnet", Applies::Daemon, subnet(&Settings::subnet),
                      "IPv4 addresses of pods on the built-in bridge, whose own is the first of them. Pods that are "
                      "there keep theirs."));
  table.push_back(key("subnet6", Applies::Daemon, subnet6(&Settings::subnet6),
                      "The same for IPv6; a pod has its IPv4 number in it. Empty: pods have no IPv6 address."));
  table.push_back(key("address-reuse-delay", Applies::Reload,
                      number(&Settings::addressReuseDelay, {0, kDay}, "seconds"),
                      "Seconds until the addresses of a pod that has ended may be another's."));
  table.push_back(key("privileged-port-offset", Applies::Daemon,
                      number(&Settings::privilegedPortOffset, {0, kMostPortOffset}, "ports"),
                      "What is added on the host to host ports below 1024. 0: nothing, and those below "
                      "net.ipv4.ip_unprivileged_port_start are refused."));
  table.push_back(key("cni-config-dirs", Applies::Daemon, directories(&Settings::cniConfigDirs, false),
                      "Directories of CNI network configurations, as the node sees them, the first of most weight."));
  table.push_back(key("cni-plugin-dirs", Applies::Daemon, directories(&Settings::cniPluginDirs, false),
                      "Directories of CNI plugins, the first of most weight."));
  table.push_back(key("cni-network", Applies::Daemon, name(&Settings::cniNetwork, true),
                      "Name of the CNI network that pods join. Empty: that of the first file."));
  table.push_back(key("cni-timeout", Applies::Reload, number(&Settings::cniTimeout, {1, 3600}, "seconds"),
                      "Seconds that one CNI plugin may take; then it is killed with all that it has started."));
}

void addImages(std::vector<Key>& table) {
  table.push_back(key("image-size-limit", Applies::Reload,
                      number(&Settings::imageSizeLimit, {kMebi, kExbi, true}, "bytes"),
                      "Bytes of files that one pull may unpack, holes counted. 0: no limit."));
  table.push_back(key("image-entries-limit", Applies::Reload,
                      number(&Settings::imageEntriesLimit, {1, 1'000'000'000, true}, "entries"),
                      "Files, directories and links that one pull may unpack. 0: no limit."));
  table.push_back(key("image-ratio-limit", Applies::Reload,
                      number(&Settings::imageRatioLimit, {2, 1'000'000, true}, "times"),
                      "How many times its compressed size a layer may unpack to, once it is larger than 256 MiB: "
                      "ordinary ones are below 20, what is made to fill a disk is at 1000. 0: no limit."));
  table.push_back(
      key("pinned-images", Applies::Reload, imagePatterns(&Settings::pinnedImages),
          "Images that a kubelet and `userpodctl image prune` never remove of themselves: names with tag or "
          "digest, those that begin so with * at the end, those that contain it with * at both ends; whole "
          "ids, with or without sha256:."));
  table.push_back(key("ignore-chown-errors", Applies::Reload, flag(&Settings::ignoreChownErrors),
                      "What becomes of a file in an image whose owner the user's subordinate ids do not reach: false, "
                      "the pull fails and names it; true, it belongs to root in the container."));
  table.push_back(key("pull-stall-timeout", Applies::Reload,
                      number(&Settings::pullStallTimeout, {1, kDay, true}, "seconds"),
                      "Seconds in which a registry may send nothing, or almost nothing, before it is asked again. 0: "
                      "no limit."));
}

void addContainers(std::vector<Key>& table) {
  table.push_back(key("storage-driver", Applies::Daemon,
                      choice(&Settings::storageDriver, {"auto", "overlay", "fuse-overlayfs", "copy"}),
                      "How the layers of an image become the root file system of a container: by the kernel's overlay, "
                      "by fuse-overlayfs, by copies of all files, or by the first of them that works (auto). A change "
                      "is for new containers only, and images need not be pulled again."));
  table.push_back(key("conmon", Applies::Daemon, program(&Settings::conmon),
                      "Path of conmon. Empty: found in the usual directories."));
  table.push_back(key("nofile", Applies::Reload, fileLimit(),
                      "Soft and hard limit of open files of each container's processes. More than this user may have "
                      "becomes that."));
  table.push_back(key("pids-limit", Applies::Reload, number(&Settings::pidsLimit, {0, kMostPids}, "processes"),
                      "Processes that a container may have when the request does not say. 0: no limit."));
  table.push_back(key("allow-runtime-directory-mounts", Applies::Reload, flag(&Settings::allowRuntimeDirectoryMounts),
                      "Whether a container may have a mount that is, contains or lies in userpod's own directories, "
                      "where its sockets are. Such a container controls all others."));
  table.push_back(key("cdi-spec-dirs", Applies::Reload, directories(&Settings::cdiSpecDirs, true),
                      "Directories of CDI specifications, the first of least weight. They are read whenever a "
                      "container asks for a CDI device."));
  table.push_back(key("hooks-dir", Applies::Reload, directories(&Settings::hooksDirs, true),
                      "Directories of hook files as in oci-hooks(5); a file hides that of the same name in an earlier "
                      "directory. They are read whenever a container is made."));
  table.push_back(key("default-runtime", Applies::Daemon, name(&Settings::defaultRuntime, false),
                      "The runtime handler of pods that ask for none: a name in [runtimes]."));
  table.push_back(key("runtimes", Applies::Daemon, runtimes(),
                      "A table for each runtime handler, with one key, path: the OCI runtime's program. Without it the "
                      "handler's name is looked for in the usual directories. crun is always there."));
}

std::vector<Key> makeKeys() {
  std::vector<Key> table;
  table.push_back(key("log-level", Applies::Reload,
                      choice(&Settings::logLevel, {"error", "warning", "notice", "info", "debug"}),
                      "How much the journal gets. `systemctl --user service-log-level userpod.service LEVEL` changes "
                      "it until the next reload or start."));
  addNetwork(table);
  addImages(table);
  addContainers(table);
  return table;
}

// What people write differently without meaning another key: case, and _ for -.
std::string plain(std::string_view word) {
  std::string text;
  for (char c : word)
    if (c >= 'A' && c <= 'Z')
      text += static_cast<char>(c - 'A' + 'a');
    else if (c != '-' && c != '_')
      text += c;
  return text;
}

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row[b.size()];
}

}  // namespace

const std::vector<Key>& keys() {
  static const std::vector<Key> table = makeKeys();
  return table;
}

const Key* findKey(std::string_view name) {
  for (const auto& key : keys())
    if (key.name == name) return &key;
  return nullptr;
}

Settings defaultSettings(const std::string& directory) {
  Settings settings;
  settings.runtimes["crun"] = {};
  settings.cdiSpecDirs.push_back(directory + "/cdi");
  settings.cniConfigDirs = {std::filesystem::path(directory).parent_path().string() + "/cni/net.d", "/etc/cni/net.d"};
  return settings;
}

std::string nearest(std::string_view wrong, const std::vector<std::string>& known) {
  constexpr std::size_t kLongest = 64;
  std::string given = plain(wrong.substr(0, kLongest));
  std::string best;
  std::size_t least = std::max<std::size_t>(2, given.size() / 4) + 1;
  for (const auto& word : known)
    if (std::size_t steps = distance(given, plain(word)); steps < least && steps < word.size()) {
      least = steps;
      best = word;
    }
  return best;
}

}  // namespace userpod
