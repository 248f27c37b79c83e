// Who the process is: names and numbers of the request and of the image, against the image's passwd and group.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "daemon/oci/spec.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kAccountsLimit = 8 << 20;
constexpr std::uint32_t kNoId = 0xFFFFFFFF;  // -1: "no change" for the kernel

std::optional<std::uint32_t> parseId(std::string_view text) {
  std::uint32_t id = 0;
  auto end = text.data() + text.size();
  auto parsed = std::from_chars(text.data(), end, id);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != end || id == kNoId) return std::nullopt;
  return id;
}

struct User {
  std::string name;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string home;
};
struct Group {
  std::string name;
  std::uint32_t gid = 0;
  std::vector<std::string> members;
};

// The image is not trusted: its links lead nowhere but into itself, and a device or a pipe is not read.
Result<std::vector<std::vector<std::string>>> readTable(int rootfs, const std::string& path, std::size_t fields) {
  std::vector<std::vector<std::string>> rows;
  auto file = openResolved(rootfs, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  // No such file, or a damaged link: an image without accounts, as one made from scratch is.
  if (!file &&
      (file.error().sysErrno() == ENOENT || file.error().sysErrno() == ENOTDIR || file.error().sysErrno() == ELOOP))
    return rows;
  if (!file) return std::move(file).error().wrap("accounts of the image");
  struct stat info{};
  if (::fstat(file->get(), &info) < 0 || !S_ISREG(info.st_mode)) return rows;
  auto text = readAll(file->get(), kAccountsLimit);
  if (!text) return std::move(text).error().wrap(fmt::format("/{} of the image", path)).as(Code::ImageInvalid);
  for (const auto& line : split(*text, '\n')) {
    auto row = split(trim(line), ':');
    if (row.size() >= fields && !row[0].empty() && row[0][0] != '#') rows.push_back(std::move(row));
  }
  return rows;
}

Result<std::vector<User>> readUsers(int rootfs) {
  USERPOD_TRY(rows, readTable(rootfs, "etc/passwd", 4));
  std::vector<User> users;
  for (auto& row : rows) {
    auto uid = parseId(row[2]);
    auto gid = parseId(row[3]);
    if (uid && gid) users.push_back({row[0], *uid, *gid, row.size() > 5 ? row[5] : ""});
  }
  return users;
}

Result<std::vector<Group>> readGroups(int rootfs) {
  USERPOD_TRY(rows, readTable(rootfs, "etc/group", 3));
  std::vector<Group> groups;
  for (auto& row : rows)
    if (auto gid = parseId(row[2]))
      groups.push_back({row[0], *gid, row.size() > 3 ? split(row[3], ',') : std::vector<std::string>()});
  return groups;
}

struct Wanted {
  std::string user;   // name or number
  std::string group;  // name or number, may be empty
  std::string source;
  bool nameOnly = false;
};

// The request by number, the request by name, then the image; the image's group counts only with the image's user.
Wanted chooseUser(const SpecInput& input) {
  const auto& security = input.container.config.security;
  Wanted wanted;
  if (security.runAsUser) {
    wanted = {std::to_string(*security.runAsUser), "", "run_as_user"};
  } else if (!security.runAsUsername.empty()) {
    wanted = {security.runAsUsername, "", "run_as_username", true};
  } else {
    auto colon = input.image.user.find(':');
    wanted = {input.image.user.substr(0, colon), colon == std::string::npos ? "" : input.image.user.substr(colon + 1),
              "user of image " + input.container.imageName};
  }
  if (security.runAsGroup) wanted.group = std::to_string(*security.runAsGroup);
  return wanted;
}

Result<std::uint32_t> findGroup(const Wanted& wanted, const std::vector<Group>& groups) {
  auto known =
      std::find_if(groups.begin(), groups.end(), [&](const Group& group) { return group.name == wanted.group; });
  if (known != groups.end()) return known->gid;
  if (auto id = parseId(wanted.group)) return *id;
  return Error(Code::InvalidArgument, fmt::format("{}: group {} is not in /etc/group of the image; give a number",
                                                  wanted.source, wanted.group.substr(0, 128)));
}

Status addGroups(const SpecInput& input, const User& user, const std::vector<Group>& groups, EffectiveUser& result) {
  const auto& security = input.container.config.security;
  auto add = [&](std::uint32_t gid) {
    if (gid != result.gid && std::find(result.groups.begin(), result.groups.end(), gid) == result.groups.end())
      result.groups.push_back(gid);
  };
  for (auto gid : security.supplementalGroups) {
    if (gid < 0 || gid >= static_cast<std::int64_t>(kNoId))
      return Error(Code::InvalidArgument, fmt::format("supplemental_groups has {}, which is no group number", gid));
    add(static_cast<std::uint32_t>(gid));
  }
  if (security.strictGroups || user.name.empty()) return {};
  for (const auto& group : groups)
    if (std::find(group.members.begin(), group.members.end(), user.name) != group.members.end()) add(group.gid);
  return {};
}

// A number above what the user's range maps would fail inside the runtime with "Invalid argument".
Status checkMapped(const char* file, const char* what, std::uint32_t id) {
  USERPOD_TRY(text, readFile(file, 64 << 10));
  std::uint64_t total = 0;
  for (const auto& line : split(text, '\n')) {
    unsigned long long inside = 0;
    unsigned long long outside = 0;
    unsigned long long count = 0;
    if (std::sscanf(line.c_str(), "%llu %llu %llu", &inside, &outside, &count) != 3) continue;
    if (id >= inside && id < inside + count) return {};
    total += count;
  }
  return Error(Code::SubIdMissing,
               fmt::format("{0} {1} is outside of the {2} ids of this user; give the user more in /etc/sub{3} (usermod "
                           "--add-sub{3}s) and restart userpod-node.service",
                           what, id, total, what[0] == 'u' ? "uid" : "gid"));
}

}  // namespace

