// CreateContainer: seccomp, AppArmor and SELinux.
#include <fstream>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

using Profile = v1::SecurityProfile;

Edit seccomp(Profile::ProfileType type, const std::string& reference = "") {
  return [=](Config& c) {
    securityOf(c)->mutable_seccomp()->set_profile_type(type);
    securityOf(c)->mutable_seccomp()->set_localhost_ref(reference);
  };
}
Edit apparmor(Profile::ProfileType type, const std::string& reference = "") {
  return [=](Config& c) {
    securityOf(c)->mutable_apparmor()->set_profile_type(type);
    securityOf(c)->mutable_apparmor()->set_localhost_ref(reference);
  };
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
Edit oldSeccomp(const std::string& text) {
  return [=](Config& c) { securityOf(c)->set_seccomp_profile_path(text); };
}
Edit oldAppArmor(const std::string& text) {
  return [=](Config& c) { securityOf(c)->set_apparmor_profile(text); };
}
#pragma GCC diagnostic pop

// A profile that lets everything through but mkdir.
std::string noMkdir() {
  auto path = scratchDirectory() + "/no-mkdir.json";
  writeFile(path, R"({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
      "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42}]})");
  return path;
}

constexpr const char* kMode = "grep ^Seccomp: /proc/self/status | tr -d '\\t'";
// 42: ENOMSG.
constexpr const char* kMkdir = "mkdir /tmp/new && echo made";

template <typename... Edits>
Ended runScript(const Pod& pod, const std::string& script, Edits&&... edits) {
  return runToEnd(pod, shell(script), std::forward<Edits>(edits)...);
}

// What an LSM says of the first process, without its NUL.
std::string labelOf(const Container& container, const std::string& file) {
  std::ifstream attribute("/proc/" + std::to_string(container.pid()) + "/attr/" + file);
  std::string text;
  std::getline(attribute, text);
  return text.substr(0, text.find('\0'));
}

}  // namespace

TEST(CreateContainer, NoSeccompMeansUnconfined) {
  PROMISE("1.3 seccomp none");
  Pod pod;
  EXPECT_EQ(runScript(pod, kMode).out, "Seccomp:0\n");
}

TEST(CreateContainer, SeccompUnconfined) {
  PROMISE("1.3 seccomp Unconfined");
  Pod pod;
  EXPECT_EQ(runScript(pod, kMode, seccomp(Profile::Unconfined)).out, "Seccomp:0\n");
}

// What every default profile refuses: a new user namespace without CAP_SYS_ADMIN.
TEST(CreateContainer, SeccompRuntimeDefaultRefusesWhatItShould) {
  PROMISE("1.3 seccomp RuntimeDefault");
  Pod pod;
  auto script = std::string(kMode) + "; unshare -U true && echo unshared";
  EXPECT_EQ(runScript(pod, script, seccomp(Profile::RuntimeDefault)).out, "Seccomp:2\n");
  EXPECT_EQ(runScript(pod, script, seccomp(Profile::Unconfined)).out, "Seccomp:0\nunshared\n");
}

TEST(CreateContainer, SeccompRuntimeDefaultFollowsTheCapabilities) {
  PROMISE("1.3 seccomp RuntimeDefault");
  Pod pod;
  auto script = std::string(kMode) + "; unshare -m true && echo unshared";
  auto admin = [](Config& c) { securityOf(c)->mutable_capabilities()->add_add_capabilities("SYS_ADMIN"); };
  EXPECT_EQ(runScript(pod, script, seccomp(Profile::RuntimeDefault), admin).out, "Seccomp:2\nunshared\n");
}

TEST(CreateContainer, SeccompLocalhostIsAFileOfTheHost) {
  PROMISE("1.3 seccomp Localhost");
  Pod pod;
  auto profile = noMkdir();
  auto ended = runScript(pod, std::string(kMode) + "; " + kMkdir, seccomp(Profile::Localhost, profile));
  EXPECT_EQ(ended.out, "Seccomp:2\n");
  EXPECT_NE(ended.err.find("No message of desired type"), std::string::npos) << ended.err;
  EXPECT_EQ(runScript(pod, kMkdir).out, "made\n");
}

