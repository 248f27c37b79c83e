// The way that packets take, hop by hop, told from what GetNetwork and ListPods answer. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace userpod::ctl {

using Json = nlohmann::ordered_json;

struct Hop {
  std::string place;  // "pod NAME", "node", "host", "outside"
  std::string text;
};

struct Path {
  std::string name;   // for scripts: "pod-to-outside", "pod-to-host", "pod-to-pod", "host-to-pod", "node-to-pod"
  std::string title;  // for people
  std::vector<Hop> hops;
};

// Addresses with a port, as a client writes them: "127.0.0.1:80, [::1]:80".
std::string endpoints(const Json& addresses, unsigned port);
std::string joined(const Json& texts);  // those that are texts, with commas

// network: the answer of GetNetwork. pods: properties as ListPods has them, with readable addresses, and Path; all that
// are ready. pod: index of the one whose own names, addresses and ports are told; none: those of any pod, as words.
constexpr std::size_t kAnyPod = static_cast<std::size_t>(-1);
std::vector<Path> packetPaths(const Json& network, const Json& pods, std::size_t pod);

Json pathsJson(const std::vector<Path>& paths);
// One hop below the other; `color` for a terminal.
std::string picture(const Path& path, bool color);

}  // namespace userpod::ctl
