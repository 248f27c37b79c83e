#include "userns/idmap.hpp"

#include <fmt/core.h>
#include <pwd.h>
#include <shadow/subid.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

constexpr std::size_t kMaxLines = 340;             // UID_GID_MAP_MAX_EXTENTS
constexpr std::uint64_t kIdLimit = 0xffffffffULL;  // (uid_t)-1 is no id

// The parts of `range` that `taken` does not cover, in order.
std::vector<IdRange> uncovered(IdRange range, const std::vector<IdRange>& taken) {
  std::vector<IdRange> parts = {range};
  for (const auto& hole : taken) {
    std::vector<IdRange> next;
    for (const auto& part : parts) {
      std::uint64_t end = part.start + part.count;
      std::uint64_t holeEnd = hole.start + hole.count;
      if (holeEnd <= part.start || hole.start >= end) {
        next.push_back(part);
        continue;
      }
      if (hole.start > part.start) next.push_back({part.start, hole.start - part.start});
      if (holeEnd < end) next.push_back({holeEnd, end - holeEnd});
    }
    parts = std::move(next);
  }
  return parts;
}

std::string ownName() {
  const passwd* entry = ::getpwuid(::getuid());
  return entry != nullptr ? std::string(entry->pw_name) : std::to_string(::getuid());
}

using RangeFunction = int (*)(const char*, subid_range**);

std::vector<IdRange> subordinateRanges(RangeFunction find, const std::string& owner) {
  subid_range* list = nullptr;
  int count = find(owner.c_str(), &list);
  std::unique_ptr<subid_range, decltype(&std::free)> holder(list, &std::free);
  std::vector<IdRange> ranges;
  for (int i = 0; i < count; ++i) ranges.push_back({list[i].start, list[i].count});
  return ranges;
}

Error missingRange(const std::string& owner, const char* file, const char* option) {
  return {Code::SubIdMissing,
          fmt::format("user {} has no subordinate ids in {}; add some as root: usermod {} 100000-165535 {} "
                      "(a range that no other line of the file has), then start the node again",
                      owner, file, option, owner)};
}

Status runMapper(const std::string& program, pid_t pid, const std::vector<IdMapping>& map) {
  USERPOD_TRY(path, findProgram(program));
  SpawnOptions options;
  options.argv = {path, std::to_string(pid)};
  for (const auto& line : map) {
    options.argv.push_back(std::to_string(line.inside));
    options.argv.push_back(std::to_string(line.outside));
    options.argv.push_back(std::to_string(line.count));
  }
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
  USERPOD_TRY(output, run(options, std::chrono::seconds(10)));
  if (output.status.code == 0) return {};
  std::string text = fmt::format("{} failed: {}", path, trim(output.err));
  if (output.err.find("not permitted") != std::string::npos)
    text += fmt::format(
        "; it must be able to gain privilege: setuid root or with file capabilities (apt install --reinstall "
        "uidmap), on a file system without nosuid, in a unit without NoNewPrivileges");
  return Error(Code::UserNamespaceUnavailable, text);
}

bool fileSays(const char* path, std::string_view value) {
  auto text = readFile(path, 64);
  return text && trim(*text) == value;
}

}  // namespace

std::vector<IdMapping> composeIdMap(std::uint64_t ownId, const std::vector<IdRange>& ranges) {
  std::vector<IdMapping> map = {{0, ownId, 1}};
  std::vector<IdRange> taken = {{ownId, 1}};
  std::uint64_t inside = 1;
  for (IdRange range : ranges) {
    if (range.start >= kIdLimit) continue;
    range.count = std::min(range.count, kIdLimit - range.start);
    for (const auto& part : uncovered(range, taken)) {
      std::uint64_t count = std::min(part.count, kIdLimit - inside);
      if (count == 0 || map.size() == kMaxLines) return map;
      map.push_back({inside, part.start, count});
      inside += count;
      taken.push_back({part.start, count});
    }
  }
  return map;
}

Result<IdMaps> ownIdMaps() {
  static const bool ready = subid_init("userpod", stderr);
  if (!ready) return Error(Code::SubIdMissing, "libsubid does not start");
  std::string owner = ownName();
  auto users = subordinateRanges(subid_get_uid_ranges, owner);
  if (users.empty()) return missingRange(owner, "/etc/subuid", "--add-subuids");
  auto groups = subordinateRanges(subid_get_gid_ranges, owner);
  if (groups.empty()) return missingRange(owner, "/etc/subgid", "--add-subgids");
  return IdMaps{composeIdMap(::getuid(), users), composeIdMap(::getgid(), groups)};
}

Status writeIdMaps(pid_t pid, const IdMaps& maps) {
  USERPOD_CHECK(runMapper("newuidmap", pid, maps.users));
  return runMapper("newgidmap", pid, maps.groups);
}

Error userNamespaceError(int sysErrno) {
  std::string why;
  if (fileSays("/proc/sys/kernel/unprivileged_userns_clone", "0"))
    why = "the kernel forbids user namespaces to users; as root: sysctl -w kernel.unprivileged_userns_clone=1";
  else if (fileSays("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"))
    why =
        "AppArmor restricts user namespaces; install userpod's profile as root: "
        "cp " USERPOD_DATADIR "/apparmor/extra-profiles/userpod /etc/apparmor.d/ && systemctl reload apparmor";
  else if (fileSays("/proc/sys/user/max_user_namespaces", "0") || sysErrno == ENOSPC)
    why = "user.max_user_namespaces is used up or 0; as root: sysctl -w user.max_user_namespaces=15000";
  else
    why = "a seccomp filter, SELinux policy or container around this session seems to forbid it";
  return {Code::UserNamespaceUnavailable,
          fmt::format("cannot make a user namespace ({}): {}", sysError("clone3", sysErrno).text(), why), sysErrno};
}

}  // namespace userpod
