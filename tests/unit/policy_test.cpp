#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "daemon/sys/fd.hpp"
#include "policy/capabilities.hpp"
#include "policy/lsm.hpp"
#include "policy/seccomp.hpp"
#include "policy/settings.hpp"

namespace userpod::policy {
namespace {

TEST(Capabilities, NamesAndNumbers) {
  EXPECT_EQ(capabilityNumber("CAP_CHOWN"), 0);
  EXPECT_EQ(capabilityNumber("sys_admin"), 21);
  EXPECT_EQ(capabilityNumber("Cap_Checkpoint_Restore"), 40);
  EXPECT_FALSE(capabilityNumber("CAP_NOTHING"));
  EXPECT_FALSE(capabilityNumber(""));
  EXPECT_EQ(defaultCapabilities().names(),
            (std::vector<std::string>{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
                                      "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"}));
  EXPECT_TRUE(allCapabilities().has("SYS_ADMIN"));
}

class SettingsFile : public testing::Test {
 protected:
  SettingsFile() { EXPECT_NE(::mkdtemp(directory_.data()), nullptr); }
  ~SettingsFile() override { std::filesystem::remove_all(directory_); }
  Result<Settings> load(const std::string& text) {
    std::ofstream(directory_ + "/userpod.toml") << text;
    Paths paths;
    paths.config = directory_;
    return loadSettings(paths);
  }
  std::string directory_ = "/var/tmp/userpod-settings-XXXXXX";
};

TEST_F(SettingsFile, Directories) {
  EXPECT_EQ(load("")->cdiSpecDirs, (std::vector<std::string>{"/etc/cdi", "/var/run/cdi", directory_ + "/cdi"}));
  EXPECT_TRUE(load("")->hooksDirs.empty());
  auto settings = load("cdi-spec-dirs = [\"/a\"]\nhooks-dir = [\"/b\", \"/c\"]");
  ASSERT_TRUE(settings) << settings.error().text();
  EXPECT_EQ(settings->cdiSpecDirs, std::vector<std::string>{"/a"});
  EXPECT_EQ(settings->hooksDirs, (std::vector<std::string>{"/b", "/c"}));
  auto refused = load("hooks-dir = [\"hooks\"]");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text().find("hooks-dir: "), std::string::npos) << refused.error().text();
  EXPECT_NE(refused.error().text().find("\"hooks\" is not an absolute path"), std::string::npos);
}

TEST_F(SettingsFile, FileLimit) {
  EXPECT_EQ(load("")->nofile.soft, 1048576U);
  EXPECT_FALSE(load("")->nofileSet);
  auto settings = load("nofile = \"1024:524288\"");
  ASSERT_TRUE(settings) << settings.error().text();
  EXPECT_EQ(settings->nofile.soft, 1024U);
  EXPECT_EQ(settings->nofile.hard, 524288U);
  EXPECT_TRUE(settings->nofileSet);
  for (const char* bad : {"1024", "\"1024\"", "\"2:1\"", "\"0:5\"", "\"a:5\"", "\"1:5x\"", "\"-1:5\"", "\":\""}) {
    auto refused = load(std::string("nofile = ") + bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().text().find("SOFT:HARD"), std::string::npos) << refused.error().text();
  }
}

TEST_F(SettingsFile, Flag) {
  EXPECT_FALSE(load("")->allowRuntimeDirectoryMounts);
  EXPECT_TRUE(load("allow-runtime-directory-mounts = true")->allowRuntimeDirectoryMounts);
  EXPECT_FALSE(load("allow-runtime-directory-mounts = \"yes\""));
}

TEST(SecurityModules, RelabelTreatsLinksAsSuch) {
  std::string top = "/var/tmp/userpod-lsm-XXXXXX";
  ASSERT_NE(::mkdtemp(top.data()), nullptr);
  std::filesystem::create_directories(top + "/tree/sub");
  std::ofstream(top + "/tree/sub/file") << "x";
  std::ofstream(top + "/outside") << "x";
  std::filesystem::create_symlink(top + "/outside", top + "/tree/link");
  const std::string label = "system_u:object_r:container_file_t:s0";
  auto labelled = hostSecurityModules().relabel(top + "/tree", label);
  auto labelOf = [](const std::string& path) {
    std::array<char, 256> value{};
    ssize_t size = ::lgetxattr(path.c_str(), "security.selinux", value.data(), value.size());
    return std::string(value.data(), size > 0 ? static_cast<std::size_t>(size) - 1 : 0);
  };
  if (labelled) {
    EXPECT_EQ(labelOf(top + "/tree/sub/file"), label);
    EXPECT_TRUE(hostSecurityModules().relabel(top + "/tree", label)) << "again";
  } else {  // an ordinary user, without SELinux
    EXPECT_EQ(labelled.error().code(), Code::AccessDenied);
    EXPECT_NE(labelled.error().text().find(top + "/tree"), std::string::npos);
  }
  EXPECT_NE(labelOf(top + "/outside"), label);
  EXPECT_FALSE(hostSecurityModules().relabel(top + "/none", label));
  std::filesystem::remove_all(top);
}

TEST(SecurityModules, AppArmorOfThisHost) {
  auto tried = hostSecurityModules().tryAppArmor("userpod-no-such-profile");
  ASSERT_FALSE(tried);
  if (hostSecurityModules().hasAppArmor()) {
    EXPECT_NE(tried.error().text().find("is not loaded"), std::string::npos) << tried.error().text();
  }
}

TEST(Capabilities, Requests) {
  auto apply = [](std::vector<std::string> add, std::vector<std::string> drop, std::vector<std::string> ambient = {}) {
    return applyCapabilities(defaultCapabilities(), add, drop, ambient);
  };
  EXPECT_EQ(apply({}, {})->bounding, defaultCapabilities());
  EXPECT_TRUE(apply({"NET_ADMIN"}, {})->bounding.has("NET_ADMIN"));
  EXPECT_FALSE(apply({}, {"CAP_KILL"})->bounding.has("KILL"));
  EXPECT_EQ(apply({"ALL"}, {})->bounding, allCapabilities());
  EXPECT_TRUE(apply({}, {"all"})->bounding.empty());
  EXPECT_EQ(apply({"NET_RAW"}, {"ALL"})->bounding.names(), std::vector<std::string>{"CAP_NET_RAW"});
  EXPECT_FALSE(apply({"ALL"}, {"SYS_ADMIN"})->bounding.has("SYS_ADMIN"));
  auto ambient = apply({}, {"ALL"}, {"NET_BIND_SERVICE"});
  EXPECT_EQ(ambient->ambient.names(), std::vector<std::string>{"CAP_NET_BIND_SERVICE"});
  EXPECT_EQ(ambient->bounding, ambient->ambient);
  auto wrong = apply({"FLY"}, {});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), Code::InvalidArgument);
  EXPECT_NE(wrong.error().text().find("FLY"), std::string::npos);
}

