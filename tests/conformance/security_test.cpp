// CreateContainer: the fields of LinuxContainerSecurityContext, but for users.
#include <algorithm>
#include <cstdint>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

using Names = std::vector<std::string>;

Edit capabilities(const Names& add, const Names& drop, const Names& ambient = {}) {
  return [=](Config& c) {
    auto* wanted = securityOf(c)->mutable_capabilities();
    wanted->mutable_add_capabilities()->Assign(add.begin(), add.end());
    wanted->mutable_drop_capabilities()->Assign(drop.begin(), drop.end());
    wanted->mutable_add_ambient_capabilities()->Assign(ambient.begin(), ambient.end());
  };
}

// /proc/self/status of the first process.
template <typename... Edits>
std::string statusIn(const Pod& pod, Edits&&... edits) {
  return runToEnd(pod, command({"/bin/cat", "/proc/self/status"}), std::forward<Edits>(edits)...).out;
}

std::uint64_t bits(const std::string& status, const std::string& set) {
  return std::stoull(statusField(status, set), nullptr, 16);
}

// Numbers of linux/capability.h.
constexpr std::uint64_t bit(int number) {
  return std::uint64_t{1} << number;
}
constexpr std::uint64_t kChown = bit(0), kNetBindService = bit(10), kNetAdmin = bit(12), kSysModule = bit(16),
                        kSysPtrace = bit(19), kSysAdmin = bit(21), kSysResource = bit(24);

std::uint64_t allOfTheKernel() {
  return (bit(std::stoi(readFile("/proc/sys/kernel/cap_last_cap"))) << 1) - 1;
}

Edit noNewPrivs(bool on) {
  return [on](Config& c) { securityOf(c)->set_no_new_privs(on); };
}
Edit masked(const Names& paths) {
  return [=](Config& c) { securityOf(c)->mutable_masked_paths()->Assign(paths.begin(), paths.end()); };
}
Edit readonlyPaths(const Names& paths) {
  return [=](Config& c) { securityOf(c)->mutable_readonly_paths()->Assign(paths.begin(), paths.end()); };
}
void readonlyRoot(Config& c) {
  securityOf(c)->set_readonly_rootfs(true);
}

}  // namespace

// ---- Capabilities

TEST(CreateContainer, DefaultCapabilitiesAreFew) {
  PROMISE("1.3 capabilities default");
  Pod pod;
  auto status = statusIn(pod);
  EXPECT_EQ(bits(status, "CapBnd") & (kChown | kNetBindService), kChown | kNetBindService);
  EXPECT_EQ(bits(status, "CapBnd") & (kSysAdmin | kSysModule | kSysPtrace | kNetAdmin | kSysResource), 0U);
  EXPECT_EQ(bits(status, "CapPrm"), bits(status, "CapBnd"));
  EXPECT_EQ(bits(status, "CapEff"), bits(status, "CapBnd"));
  EXPECT_EQ(bits(status, "CapAmb"), 0U);
}

TEST(CreateContainer, AddedCapabilitiesAreBoundingPermittedAndEffective) {
  PROMISE("1.3 capabilities add");
  Pod pod;
  auto before = bits(statusIn(pod), "CapBnd");
  auto status = statusIn(pod, capabilities({"SYS_PTRACE", "NET_ADMIN"}, {}));
  for (const auto* set : {"CapBnd", "CapPrm", "CapEff"})
    EXPECT_EQ(bits(status, set), before | kSysPtrace | kNetAdmin) << set;
  EXPECT_EQ(bits(status, "CapAmb"), 0U);
}

TEST(CreateContainer, DroppedCapabilitiesAreGone) {
  PROMISE("1.3 capabilities drop");
  Pod pod;
  auto before = bits(statusIn(pod), "CapBnd");
  auto status = statusIn(pod, capabilities({}, {"CHOWN"}));
  for (const auto* set : {"CapBnd", "CapPrm", "CapEff"}) EXPECT_EQ(bits(status, set), before & ~kChown) << set;
}

TEST(CreateContainer, DropAllLeavesNone) {
  PROMISE("1.3 capabilities ALL");
  Pod pod;
  auto status = statusIn(pod, capabilities({}, {"ALL"}));
  for (const auto* set : {"CapInh", "CapBnd", "CapPrm", "CapEff", "CapAmb"}) EXPECT_EQ(bits(status, set), 0U) << set;
}

TEST(CreateContainer, DropAllAndAddLeavesTheAdded) {
  PROMISE("1.3 capabilities ALL");
  Pod pod;
  auto status = statusIn(pod, capabilities({"NET_BIND_SERVICE"}, {"ALL"}));
  for (const auto* set : {"CapBnd", "CapPrm", "CapEff"}) EXPECT_EQ(bits(status, set), kNetBindService) << set;
}