Status checkGroupMapped(std::uint32_t gid) {
  return checkMapped("/proc/self/gid_map", "group", gid);
}

Result<ResolvedUser> resolveUser(const SpecInput& input) {
  USERPOD_TRY(rootfs, openRootfs(input));
  USERPOD_TRY(users, readUsers(rootfs.get()));
  USERPOD_TRY(groups, readGroups(rootfs.get()));
  Wanted wanted = chooseUser(input);
  User user;
  if (wanted.user.empty()) wanted.user = std::to_string(0);
  auto number = wanted.nameOnly ? std::nullopt : parseId(wanted.user);
  // A user whose name is a number is found by name first, as login does; a number of the request is only a number.
  auto known = std::find_if(users.begin(), users.end(), [&](const User& entry) {
    return entry.name == wanted.user && wanted.source != "run_as_user";
  });
  if (known == users.end() && number)
    known = std::find_if(users.begin(), users.end(), [&](const User& entry) { return entry.uid == *number; });
  if (known != users.end()) {
    user = *known;
  } else if (number) {
    user.uid = *number;
  } else {
    return Error(Code::InvalidArgument, fmt::format("{}: {} is not in /etc/passwd of the image; give a number",
                                                    wanted.source, wanted.user.substr(0, 128)));
  }
  ResolvedUser result;
  result.userKnown = known != users.end();
  result.user.uid = user.uid;
  result.user.gid = user.gid;
  if (!wanted.group.empty()) {
    USERPOD_TRY(gid, findGroup(wanted, groups));
    result.user.gid = gid;
  }
  result.groupKnown =
      std::any_of(groups.begin(), groups.end(), [&](const Group& group) { return group.gid == result.user.gid; });
  if (user.home.starts_with("/") && isUtf8(user.home)) result.home = user.home;
  USERPOD_CHECK(addGroups(input, user, groups, result.user));
  USERPOD_CHECK(checkMapped("/proc/self/uid_map", "user", result.user.uid));
  USERPOD_CHECK(checkGroupMapped(result.user.gid));
  for (auto gid : result.user.groups) USERPOD_CHECK(checkGroupMapped(gid));
  return result;
}

}  // namespace userpod::oci