TEST(Seccomp, NamesAreKnownToLibseccompOrNewer) {
  // Added to the kernel after libseccomp 2.5.4.
  const std::set<std::string> newer = {"cachestat",        "fchmodat2",  "futex_requeue",  "futex_wait",
                                       "futex_wake",       "getxattrat", "listmount",      "listxattrat",
                                       "map_shadow_stack", "mseal",      "removexattrat",  "setxattrat",
                                       "statmount",        "uretprobe",  "open_tree_attr", "vm86old"};
  for (const auto& name : seccompNames())
    EXPECT_TRUE(::seccomp_syscall_resolve_name(name.c_str()) != __NR_SCMP_ERROR || newer.count(name) > 0) << name;
}

// The errno of a call in a child under the profile: 0 when it succeeds.
int under(Capabilities capabilities, const std::function<int()>& call) {
  auto program = compileSeccomp(defaultSeccomp(capabilities));
  EXPECT_TRUE(program) << program.error().text();
  pid_t child = ::fork();
  if (child == 0) {
    sock_fprog filter{static_cast<unsigned short>(program->size() / sizeof(sock_filter)),
                      reinterpret_cast<sock_filter*>(program->data())};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
      ::_exit(250);
    errno = 0;
    ::_exit(call() < 0 ? errno : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int makeChild(unsigned long flags) {
  long pid = ::syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (pid == 0) ::_exit(0);
  if (pid > 0) ::waitpid(static_cast<pid_t>(pid), nullptr, 0);
  return pid < 0 ? -1 : 0;
}

TEST(Seccomp, DefaultRefuses) {
  auto caps = defaultCapabilities();
  EXPECT_EQ(under(caps, [] { return ::mount("none", "/mnt", "tmpfs", 0, nullptr); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(SYS_kexec_load, 0, 0, nullptr, 0)); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(SYS_keyctl, 0, -3, 0)); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(SYS_bpf, 0, nullptr, 0)); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(SYS_io_uring_setup, 1, nullptr)); }), EPERM);
  EXPECT_EQ(under(caps, [] { return ::unshare(CLONE_NEWUSER); }), EPERM);
  for (unsigned long flag :
       {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP})
    EXPECT_EQ(under(caps, [flag] { return makeChild(flag); }), EPERM) << std::hex << flag;
  EXPECT_EQ(under(caps, [] { return makeChild(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID); }), EPERM);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(SYS_clone3, nullptr, 0)); }), ENOSYS);
  EXPECT_EQ(under(caps, [] { return static_cast<int>(::syscall(5000)); }), ENOSYS) << "a call of the future";
  EXPECT_EQ(under(caps, [] { return ::socket(AF_NETLINK, SOCK_RAW, 9); }), EINVAL);
}

