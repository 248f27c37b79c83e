// CreateContainer: which user and groups the process has.
#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

constexpr const char* kUserImage = "test/user:latest";  // app 1234:1235, in the group extra 1236

struct Ids {
  std::string uid, gid;
  std::multiset<std::string> groups;  // with gid
  v1::LinuxContainerUser told;
};

// Of the kernel, not of the image's files.
template <typename... Edits>
Ids idsOf(const Pod& pod, Edits&&... edits) {
  auto ended = runToEnd(pod, command({"/bin/cat", "/proc/self/status"}), std::forward<Edits>(edits)...);
  auto first = [](const std::string& ids) { return ids.substr(0, ids.find('\t')); };
  Ids ids{first(statusField(ended.out, "Uid")), first(statusField(ended.out, "Gid")),
          wordsOf(statusField(ended.out, "Groups")), ended.status.user().linux()};
  ids.groups.erase(ids.gid);
  return ids;
}

Edit supplemental(const std::vector<std::int64_t>& groups, v1::SupplementalGroupsPolicy policy = v1::Merge) {
  return [=](Config& c) {
    securityOf(c)->mutable_supplemental_groups()->Assign(groups.begin(), groups.end());
    securityOf(c)->set_supplemental_groups_policy(policy);
  };
}
Edit userName(const std::string& name) {
  return [name](Config& c) { securityOf(c)->set_run_as_username(name); };
}

using Groups = std::multiset<std::string>;

}  // namespace

TEST(CreateContainer, ImageWithoutUserRunsAsRoot) {
  PROMISE("1.3 image user");
  Pod pod;
  auto ids = idsOf(pod);
  EXPECT_EQ(ids.uid, "0");
  EXPECT_EQ(ids.gid, "0");
}

TEST(CreateContainer, UserOfTheImageByName) {
  PROMISE("1.3 image user");
  Pod pod;
  auto ids = idsOf(pod, ofImage(kUserImage));
  EXPECT_EQ(ids.uid, "1234");
  EXPECT_EQ(ids.gid, "1235");
  EXPECT_EQ(ids.groups, Groups{"1236"});
}

TEST(CreateContainer, UserOfTheImageByNumber) {
  PROMISE("1.3 image user");
  Pod pod;
  auto ids = idsOf(pod, ofImage("test/user-numeric:latest"));
  EXPECT_EQ(ids.uid, "1234");
  EXPECT_EQ(ids.gid, "1235");
}

TEST(CreateContainer, UserOfTheImageThatIsMissingIsRefusedByName) {
  PROMISE("1.3 image user");
  Pod pod;
  expectRefused(pod, {}, "nosuchuser", ofImage("test/user-missing:latest"));
}

TEST(CreateContainer, RunAsUserWinsOverTheImage) {
  PROMISE("1.3 run_as_user");
  Pod pod;
  auto ids = idsOf(pod, ofImage(kUserImage), user(0));
  EXPECT_EQ(ids.uid, "0");
  EXPECT_EQ(ids.gid, "0");
  EXPECT_EQ(ids.groups, Groups{});
}

TEST(CreateContainer, RunAsUserHasTheGroupOfPasswd) {
  PROMISE("1.3 run_as_user");
  Pod pod;
  auto ids = idsOf(pod, ofImage("test/user-numeric:latest"), user(1234));
  EXPECT_EQ(ids.uid, "1234");
  EXPECT_EQ(ids.gid, "1235");
}

TEST(CreateContainer, RunAsUserThatPasswdDoesNotHaveRunsWithGroupRoot) {
  PROMISE("1.3 run_as_user");
  Pod pod;
  auto ids = idsOf(pod, user(4321));
  EXPECT_EQ(ids.uid, "4321");
  EXPECT_EQ(ids.gid, "0");
}