// All that this process may give: root of a sandboxed machine may lack some.
TEST(CreateContainer, AddAllGivesEveryCapability) {
  PROMISE("1.3 capabilities ALL");
  Pod pod;
  auto own = bits(readFile("/proc/self/status"), "CapBnd") & allOfTheKernel();
  EXPECT_EQ(bits(statusIn(pod, capabilities({"ALL"}, {})), "CapBnd"), own);
  EXPECT_EQ(bits(statusIn(pod, capabilities({"ALL"}, {"SYS_ADMIN"})), "CapEff"), own & ~kSysAdmin);
}

TEST(CreateContainer, CapabilitiesMayBeWrittenWithPrefixAndSmall) {
  PROMISE("1.3 capabilities names");
  Pod pod;
  for (const auto* name : {"CAP_SYS_PTRACE", "sys_ptrace"})
    EXPECT_EQ(bits(statusIn(pod, capabilities({name}, {})), "CapEff") & kSysPtrace, kSysPtrace) << name;
}

TEST(CreateContainer, UnknownCapabilityIsRefusedByName) {
  PROMISE("1.3 capabilities names");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "SYS_NONSENSE", capabilities({"SYS_NONSENSE"}, {}));
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "SYS_NONSENSE", capabilities({}, {"SYS_NONSENSE"}));
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "SYS_NONSENSE", capabilities({}, {}, {"SYS_NONSENSE"}));
}

TEST(CreateContainer, AmbientCapabilitiesReachAnOrdinaryUser) {
  PROMISE("1.3 capabilities ambient");
  Pod pod;
  auto status = statusIn(pod, user(1234), capabilities({}, {}, {"NET_ADMIN"}));
  for (const auto* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) EXPECT_EQ(bits(status, set), kNetAdmin) << set;
  EXPECT_EQ(bits(status, "CapBnd") & kNetAdmin, kNetAdmin);
}

TEST(CreateContainer, OrdinaryUserHasNoEffectiveCapabilities) {
  PROMISE("1.3 capabilities user");
  Pod pod;
  auto status = statusIn(pod, user(1234), capabilities({"NET_ADMIN"}, {}));
  EXPECT_EQ(bits(status, "CapEff"), 0U);
  EXPECT_EQ(bits(status, "CapPrm"), 0U);
  EXPECT_EQ(bits(status, "CapBnd") & kNetAdmin, kNetAdmin);
}

// ---- Privileged

TEST(CreateContainer, PrivilegedHasAllCapabilitiesAndNoSeccomp) {
  PROMISE("1.3 privileged");
  Pod pod(privilegedPod);
  auto status = statusIn(pod, privileged, [](Config& c) {
    securityOf(c)->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  });
  auto own = bits(readFile("/proc/self/status"), "CapBnd") & allOfTheKernel();
  for (const auto* set : {"CapBnd", "CapPrm", "CapEff"}) EXPECT_EQ(bits(status, set), own) << set;
  EXPECT_EQ(statusField(status, "Seccomp"), "0");
}

TEST(CreateContainer, PrivilegedMayWriteSysAndCgroup) {
  PROMISE("1.3 privileged");
  Pod pod(privilegedPod);
  auto ended = runToEnd(pod, privileged,
                        shell("grep -E ' /sys(/fs/cgroup)? ' /proc/mounts | cut -d' ' -f2,4 | cut -d, -f1;"
                              "mkdir /sys/fs/cgroup/made && rmdir /sys/fs/cgroup/made && echo made"));
  EXPECT_EQ(ended.out, "/sys rw\n/sys/fs/cgroup rw\nmade\n") << ended.err;
}

TEST(CreateContainer, PrivilegedHasNothingMaskedOrReadOnly) {
  PROMISE("1.3 privileged");
  Pod pod(privilegedPod);
  auto ended = runToEnd(pod, privileged, masked({"/etc/passwd"}), readonlyPaths({"/etc"}),
                        shell("grep -c root /etc/passwd; echo x > /etc/new && echo written"));
  EXPECT_EQ(ended.out, "1\nwritten\n") << ended.err;
}

TEST(CreateContainer, PrivilegedSeesTheDevicesOfTheHost) {
  PROMISE("1.3 privileged");
  Pod pod(privilegedPod);
  EXPECT_EQ(runToEnd(pod, privileged, shell("test -c /dev/fuse && echo fuse; test -c /dev/net/tun && echo tun")).out,
            "fuse\ntun\n");
  EXPECT_EQ(runToEnd(pod, shell("test -c /dev/fuse && echo fuse; test -c /dev/net/tun && echo tun")).out, "");
}