TEST(Seccomp, DefaultLetsProgramsWork) {
  auto caps = defaultCapabilities();
  EXPECT_EQ(under(caps, [] { return makeChild(0); }), 0);
  EXPECT_EQ(under(caps, [] { return std::system("true"); }), 0);
  EXPECT_EQ(under(caps, [] { return ::socket(AF_NETLINK, SOCK_RAW, 0); }), 0);
  EXPECT_EQ(under(caps, [] { return ::socket(AF_INET, SOCK_STREAM, 0); }), 0);
  EXPECT_EQ(under(caps, [] { return ::open("/dev/null", O_RDWR); }), 0);
}

TEST(Seccomp, CapabilitiesOpenTheirCalls) {
  auto with = [](const char* name) {
    auto caps = defaultCapabilities();
    caps.add(Capabilities(std::uint64_t{1} << *capabilityNumber(name)));
    return caps;
  };
  EXPECT_EQ(under(with("SYS_PTRACE"), [] { return static_cast<int>(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)); }),
            0);
  EXPECT_EQ(under(with("SYS_ADMIN"), [] { return static_cast<int>(::syscall(SYS_clone3, nullptr, 0)); }), EINVAL);
  EXPECT_EQ(under(allCapabilities(), [] { return makeChild(0); }), 0);
}

TEST(Seccomp, ProfilesOfTheUser) {
  char directory[] = "/tmp/policy-test-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  std::string path = std::string(directory) + "/profile.json";
  auto load = [&](const char* text) {
    std::ofstream(path) << text;
    return loadSeccomp(path, defaultCapabilities());
  };
  auto profile = load(R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
      {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":95},
      {"names":["chmod"],"action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_SYS_ADMIN"]}},
      {"names":["chown"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}}]})");
  ASSERT_TRUE(profile) << profile.error().text();
  ASSERT_EQ((*profile)["syscalls"].size(), 2U);
  EXPECT_EQ((*profile)["syscalls"][1]["names"][0], "chown");
  EXPECT_TRUE(compileSeccomp(*profile));
  for (const char* bad : {"", "[]", "{}", R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]})",
                          R"({"defaultAction":7})", R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}})"}) {
    auto wrong = load(bad);
    ASSERT_FALSE(wrong) << bad;
    EXPECT_EQ(wrong.error().code(), Code::InvalidArgument);
  }
  auto odd = load(R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":7}]})");
  ASSERT_TRUE(odd);
  EXPECT_FALSE(compileSeccomp(*odd));
  EXPECT_FALSE(loadSeccomp("/no/such/profile", defaultCapabilities()));
  (void)removeTree(directory);
}

}  // namespace
}  // namespace userpod::policy
