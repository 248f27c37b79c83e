// CreateContainer: files, file systems and devices that a container finds.
#include <sys/stat.h>

#include <filesystem>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

Edit device(const std::string& source, const std::string& target, const std::string& permissions = "rwm") {
  return [=](Config& c) {
    auto* added = c.add_devices();
    added->set_host_path(source);
    added->set_container_path(target);
    added->set_permissions(permissions);
  };
}
Edit cdi(const std::string& name) {
  return [=](Config& c) { c.add_cdi_devices()->set_name(name); };
}

}  // namespace

TEST(CreateContainer, HostsOfTheRequestWins) {
  PROMISE("1.3 files");
  Pod pod;
  auto directory = scratchDirectory();
  writeFile(directory + "/hosts", "192.0.2.1 mine\n");
  EXPECT_EQ(runToEnd(pod, mount(directory + "/hosts", "/etc/hosts"), shell("cat /etc/hosts")).out, "192.0.2.1 mine\n");
}

TEST(CreateContainer, FilesOfThePodAreReadOnlyWithAReadOnlyRoot) {
  PROMISE("1.3 files");
  Pod pod;
  auto script = shell("for f in resolv.conf hosts hostname; do echo '# x' >> /etc/$f && echo $f; done");
  EXPECT_EQ(runToEnd(pod, script, [](Config& c) { securityOf(c)->set_readonly_rootfs(true); }).out, "");
}

TEST(CreateContainer, ContainerenvIsThere) {
  PROMISE("1.3 files");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, shell("test -f /run/.containerenv && echo there")).out, "there\n");
}

TEST(CreateContainer, MtabLeadsToTheMounts) {
  PROMISE("1.3 files");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, shell("readlink /etc/mtab; grep -c ' / ' /etc/mtab")).out, "/proc/mounts\n1\n");
}

TEST(CreateContainer, CgroupIsReadOnlyAndItsOwn) {
  PROMISE("1.3 cgroup");
  Pod pod;
  auto ended = runToEnd(pod, shell("grep ^0: /proc/self/cgroup; mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused;"
                                   "grep -cx $$ /sys/fs/cgroup/cgroup.procs; ls -d /sys/fs/cgroup/pods 2>/dev/null"));
  EXPECT_EQ(ended.out, "0::/\nrefused\n1\n");
}

TEST(CreateContainer, SysIsReadOnly) {
  PROMISE("1.3 sys");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, shell("grep ' /sys ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1")).out, "sysfs ro\n");
}

TEST(CreateContainer, UsualDevicesAreThereAndWork) {
  PROMISE("1.3 dev");
  Pod pod;
  auto ended =
      runToEnd(pod, shell("for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo no $d; done;"
                          "for l in fd stdin stdout stderr; do test -L /dev/$l || echo no $l; done;"
                          "head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 4 /dev/urandom | wc -c;"
                          "for m in pts shm mqueue; do grep -q \" /dev/$m \" /proc/mounts || echo no $m; done"));
  EXPECT_EQ(ended.out, "3\n4\n") << ended.err;
}

TEST(CreateContainer, RootIsWritableAndForgotten) {
  PROMISE("1.3 rootfs");
  Pod pod;
  auto script = shell("ls /made 2>/dev/null; echo x > /made; rm /etc/group; ls /etc/group 2>/dev/null; cat /made");
  EXPECT_EQ(runToEnd(pod, script).out, "x\n");
  EXPECT_EQ(runToEnd(pod, script).out, "x\n");
}

TEST(CreateContainer, DeviceUnderAnotherName) {
  PROMISE("1.3 devices");
  Pod pod;
  struct stat info{};
  ASSERT_EQ(::stat("/dev/fuse", &info), 0);
  auto ended = runToEnd(pod, device("/dev/fuse", "/dev/mine/fuse"),
                        shell("test -c /dev/mine/fuse && stat -c %t:%T /dev/mine/fuse; test -e /dev/fuse && echo more;"
                              "exec 3<>/dev/mine/fuse && echo opened"));
  EXPECT_EQ(ended.out, "a:e5\nopened\n") << ended.err;
}