// ---- no_new_privs

TEST(CreateContainer, NoNewPrivsIsAsAskedFor) {
  PROMISE("1.3 no_new_privs");
  Pod pod;
  EXPECT_EQ(statusField(statusIn(pod, noNewPrivs(true)), "NoNewPrivs"), "1");
  EXPECT_EQ(statusField(statusIn(pod, noNewPrivs(false)), "NoNewPrivs"), "0");
}

// ---- Paths

TEST(CreateContainer, MaskedFileIsEmpty) {
  PROMISE("1.3 masked_paths");
  Pod pod;
  auto ended = runToEnd(pod, masked({"/etc/passwd"}), shell("wc -c < /etc/passwd; id -u"));
  EXPECT_EQ(ended.out, "0\n0\n");
}

TEST(CreateContainer, MaskingAnythingMasksTheUsualToo) {
  PROMISE("1.3 masked_paths usual");
  Pod pod;
  // A masked file is /dev/null.
  auto ended =
      runToEnd(pod, masked({"/etc/passwd"}),
               shell("for f in /etc/passwd /proc/keys /proc/timer_list; do [ ! -e $f ] || [ -c $f ] || echo $f; "
                     "done; echo looked"));
  EXPECT_EQ(ended.out, "looked\n");
}

TEST(CreateContainer, MaskedDirectoryIsEmptyAndReadOnly) {
  PROMISE("1.3 masked_paths");
  Pod pod;
  auto ended =
      runToEnd(pod, masked({"/sbin"}), shell("ls -A /sbin | wc -l; touch /sbin/x 2>/dev/null || echo refused"));
  EXPECT_EQ(ended.out, "0\nrefused\n");
}

TEST(CreateContainer, MaskedPathThatIsMissingIsNoError) {
  PROMISE("1.3 masked_paths");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, masked({"/proc/nothing", "/nothing"}), shell("echo ran")).out, "ran\n");
}

TEST(CreateContainer, EmptyListMasksNothing) {
  PROMISE("1.3 masked_paths none");
  Pod pod;
  EXPECT_EQ(
      runToEnd(pod, shell("test -c /proc/timer_list && echo masked; cut -d' ' -f2 /proc/mounts | grep ^/proc/")).out,
      "");
}

TEST(CreateContainer, ReadonlyPathCannotBeWritten) {
  PROMISE("1.3 readonly_paths");
  Pod pod;
  auto script = shell("echo x > /home/new && echo home; echo x > /tmp/new && echo tmp");
  auto ended = runToEnd(pod, readonlyPaths({"/home", "/nothing"}), script);
  EXPECT_EQ(ended.out, "tmp\n");
  EXPECT_NE(ended.err.find("Read-only file system"), std::string::npos) << ended.err;
  EXPECT_EQ(runToEnd(pod, script).out, "home\ntmp\n");
}

TEST(CreateContainer, ReadonlyPathOfProcCannotBeWritten) {
  PROMISE("1.3 readonly_paths");
  Pod pod;
  auto script =
      shell("grep -c ' /proc/sys proc ro' /proc/mounts; echo 1 > /proc/sys/net/ipv4/ip_forward && echo written");
  auto admin = capabilities({"NET_ADMIN"}, {});
  EXPECT_EQ(runToEnd(pod, admin, readonlyPaths({"/proc/sys"}), script).out, "1\n");
  auto free = runToEnd(pod, admin, script);
  EXPECT_EQ(free.out, "0\nwritten\n") << free.err;
}

TEST(CreateContainer, ReadonlyRootfsCannotBeWritten) {
  PROMISE("1.3 readonly_rootfs");
  Pod pod;
  auto directory = scratchDirectory();
  auto script = shell("for d in / /etc /tmp /dev/shm /v; do touch $d/x 2>/dev/null && echo $d; done");
  EXPECT_EQ(runToEnd(pod, readonlyRoot, mount(directory, "/v"), script).out, "/dev/shm\n/v\n");
  EXPECT_EQ(runToEnd(pod, mount(directory, "/v"), script).out, "/\n/etc\n/tmp\n/dev/shm\n/v\n");
}

TEST(CreateContainer, MaskedPathsMustBeAbsolute) {
  PROMISE("1.3 paths wrong");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "masked_paths", masked({"etc"}));
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "readonly_paths", readonlyPaths({"/a/../b"}));
}

}  // namespace userpod::conformance
