// The networks that are configured, and whether pods can join the chosen one: kept up to date by watches of the
// directories of configurations and plugins, by what plugins say of their versions, and by STATUS.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/network/cni/plugins.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/watches.hpp"

namespace userpod::network::cni {

// By plugin: those that it speaks; none: it has not said.
using PluginVersions = std::map<std::string, std::vector<std::string>>;

// The highest of the network's versions that all its plugins speak; empty: there is none.
std::string commonVersion(const NetworkConfig& network, const PluginVersions& versions);

// All methods from any thread, without waiting, but for chosen().
class Registry {
 public:
  // `wanted`: name of the network; empty: that of the first file. `plugins` outlives it.
  static Result<std::unique_ptr<Registry>> open(std::vector<std::string> directories, std::string wanted,
                                                const Plugins& plugins);
  ~Registry();

  // The pods' network. NotReady: there is none, or it is of no use, with the mend; a failing STATUS does not count. May
  // wait for plugins to say which versions they speak, when the network is configured for several: some ms.
  Result<NetworkConfig> chosen() const;
  std::vector<NetworkConfig> networks() const;
  std::string chosenFile() const;
  std::string problem() const;
  void lookAgain();  // soon: something did not work

 private:
  Registry(std::vector<std::string> directories, std::string wanted, const Plugins& plugins)
      : directories_(std::move(directories)), wanted_(std::move(wanted)), plugins_(plugins) {}
  // In the loop.
  void start();
  void schedule(EventLoop::Clock::duration delay);
  void scan();
  void arm(const std::vector<std::string>& directories);
  void choose();
  std::string noneText() const;
  void probe();
  struct Answers {
    PluginVersions versions;
    std::string status;  // why STATUS failed
  };
  void probed(const std::string& identity, Answers answers);
  void publish();
  // On the prober's thread.
  Answers ask(NetworkConfig network, const std::optional<PluginVersions>& known) const;
  std::string statusOf(const NetworkConfig& network, PluginCgroup& cgroup) const;

  const std::vector<std::string> directories_;
  const std::string wanted_;
  const Plugins& plugins_;

  struct Published {
    std::vector<NetworkConfig> networks;
    std::optional<NetworkConfig> chosen;
    std::string problem;        // of the configuration
    std::string statusProblem;  // of STATUS
    bool settled = false;       // plugins have said which versions they speak
  };
  mutable std::mutex mutex_;
  mutable std::condition_variable settled_;
  Published published_;  // guarded by mutex_

  // The loop's own.
  Published next_;
  std::string identity_;                    // of the chosen network and its programs: what plugins were asked about
  std::optional<PluginVersions> versions_;  // for identity_
  bool probing_ = false;
  bool polling_ = false;  // a watch could not be had
  std::optional<EventLoop::TimerId> scanTimer_;
  std::optional<EventLoop::TimerId> statusTimer_;
  std::vector<Watches::Id> armed_;
  std::unique_ptr<Watches> watches_;

  std::atomic<bool> ending_ = false;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Workers> prober_;  // one thread: a plugin that hangs must not keep changes of files from being seen
};

}  // namespace userpod::network::cni