TEST(CreateContainer, DeviceThatIsMissingIsRefusedByName) {
  PROMISE("1.3 devices wrong");
  Pod pod;
  expectRefused(pod, {}, "/dev/no-such", device("/dev/no-such", "/dev/x"));
}

TEST(CreateContainer, DeviceThatIsNoneIsRefusedByName) {
  PROMISE("1.3 devices wrong");
  Pod pod;
  expectRefused(pod, {}, "/etc/hosts", device("/etc/hosts", "/dev/x"));
}

TEST(CreateContainer, DevicePermissionsAreCheckedAndPathsToo) {
  PROMISE("1.3 devices wrong");
  Pod pod;
  expectRefused(pod, {}, "permission", device("/dev/fuse", "/dev/x", "rwz"));
  expectRefused(pod, {}, "", device("dev/fuse", "/dev/x"));
}

TEST(CreateContainer, DirectoryOfDevices) {
  PROMISE("1.3 devices");
  Pod pod;
  EXPECT_EQ(
      runToEnd(pod, device("/dev/net", "/dev/nets"), shell("ls /dev/nets; test -c /dev/nets/tun && echo device")).out,
      "tun\ndevice\n");
}

// ---- CDI, by a specification made for the test in a directory that the specification of CDI names.

class CdiSpec {
 public:
  CdiSpec() : path_("/var/run/cdi/" + uniqueName("conformance") + ".json") {
    std::filesystem::create_directories("/var/run/cdi");
    directory_ = scratchDirectory();
    writeFile(directory_ + "/file", "of the device\n");
    nlohmann::json edits{
        {"env", {"CDI_DEVICE=one"}},
        {"deviceNodes", {{{"path", "/dev/of-cdi"}, {"hostPath", "/dev/fuse"}}}},
        {"mounts", {{{"hostPath", directory_}, {"containerPath", "/of-cdi"}, {"options", {"ro", "bind"}}}}}};
    nlohmann::json spec{{"cdiVersion", "0.5.0"},
                        {"kind", "conformance.userpod1.org/" + kind_},
                        {"containerEdits", {{"env", {"CDI_ALL=yes"}}}},
                        {"devices", {{{"name", "one"}, {"containerEdits", edits}}}}};
    writeFile(path_, spec.dump());
  }
  ~CdiSpec() { std::filesystem::remove(path_); }
  CdiSpec(const CdiSpec&) = delete;
  CdiSpec& operator=(const CdiSpec&) = delete;
  std::string name(const std::string& device = "one") const {
    return "conformance.userpod1.org/" + kind_ + "=" + device;
  }

 private:
  std::string path_, directory_;
  std::string kind_ = uniqueName("kind");
};

TEST(CreateContainer, CdiDeviceBringsItsEdits) {
  PROMISE("1.3 CDI_devices");
  Pod pod;
  CdiSpec spec;
  auto ended = runToEnd(pod, cdi(spec.name()),
                        shell("echo $CDI_DEVICE $CDI_ALL; test -c /dev/of-cdi && stat -c %t:%T /dev/of-cdi;"
                              "cat /of-cdi/file; touch /of-cdi/x || echo refused"));
  EXPECT_EQ(ended.out, "one yes\na:e5\nof the device\nrefused\n") << ended.err;
}

TEST(CreateContainer, CdiDeviceThatIsUnknownIsRefusedByName) {
  PROMISE("1.3 CDI_devices");
  Pod pod;
  CdiSpec spec;
  expectRefused(pod, {}, "=two", cdi(spec.name("two")));
  expectRefused(pod, {}, "no.such/vendor=x", cdi("no.such/vendor=x"));
  expectRefused(pod, {}, "nonsense", cdi("nonsense"));
}

}  // namespace userpod::conformance