TEST(CreateContainer, SeccompProfileThatIsMissingIsRefusedByName) {
  PROMISE("1.3 seccomp Localhost missing");
  Pod pod;
  auto missing = scratchDirectory() + "/missing.json";
  expectRefused(pod, {}, "missing\\.json", seccomp(Profile::Localhost, missing));
}

TEST(CreateContainer, SeccompProfileThatIsNoProfileIsRefused) {
  PROMISE("1.3 seccomp Localhost missing");
  Pod pod;
  auto path = scratchDirectory() + "/wrong.json";
  writeFile(path, R"({"defaultAction": "SCMP_ACT_WHATEVER"})");
  expectRefused(pod, {}, "", seccomp(Profile::Localhost, path));
  writeFile(path, "no json");
  expectRefused(pod, {}, "", seccomp(Profile::Localhost, path));
}

TEST(CreateContainer, SeccompLocalhostNeedsAReference) {
  PROMISE("1.3 seccomp Localhost missing");
  Pod pod;
  expectRefused(pod, {}, "", seccomp(Profile::Localhost));
}

TEST(CreateContainer, SeccompInTheOldSpelling) {
  PROMISE("1.3 seccomp old");
  Pod pod;
  EXPECT_EQ(runScript(pod, kMode, oldSeccomp("runtime/default")).out, "Seccomp:2\n");
  EXPECT_EQ(runScript(pod, kMode, oldSeccomp("unconfined")).out, "Seccomp:0\n");
  EXPECT_EQ(runScript(pod, kMkdir, oldSeccomp("localhost/" + noMkdir())).out, "");
}

TEST(CreateContainer, SeccompMessageWinsOverTheOldSpelling) {
  PROMISE("1.3 seccomp old");
  Pod pod;
  EXPECT_EQ(runScript(pod, kMode, seccomp(Profile::Unconfined), oldSeccomp("runtime/default")).out, "Seccomp:0\n");
  EXPECT_EQ(runScript(pod, kMode, seccomp(Profile::RuntimeDefault), oldSeccomp("unconfined")).out, "Seccomp:2\n");
}

// ---- AppArmor and SELinux: in force, or refused by name; never taken and forgotten.

TEST(CreateContainer, AppArmorUnconfinedIsTaken) {
  PROMISE("1.3 apparmor");
  Pod pod;
  EXPECT_EQ(runScript(pod, "echo ran", apparmor(Profile::Unconfined)).out, "ran\n");
  EXPECT_EQ(runScript(pod, "echo ran", oldAppArmor("unconfined")).out, "ran\n");
  EXPECT_EQ(runScript(pod, "echo ran", oldAppArmor("")).out, "ran\n");
}

TEST(CreateContainer, AppArmorProfileThatIsNotLoadedIsRefusedByName) {
  PROMISE("1.3 apparmor");
  Pod pod;
  expectRefused(pod, {}, "no-such-profile", apparmor(Profile::Localhost, "no-such-profile"));
  expectRefused(pod, {}, "no-such-profile", oldAppArmor("localhost/no-such-profile"));
}

TEST(CreateContainer, SelinuxLabelIsInForceOrRefusedByName) {
  PROMISE("1.3 selinux_options");
  Pod pod;
  auto config = containerConfig(pod, [](Config& c) {
    securityOf(c)->mutable_selinux_options()->set_type("container_t");
    securityOf(c)->mutable_selinux_options()->set_level("s0:c1,c2");
  });
  auto answer = attempt(createRequest(pod, config));
  if (!answer.status.ok()) {
    EXPECT_NE(answer.status.error_message().find("selinux"), std::string::npos) << answer.status.error_message();
    return;
  }
  removeContainer(answer.value.container_id());
  Container container(pod, config, Start::Yes);
  EXPECT_NE(labelOf(container, "current").find("container_t:s0:c1,c2"), std::string::npos);
}

TEST(CreateContainer, EmptySelinuxOptionsAreNoRequest) {
  PROMISE("1.3 selinux_options");
  Pod pod;
  EXPECT_EQ(runScript(pod, "echo ran", [](Config& c) { securityOf(c)->mutable_selinux_options(); }).out, "ran\n");
}

}  // namespace userpod::conformance