TEST(CreateContainer, RunAsUserThatCannotBeIsRefusedNotReplaced) {
  PROMISE("1.3 run_as_user");
  Pod pod;
  auto config = containerConfig(pod, user(4'000'000'000), command({"/bin/cat", "/proc/self/status"}));
  auto answer = attempt(createRequest(pod, config));
  if (!answer.status.ok()) {
    EXPECT_NE(answer.status.error_message().find("4000000000"), std::string::npos) << answer.status.error_message();
    return;
  }
  removeContainer(answer.value.container_id());
  EXPECT_EQ(statusField(runToEnd(pod, config).out, "Uid").rfind("4000000000", 0), 0U);
}

TEST(CreateContainer, NegativeRunAsUserIsRefused) {
  PROMISE("1.3 run_as_user");
  Pod pod;
  expectRefused(pod, {}, "user|uid", user(-1));
}

TEST(CreateContainer, RunAsUsernameIsFoundInTheImage) {
  PROMISE("1.3 run_as_username");
  Pod pod;
  auto ids = idsOf(pod, ofImage("test/user-numeric:latest"), userName("app"));
  EXPECT_EQ(ids.uid, "1234");
  EXPECT_EQ(ids.gid, "1235");
  EXPECT_EQ(ids.groups, Groups{"1236"});
}

TEST(CreateContainer, RunAsUsernameThatIsMissingIsRefused) {
  PROMISE("1.3 run_as_username");
  Pod pod;
  expectRefused(pod, {}, "nobody-here", userName("nobody-here"));
}

TEST(CreateContainer, RunAsGroupReplacesTheGroupOfTheUser) {
  PROMISE("1.3 run_as_group");
  Pod pod;
  auto ids = idsOf(pod, ofImage(kUserImage), user(1234), group(77));
  EXPECT_EQ(ids.uid, "1234");
  EXPECT_EQ(ids.gid, "77");
  EXPECT_EQ(idsOf(pod, ofImage(kUserImage), userName("app"), group(78)).gid, "78");
}

TEST(CreateContainer, RunAsGroupWithoutUserIsRefused) {
  PROMISE("1.3 run_as_group");
  Pod pod;
  expectRefused(pod, {}, "group", group(77));
}

TEST(CreateContainer, SupplementalGroupsMergeWithThoseOfTheImage) {
  PROMISE("1.3 supplemental_groups merge");
  Pod pod;
  EXPECT_EQ(idsOf(pod, ofImage(kUserImage), supplemental({3000, 3001})).groups, (Groups{"1236", "3000", "3001"}));
  EXPECT_EQ(idsOf(pod, ofImage(kUserImage), user(1234), supplemental({3000})).groups, (Groups{"1236", "3000"}));
}

TEST(CreateContainer, SupplementalGroupsStrictAreThoseAlone) {
  PROMISE("1.3 supplemental_groups strict");
  Pod pod;
  EXPECT_EQ(idsOf(pod, ofImage(kUserImage), supplemental({3000, 3001}, v1::Strict)).groups, (Groups{"3000", "3001"}));
  EXPECT_EQ(idsOf(pod, ofImage(kUserImage), supplemental({}, v1::Strict)).groups, Groups{});
}

TEST(CreateContainer, UnknownSupplementalGroupsPolicyIsRefused) {
  PROMISE("1.3 supplemental_groups strict");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "supplemental_groups_policy",
                supplemental({}, static_cast<v1::SupplementalGroupsPolicy>(7)));
}

TEST(ContainerStatus, TellsTheUserTheProcessHas) {
  PROMISE("1.1.14 user");
  Pod pod;
  auto ids = idsOf(pod, ofImage(kUserImage), user(1234), group(77), supplemental({3000}));
  EXPECT_EQ(std::to_string(ids.told.uid()), ids.uid);
  EXPECT_EQ(std::to_string(ids.told.gid()), ids.gid);
  std::set<std::string> told;
  for (auto gid : ids.told.supplemental_groups()) told.insert(std::to_string(gid));
  told.erase(ids.gid);
  EXPECT_EQ(told, (std::set<std::string>{"1236", "3000"}));
}

TEST(CreateContainer, UserWithoutPasswdLineGetsOne) {
  PROMISE("1.3 passwd");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, user(4321), group(8765),
                     shell("id -u; grep -c ':x:4321:8765:' /etc/passwd; "
                           "grep -c '^root:' /etc/passwd"))
                .out,
            "4321\n1\n1\n");
}

TEST(CreateContainer, ImageWithTheUserKeepsItsPasswd) {
  PROMISE("1.3 passwd");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage(kUserImage), shell("cat /etc/passwd; grep -c /etc/passwd /proc/mounts")).out,
            "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n0\n");
}

}  // namespace userpod::conformance
