#include "daemon/network/cni/registry.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <future>
#include <set>

#include "daemon/network/cni/result.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

using namespace std::chrono_literals;

// Editors and package managers write in several steps.
constexpr auto kSettleTime = 50ms;
constexpr auto kPollInterval = 1s;  // without watches
constexpr auto kStatusInterval = 10s;
constexpr auto kFailingStatusInterval = 2s;
constexpr std::chrono::milliseconds kVersionTime = 5s;
constexpr std::chrono::milliseconds kMostStatusTime = 10s;
constexpr std::uint32_t kDirectoryEvents = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE |
                                           IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr const char* kProbeCgroup = "probe";

bool isDirectoryNow(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

// A network's own directory of plugins, and how its file is known.
std::string folderOf(const NetworkConfig& network) {
  return std::filesystem::path(network.file).parent_path().string() + "/" + network.name;
}

std::string missingProgram(const NetworkConfig& network, const Plugins& plugins) {
  for (const auto& plugin : network.plugins)
    for (const auto& type : {plugin.type, plugin.ipam})
      if (auto found = type.empty() ? Result<std::string>("") : plugins.find(type); !found)
        return fmt::format("{}: network {}: {}", network.file, network.name, found.error().text());
  return {};
}

// Changes when what plugins would answer may have changed.
std::string identityOf(const NetworkConfig& network, const Plugins& plugins) {
  std::string identity = network.file + networkJson(network).dump();
  for (const auto& plugin : network.plugins) {
    auto program = plugins.find(plugin.type);
    struct stat info{};
    if (program && ::stat(program->c_str(), &info) == 0)
      identity += fmt::format("\n{} {} {} {}", *program, info.st_ino, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  }
  return identity;
}

std::string versionProblem(const NetworkConfig& network, const PluginVersions& versions) {
  std::string spoken;
  for (const auto& [plugin, list] : versions)
    if (!list.empty()) spoken += fmt::format("{}{} {}", spoken.empty() ? "" : "; ", plugin, fmt::join(list, ", "));
  return fmt::format(
      "{}: network {} is of cniVersion {}, which not all its plugins speak ({}): lower it, or install newer plugins",
      network.file, network.name, fmt::join(network.versions, ", "), excerpt(spoken, 500));
}

}  // namespace

std::string commonVersion(const NetworkConfig& network, const PluginVersions& versions) {
  for (const auto& version : network.versions) {
    bool all = std::all_of(versions.begin(), versions.end(), [&](const auto& spoken) {
      const auto& list = spoken.second;
      return list.empty() || std::find(list.begin(), list.end(), version) != list.end();
    });
    if (all) return version;
  }
  return {};
}

Result<std::unique_ptr<Registry>> Registry::open(std::vector<std::string> directories, std::string wanted,
                                                 const Plugins& plugins) {
  std::unique_ptr<Registry> registry(new Registry(std::move(directories), std::move(wanted), plugins));
  USERPOD_TRY(loop, EventLoop::start("cni"));
  registry->loop_ = std::move(loop);
  registry->prober_ = std::make_unique<Workers>(1, "cni-probe");
  std::promise<void> started;
  registry->loop_->post([&] {
    registry->start();
    started.set_value();
  });
  started.get_future().wait();
  return registry;
}

Registry::~Registry() {
  ending_ = true;
  if (loop_) loop_->shutdown();  // it hands work to the prober
  // Ends a plugin that hangs, and with it the wait for its thread.
  if (auto removed = plugins_.node().removeCgroup(std::string("/cni/") + kProbeCgroup); !removed)
    logWarning("{}", removed.error());
  prober_.reset();
  loop_.reset();
}

void Registry::start() {
  auto watches = Watches::start(*loop_);
  if (watches) {
    watches_ = std::move(*watches);
  } else {
    logWarning("CNI configurations are looked at once a second, as they cannot be watched: {}", watches.error());
  }
  scan();
}

void Registry::schedule(EventLoop::Clock::duration delay) {
  if (scanTimer_) return;
  scanTimer_ = loop_->runAfter(delay, [this] {
    scanTimer_.reset();
    scan();
  });
}

void Registry::lookAgain() {
  loop_->post([this] { schedule(0s); });
}

// One watch for each directory; of one that is not there, for the nearest above it that is, until the next part comes.
void Registry::arm(const std::vector<std::string>& directories) {
  polling_ = watches_ == nullptr;
  if (polling_) return;
  std::map<std::string, std::set<std::string>> wanted;  // names that matter; an empty one: all
  for (const auto& directory : directories) {
    std::filesystem::path path = directory;
    std::string child;
    while (!isDirectoryNow(path) && path.has_relative_path()) {
      child = path.filename();
      path = path.parent_path();
    }
    wanted[path].insert(child);
  }
  for (auto id : armed_) watches_->remove(id);
  armed_.clear();
  for (const auto& [path, names] : wanted) {
    auto added = watches_->add(path, kDirectoryEvents, [this, names = names](const std::string& name) {
      if (name.empty() || names.contains("") || names.contains(name)) schedule(kSettleTime);
    });
    // EEXIST: the same directory under two names.
    if (added)
      armed_.push_back(*added);
    else if (added.error().sysErrno() != EEXIST)
      polling_ = true;
  }
  // What came since it was looked for, and before the watch: once more, soon.
  for (const auto& [path, names] : wanted)
    for (const auto& name : names)
      if (!name.empty() && isDirectoryNow(path + "/" + name)) schedule(kSettleTime);
}

void Registry::scan() {
  std::vector<std::string> all = directories_;
  all.insert(all.end(), plugins_.directories().begin(), plugins_.directories().end());
  // First the watches, then the look: nothing falls between.
  for (const auto& network : next_.networks)
    if (network.problem.empty() && isDirectoryNow(folderOf(network))) all.push_back(folderOf(network));
  arm(all);
  next_.networks = readNetworks(directories_);
  for (const auto& network : next_.networks) {
    std::string folder = network.problem.empty() ? folderOf(network) : "";
    if (folder.empty() || !isDirectoryNow(folder) || std::find(all.begin(), all.end(), folder) != all.end()) continue;
    schedule(0s);  // a directory that is not watched yet
  }
  for (auto& network : next_.networks)
    if (network.problem.empty()) network.problem = missingProgram(network, plugins_);
  choose();
  std::string identity = next_.chosen ? identityOf(*next_.chosen, plugins_) : "";
  if (identity != identity_) {
    identity_ = identity;
    versions_.reset();
    next_.statusProblem.clear();
    next_.settled = !next_.chosen;
  }
  publish();
  if (next_.chosen && !versions_) probe();
  if (polling_) schedule(kPollInterval);
}

std::string Registry::noneText() const {
  std::string names;
  for (const auto& network : next_.networks) {
    if (!network.name.empty()) names += (names.empty() ? "" : ", ") + network.name;
    if (network.name.empty()) names += (names.empty() ? "" : ", ") + network.file + " (broken)";
  }
  std::string where = fmt::format("{}", fmt::join(directories_, " and "));
  if (!wanted_.empty())
    return fmt::format("no CNI network \"{}\" (cni-network in userpod.toml) in {}; there {}", wanted_, where,
                       names.empty() ? "is none" : "are: " + names);
  return fmt::format(
      "no CNI configuration (*.conflist, *.conf, *.json) in {}: put one there, or set network = "
      "\"bridge\" in userpod.toml for the built-in network",
      where);
}

// The first file decides, also a broken one: pods must not join another network because of a misprint.
void Registry::choose() {
  next_.chosen.reset();
  next_.problem.clear();
  auto found = std::find_if(next_.networks.begin(), next_.networks.end(),
                            [&](const auto& network) { return wanted_.empty() || network.name == wanted_; });
  if (found == next_.networks.end()) {
    next_.problem = noneText();
    return;
  }
  next_.problem = found->problem;
  if (found->problem.empty()) next_.chosen = *found;
}

void Registry::publish() {
  // What the plugins speak narrows what the file says.
  if (next_.chosen && versions_) {
    std::string version = commonVersion(*next_.chosen, *versions_);
    if (version.empty()) next_.problem = versionProblem(*next_.chosen, *versions_);
    if (!version.empty()) next_.chosen->version = version;
  }
  auto previous = problem();
  {
    std::lock_guard lock(mutex_);
    published_ = next_;
  }
  settled_.notify_all();
  auto now = problem();
  if (now == previous) return;
  if (now.empty())
    logInfo("CNI: pods join the network {}", next_.chosen ? next_.chosen->name : "");
  else
    logWarning("CNI: {}", now);
}

void Registry::probe() {
  if (probing_) return;
  probing_ = true;
  prober_->submit([this, network = *next_.chosen, identity = identity_, known = versions_] {
    auto answers = ask(network, known);
    loop_->post([this, identity, answers = std::move(answers)]() mutable { probed(identity, std::move(answers)); });
  });
}

void Registry::probed(const std::string& identity, Answers answers) {
  probing_ = false;
  if (statusTimer_) loop_->cancel(*statusTimer_);
  statusTimer_.reset();
  if (!next_.chosen) return;
  if (identity != identity_) return probe();
  versions_ = std::move(answers.versions);
  next_.statusProblem = std::move(answers.status);
  next_.settled = true;
  publish();
  if (!isAtLeast(next_.chosen->version, "1.1.0")) return;
  auto interval = next_.statusProblem.empty() ? EventLoop::Clock::duration(kStatusInterval) : kFailingStatusInterval;
  statusTimer_ = loop_->runAfter(interval, [this] {
    statusTimer_.reset();
    if (next_.chosen) probe();
  });
}

Registry::Answers Registry::ask(NetworkConfig network, const std::optional<PluginVersions>& known) const {
  Answers answers;
  if (known) answers.versions = *known;
  auto cgroup = PluginCgroup::make(plugins_.node(), kProbeCgroup);
  if (!cgroup) {
    answers.status = cgroup.error().text();
    return answers;
  }
  for (const auto& plugin : network.plugins) {
    if (known || ending_) break;
    Invocation invocation{.command = "VERSION", .plugin = plugin.type, .input = {{"cniVersion", network.version}}};
    auto out = plugins_.run(invocation, *cgroup, kVersionTime);
    if (!out) logDebug("{}", out.error());
    answers.versions[plugin.type] = out ? parseVersions(*out) : std::vector<std::string>();
  }
  network.version = commonVersion(network, answers.versions);
  if (isKnownVersion(network.version) && isAtLeast(network.version, "1.1.0"))
    answers.status = statusOf(network, *cgroup);
  return answers;
}

std::string Registry::statusOf(const NetworkConfig& network, PluginCgroup& cgroup) const {
  auto time = std::min<std::chrono::milliseconds>(plugins_.timeout(), kMostStatusTime);
  for (const auto& plugin : network.plugins) {
    if (ending_) return {};
    Invocation invocation{
        .command = "STATUS", .plugin = plugin.type, .input = pluginInput(network, plugin, Json(), Json::object())};
    auto out = plugins_.run(invocation, cgroup, time);
    if (!out) return fmt::format("network {}: {}", network.name, out.error().text());
  }
  return {};
}

Result<NetworkConfig> Registry::chosen() const {
  std::unique_lock lock(mutex_);
  bool several = published_.chosen && published_.chosen->versions.size() > 1;
  if (several) settled_.wait_for(lock, kVersionTime, [&] { return published_.settled; });
  if (!published_.problem.empty() || !published_.chosen) return Error(Code::NotReady, published_.problem);
  return *published_.chosen;
}

std::vector<NetworkConfig> Registry::networks() const {
  std::lock_guard lock(mutex_);
  return published_.networks;
}

std::string Registry::chosenFile() const {
  std::lock_guard lock(mutex_);
  return published_.chosen ? published_.chosen->file : "";
}

std::string Registry::problem() const {
  std::lock_guard lock(mutex_);
  return published_.problem.empty() ? published_.statusProblem : published_.problem;
}

}  // namespace userpod::network::cni
