#include "daemon/network/ports/takers.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "daemon/network/ports/endpoint.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {
namespace {

constexpr std::size_t kTableLimit = 16 << 20;

struct Socket {
  std::string inode;
  std::string uid;
};

// Field by field: "sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...".
std::vector<std::string> fieldsOf(const std::string& line) {
  std::vector<std::string> fields;
  for (auto& part : split(line, ' '))
    if (!part.empty()) fields.push_back(std::move(part));
  return fields;
}

Socket findSocket(const ports::Taken& taken) {
  const char* process = taken.side == ports::Side::Node ? "/proc/1/net/" : "/proc/self/net/";
  for (const char* suffix : {"", "6"}) {
    auto table = readFile(fmt::format("{}{}{}", process, taken.udp ? "udp" : "tcp", suffix), kTableLimit);
    if (!table) continue;
    for (const auto& line : split(*table, '\n')) {
      auto fields = fieldsOf(line);
      if (fields.size() < 10 || !fields[1].ends_with(fmt::format(":{:04X}", taken.port))) continue;
      constexpr const char *kListening = "0A", *kUnconnected = "07";
      if (fields[3] == (taken.udp ? kUnconnected : kListening)) return {fields[9], fields[7]};
    }
  }
  return {};
}

// The process that has the socket open; empty when the node has none such.
std::string processWith(const std::string& inode) {
  const std::string wanted = "socket:[" + inode + "]";
  std::array<char, 64> target{};
  for (const auto& pid : namesIn("/proc")) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string directory = "/proc/" + pid + "/fd/";
    for (const auto& fd : namesIn(directory)) {
      ssize_t size = ::readlink((directory + fd).c_str(), target.data(), target.size());
      if (size > 0 && std::string_view(target.data(), static_cast<std::size_t>(size)) == wanted) return pid;
    }
  }
  return {};
}

// Of its cgroup, as userpod names them: the last part of 64 hexadecimal digits but the container's own.
std::string podOf(const std::string& pid) {
  auto text = readFile("/proc/" + pid + "/cgroup");
  if (!text) return {};
  for (const auto& part : split(trim(*text), '/'))
    if (part.size() == 64 && isHex(part)) return part;
  return {};
}

}  // namespace

std::string takerOf(const ports::Taken& taken) {
  auto socket = findSocket(taken);
  if (socket.inode.empty()) return "";
  if (auto pid = processWith(socket.inode); !pid.empty()) {
    auto name = readFile("/proc/" + pid + "/comm", 64);
    auto pod = podOf(pid);
    return fmt::format(" by process {} ({}){}", pid, name ? excerpt(trim(*name)) : "?",
                       pod.empty() ? " of the node" : " of pod " + pod);
  }
  if (taken.side == ports::Side::Node) return " by a process of the node";
  if (socket.uid == "0") return " by a process of your own on the host (as you: ss -lptun)";
  return " by a process of another user or of the system on the host (as root: ss -lptun)";
}

}  // namespace userpod::network
