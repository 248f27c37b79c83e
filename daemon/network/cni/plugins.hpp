// Finding and running plugins.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "daemon/network/cni/capabilities.hpp"
#include "policy/settings.hpp"
#include "userns/node.hpp"

namespace userpod::network::cni {

// A cgroup of the node for the plugins of one operation. What is left in it ends with it.
class PluginCgroup {
 public:
  static Result<PluginCgroup> make(const NodeInside& node, const std::string& name);
  PluginCgroup(PluginCgroup&& other) noexcept = default;
  ~PluginCgroup();
  int fd() const { return fd_.get(); }
  // Kills what is in it, and begins anew. After a failure it has no descriptor, and no plugin is run in it.
  Status renew();

 private:
  PluginCgroup(const NodeInside& node, std::string path) : node_(&node), path_(std::move(path)) {}
  const NodeInside* node_;
  std::string path_;
  UniqueFd fd_;
};

struct Invocation {
  std::string command;  // ADD, DEL, CHECK, GC, STATUS, VERSION
  std::string plugin;   // type
  Json input;
  // For ADD, DEL and CHECK.
  std::string podId;
  std::string networkNamespace;
  CniArgs args;
};

// All methods from any thread; run() blocks.
class Plugins {
 public:
  // Of the settings it reads cni-timeout, whenever a plugin is run.
  Plugins(std::vector<std::string> directories, LiveSettings settings, const NodeInside& node)
      : directories_(std::move(directories)), settings_(std::move(settings)), node_(node) {}

  const std::vector<std::string>& directories() const { return directories_; }
  std::chrono::seconds timeout() const { return std::chrono::seconds(settings_.current()->cniTimeout); }
  const NodeInside& node() const { return node_; }
  // The program: HelperMissing names it and the directories.
  Result<std::string> find(const std::string& type) const;

  // What it prints. An error names plugin and command, has the plugin's own words and the end of its standard error,
  // and is HelperMissing for a missing program, Timeout for one that was killed after `time`, else NetworkSetupFailed;
  // `code` becomes that of the plugin's error, 0 where it gave none.
  Result<std::string> run(const Invocation& invocation, PluginCgroup& cgroup, std::chrono::milliseconds time,
                          std::int64_t* code = nullptr) const;
  // From here on run() starts nothing: Canceled.
  void stop() { stopped_ = true; }
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> environmentOf(const Invocation& invocation) const;

  const std::vector<std::string> directories_;
  const LiveSettings settings_;
  const NodeInside& node_;
  std::atomic<bool> stopped_ = false;
};

}  // namespace userpod::network::cni
