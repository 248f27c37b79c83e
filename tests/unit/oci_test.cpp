// What buildSpec makes of requests and images. The part that runs processes is oci_runtime_test.cpp.
#include "daemon/oci/oci.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "daemon/oci/messages.hpp"
#include "daemon/oci/mount_source.hpp"
#include "daemon/oci/spec.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::oci {
namespace {

class OciSpec : public ::testing::Test {
 protected:
  OciSpec() {
    char pattern[] = "/tmp/oci-test-XXXXXX";
    top_ = ::mkdtemp(pattern);
    for (const char* name : {"/rootfs/etc", "/pod/shm", "/runtime/pods", "/node", "/data/sub"})
      EXPECT_TRUE(makeDirectories(top_ + name));
    write("/rootfs/etc/passwd",
          "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/web:/bin/sh\n1000:x:7:8::/:\nbroken\n");
    write("/rootfs/etc/group", "root:x:0:\nweb:x:34:\nlogs:x:44:web,other\nmore:x:45:other,web\n");
    for (const char* name : {"resolv.conf", "hosts", "hostname"}) write(std::string("/pod/") + name, "x\n");
    record_.id = "c1";
    record_.cgroup = "/pods/p1/c1";
    record_.imageName = "example.org/image:1";
    image_.entrypoint = {"/entry"};
    image_.command = {"default"};
  }
  ~OciSpec() override { (void)removeTree(top_); }

  void write(const std::string& path, const std::string& text) { EXPECT_TRUE(writeFile(top_ + path, text)); }
  Result<BuiltSpec> build() {
    SpecInput input{pod_,
                    record_,
                    image_,
                    top_ + "/rootfs",
                    {"/ns/net", "/ns/ipc", "/ns/uts"},
                    top_ + "/pod",
                    "host-of-pod",
                    top_ + "/runtime",
                    controllers_,
                    {}};
    input.nodeDirectory = top_ + "/node";
    input.targetPid = targetPid_;
    input.pidsLimit = pidsLimit_;
    input.volumes = volumes_;
    if (modules_ != nullptr) input.modules = modules_;
    auto built = buildSpec(input);
    warnings_ = input.warnings;
    if (built) json_ = Json::parse(built->json);
    return built;
  }
  Code failure() {
    auto built = build();
    if (built) return Code::Internal;
    text_ = built.error().text();
    return built.error().code();
  }
  Json mountOn(const std::string& place) {
    for (const auto& entry : json_["mounts"])
      if (entry["destination"] == place) return entry;
    return nullptr;
  }
  static bool has(const Json& list, const std::string& word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  }

  const policy::SecurityModules* modules_ = nullptr;
  std::string top_;
  PodRecord pod_;
  ContainerRecord record_;
  ContainerConfig& config_ = record_.config;
  ImageRecord image_;
  std::vector<std::string> volumes_;
  std::string controllers_ = "cpu memory pids";
  pid_t targetPid_ = 0;
  std::int64_t pidsLimit_ = 0;
  std::vector<std::string> warnings_;
  Json json_;
  std::string text_;
};

TEST_F(OciSpec, CommandAndArguments) {
  struct Row {
    std::vector<std::string> entrypoint, cmd, command, args, result;
  };
  for (const Row& row : std::vector<Row>{{{"e"}, {"c"}, {}, {}, {"e", "c"}},
                                         {{"e"}, {"c"}, {"x"}, {}, {"x"}},
                                         {{"e"}, {"c"}, {}, {"y"}, {"e", "y"}},
                                         {{"e"}, {"c"}, {"x"}, {"y"}, {"x", "y"}},
                                         {{}, {"c"}, {}, {}, {"c"}},
                                         {{}, {"c"}, {}, {"y"}, {"y"}}}) {
    image_.entrypoint = row.entrypoint;
    image_.command = row.cmd;
    config_.command = row.command;
    config_.args = row.args;
    auto built = build();
    ASSERT_TRUE(built) << built.error().text();
    EXPECT_EQ(built->args, row.result);
    EXPECT_EQ(json_["process"]["args"], Json(row.result));
  }
  image_.entrypoint = image_.command = config_.command = config_.args = {};
  EXPECT_EQ(failure(), Code::InvalidArgument);
  EXPECT_NE(text_.find("example.org/image:1"), std::string::npos) << text_;
}

TEST_F(OciSpec, Environment) {
  image_.environment = {"A=image", "B=image", "EMPTY"};
  config_.environment = {{"B", "request"}, {"C", "x=y"}};
  config_.tty = true;
  ASSERT_TRUE(build());
  const auto& list = json_["process"]["env"];
  for (const char* entry :
       {"A=image", "B=request", "C=x=y", "EMPTY=", "HOSTNAME=host-of-pod", "TERM=xterm", "HOME=/root"})
    EXPECT_TRUE(has(list, entry)) << entry << list;
  EXPECT_FALSE(has(list, "B=image"));
  EXPECT_TRUE(list[0].get<std::string>().starts_with("PATH=/usr/local/sbin:"));
  config_.environment = {{"BYTES", "\xff\xfe"}};
  EXPECT_EQ(failure(), Code::InvalidArgument);
  EXPECT_NE(text_.find("BYTES"), std::string::npos) << text_;
}

TEST_F(OciSpec, Users) {
  struct Row {
    std::string image;
    std::optional<std::int64_t> user, group;
    std::string name;
    std::uint32_t uid, gid;
    std::vector<std::uint32_t> groups;
  };
  for (const Row& row : std::vector<Row>{{"", {}, {}, "", 0, 0, {}},
                                         {"web", {}, {}, "", 33, 34, {44, 45}},
                                         {"33", {}, {}, "", 33, 34, {44, 45}},
                                         {"web:logs", {}, {}, "", 33, 44, {45}},
                                         {"5:6", {}, {}, "", 5, 6, {}},
                                         {"1000", {}, {}, "", 7, 8, {}},
                                         {"web", 55, {}, "", 55, 0, {}},
                                         {"web", 33, 9, "", 33, 9, {44, 45}},
                                         {"web", {}, 9, "", 33, 9, {44, 45}},
                                         {"", {}, {}, "web", 33, 34, {44, 45}}}) {
    image_.user = row.image;
    config_.security.runAsUser = row.user;
    config_.security.runAsGroup = row.group;
    config_.security.runAsUsername = row.name;
    auto built = build();
    ASSERT_TRUE(built) << built.error().text();
    EXPECT_EQ(built->user.uid, row.uid) << row.image;
    EXPECT_EQ(built->user.gid, row.gid) << row.image;
    EXPECT_EQ(built->user.groups, row.groups) << row.image;
  }
  config_.security = {};
  image_.user = "web";
  config_.security.supplementalGroups = {45, 100};
  EXPECT_EQ(build()->user.groups, (std::vector<std::uint32_t>{45, 100, 44}));
  config_.security.strictGroups = true;
  EXPECT_EQ(build()->user.groups, (std::vector<std::uint32_t>{45, 100}));
  for (const char* wrong : {"nobody-here", "web:no-group", "-1", "4294967295"}) {
    image_.user = wrong;
    EXPECT_EQ(failure(), Code::InvalidArgument) << wrong;
  }
}

TEST_F(OciSpec, AccountsOfTheImageAreReadInsideTheImage) {
  ASSERT_TRUE(removeTree(top_ + "/rootfs/etc/passwd"));
  std::filesystem::create_symlink("/../../../../etc/passwd-outside", top_ + "/rootfs/etc/passwd");
  write("/rootfs/etc/passwd-outside", "inside:x:77:78::/:\n");
  image_.user = "inside";
  EXPECT_EQ(build()->user.uid, 77U);
  ASSERT_TRUE(removeTree(top_ + "/rootfs/etc/passwd"));
  ASSERT_EQ(::mkfifo((top_ + "/rootfs/etc/passwd").c_str(), 0644), 0);
  EXPECT_EQ(failure(), Code::InvalidArgument) << "a pipe is not waited for";
}

TEST_F(OciSpec, UnknownUserAndGroupGetALine) {
  write("/rootfs/etc/passwd", "root:x:0:0:root:/root:/bin/sh");
  image_.user = "55:66";
  for (int again = 0; again < 2; ++again) {
    ASSERT_TRUE(build());
    EXPECT_EQ(*readFile(top_ + "/rootfs/etc/passwd"),
              "root:x:0:0:root:/root:/bin/sh\n55:x:55:66:container user:/:/sbin/nologin\n");
    EXPECT_TRUE(readFile(top_ + "/rootfs/etc/group")->ends_with("\n66:x:66:\n"));
  }
  EXPECT_EQ(std::filesystem::read_symlink(top_ + "/rootfs/etc/mtab"), "/proc/mounts");
}

TEST_F(OciSpec, LinesForAnUnknownUserStayInTheImage) {
  write("/victim", "outside\n");
  write("/rootfs/victim", "inside\n");
  for (const char* name : {"passwd", "group"}) {
    ASSERT_TRUE(removeTree(top_ + "/rootfs/etc/" + name));
    std::filesystem::create_symlink("../../victim", top_ + "/rootfs/etc/" + name);
  }
  image_.user = "55:66";
  ASSERT_TRUE(build());
  EXPECT_EQ(*readFile(top_ + "/victim"), "outside\n");
  // None is made where there was none.
  ASSERT_TRUE(removeTree(top_ + "/rootfs/etc"));
  ASSERT_TRUE(build());
  EXPECT_FALSE(std::filesystem::exists(top_ + "/rootfs/etc"));
}

TEST_F(OciSpec, NamespacesAreAllNamed) {
  auto find = [&](const char* type) {
    for (const auto& entry : json_["linux"]["namespaces"])
      if (entry["type"] == type) return entry;
    return Json();
  };
  ASSERT_TRUE(build());
  EXPECT_EQ(find("network")["path"], "/ns/net");
  EXPECT_EQ(find("ipc")["path"], "/ns/ipc");
  EXPECT_EQ(find("uts")["path"], "/ns/uts");
  for (const char* own : {"pid", "mount", "cgroup"}) EXPECT_EQ(find(own), (Json{{"type", own}}));
  EXPECT_TRUE(find("user").is_null());
  config_.security.namespaces.pid = NamespaceMode::Node;
  ASSERT_TRUE(build());
  EXPECT_EQ(find("pid")["path"], "/proc/1/ns/pid");
  config_.security.namespaces.pid = NamespaceMode::Target;
  EXPECT_EQ(failure(), Code::InvalidState);
  targetPid_ = 42;
  ASSERT_TRUE(build());
  EXPECT_EQ(find("pid")["path"], "/proc/42/ns/pid");
}

TEST_F(OciSpec, Mounts) {
  write("/data/file", "x");
  std::filesystem::create_symlink("data", top_ + "/link");
  config_.mounts = {{"/deep/er/place", top_ + "/link"},
                    {"/deep", top_ + "/data", true},
                    {"/etc/hosts", top_ + "/data/file"},
                    {"/made", top_ + "/missing/directory"}};
  ASSERT_TRUE(build());
  EXPECT_EQ(mountOn("/deep/er/place")["source"], top_ + "/data") << "symbolic links are followed";
  EXPECT_TRUE(has(mountOn("/deep")["options"], "ro"));
  EXPECT_TRUE(has(mountOn("/deep")["options"], "rprivate"));
  EXPECT_EQ(mountOn("/etc/hosts")["source"], top_ + "/data/file") << "instead of the pod's";
  EXPECT_EQ(mountOn("/etc/resolv.conf")["source"], top_ + "/pod/resolv.conf");
  EXPECT_EQ(mountOn("/dev/shm")["source"], top_ + "/pod/shm");
  EXPECT_TRUE(has(mountOn("/sys")["options"], "ro"));
  EXPECT_FALSE(mountOn("/run/.containerenv").is_null());
  EXPECT_TRUE(std::filesystem::is_directory(top_ + "/missing/directory"));
  std::vector<std::string> order;
  for (const auto& entry : json_["mounts"]) order.push_back(entry["destination"]);
  auto at = [&](const char* place) { return std::find(order.begin(), order.end(), place) - order.begin(); };
  EXPECT_LT(at("/deep"), at("/deep/er/place"));
  EXPECT_LT(at("/dev"), at("/dev/pts"));
  config_.mounts = {{"/dev", "/dev"}};
  ASSERT_TRUE(build());
  EXPECT_TRUE(mountOn("/dev/pts").is_null());
  EXPECT_EQ(mountOn("/dev")["type"], "bind");
}

TEST_F(OciSpec, UserpodsOwnDirectoryIsNotMounted) {
  std::filesystem::create_symlink(top_ + "/runtime", top_ + "/innocent");
  for (const auto& path : {top_ + "/runtime", top_ + "/runtime/pods", top_, std::string("/"), top_ + "/innocent",
                           top_ + "/data/../runtime/pods", top_ + "/node"}) {
    config_.mounts = {{"/data", path}};
    EXPECT_EQ(failure(), Code::AccessDenied) << path;
    EXPECT_NE(text_.find(top_ + "/runtime"), std::string::npos) << text_;
  }
  config_.mounts = {{"/data", top_ + "/data"}, {"/shm", top_ + "/pod"}};
  EXPECT_TRUE(build());
}

TEST_F(OciSpec, MountsThatAreRefused) {
  auto refused = [&](MountConfig mount) {
    config_.mounts = {std::move(mount)};
    return failure();
  };
  EXPECT_EQ(refused({"/x", "relative"}), Code::InvalidArgument);
  EXPECT_EQ(refused({"relative", top_ + "/data"}), Code::InvalidArgument);
  EXPECT_EQ(refused({"/", top_ + "/data"}), Code::InvalidArgument);
  EXPECT_EQ(refused({"/x", top_ + "/data", false, true}), Code::InvalidArgument)
      << "recursive read-only without read-only";
}

TEST_F(OciSpec, ImageVolumes) {
  config_.mounts = {{"/first", "", true, false, false, 0, "one"},
                    {"/data", top_ + "/data"},
                    {"/second", "", true, false, false, 0, "two"}};
  volumes_ = {"/volumes/0", "/volumes/1"};
  ASSERT_TRUE(build());
  EXPECT_EQ(mountOn("/first")["source"], "/volumes/0");
  EXPECT_EQ(mountOn("/second")["source"], "/volumes/1");
  EXPECT_EQ(mountOn("/data")["source"], top_ + "/data");
  EXPECT_EQ(mountOn("/second")["options"], Json({"bind", "rprivate", "ro", "nosuid", "nodev"}));
  volumes_.pop_back();
  EXPECT_EQ(failure(), Code::Internal);
  config_.mounts = {{"/", "", true, false, false, 0, "one"}};
  EXPECT_EQ(failure(), Code::InvalidArgument);
}

TEST_F(OciSpec, Security) {
  config_.security.seccomp = SecurityProfile{};
  config_.security.maskedPaths = {"/proc/own"};
  config_.security.readonlyPaths = {"/proc/ro"};
  config_.security.noNewPrivs = true;
  config_.security.readonlyRootfs = true;
  ASSERT_TRUE(build());
  EXPECT_EQ(json_["process"]["capabilities"]["bounding"].size(), 9U);
  EXPECT_TRUE(json_["process"]["capabilities"]["inheritable"].empty());
  EXPECT_EQ(json_["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
  EXPECT_GT(json_["annotations"]["run.oci.seccomp_bpf_data"].get<std::string>().size(), 1000U);
  EXPECT_TRUE(has(json_["linux"]["maskedPaths"], "/proc/own"));
  EXPECT_TRUE(has(json_["linux"]["maskedPaths"], "/proc/kcore"));
  EXPECT_EQ(json_["linux"]["readonlyPaths"], Json({"/proc/ro"}));
  EXPECT_EQ(json_["process"]["noNewPrivileges"], true);
  EXPECT_EQ(json_["root"]["readonly"], true);
  config_.security.privileged = true;
  ASSERT_TRUE(build());
  EXPECT_FALSE(json_["linux"].contains("seccomp"));
  EXPECT_FALSE(json_["linux"].contains("maskedPaths"));
  EXPECT_GT(json_["process"]["capabilities"]["effective"].size(), 35U);
  EXPECT_TRUE(has(mountOn("/sys")["options"], "rw"));
  config_.security = {};
  ASSERT_TRUE(build());
  EXPECT_FALSE(json_["linux"].contains("seccomp")) << "absent: unconfined";
}

// A host with both security modules, or without.
class OtherHost final : public policy::SecurityModules {
 public:
  bool hasAppArmor() const override { return modules; }
  bool hasSelinux() const override { return modules; }
  Status tryAppArmor(const std::string& profile) const override {
    if (profile == "loaded") return {};
    return Error(Code::NotSupported, "AppArmor profile " + profile + " is not loaded");
  }
  Status relabel(const std::string& path, const std::string& label) const override {
    relabelled.emplace_back(path, label);
    return {};
  }

  bool modules = true;
  mutable std::vector<std::pair<std::string, std::string>> relabelled;
};

TEST_F(OciSpec, AppArmor) {
  OtherHost host;
  modules_ = &host;
  auto& profile = config_.security.apparmor;
  profile = SecurityProfile{SecurityProfile::Type::Localhost, "loaded"};
  ASSERT_TRUE(build());
  EXPECT_EQ(json_["process"]["apparmorProfile"], "loaded");
  profile->localhostRef = "other";
  EXPECT_EQ(failure(), Code::NotSupported);
  host.modules = false;
  profile->localhostRef = "loaded";
  EXPECT_EQ(failure(), Code::NotSupported);
  for (auto type : {SecurityProfile::Type::RuntimeDefault, SecurityProfile::Type::Unconfined}) {
    profile->type = type;
    ASSERT_TRUE(build());
    EXPECT_FALSE(json_["process"].contains("apparmorProfile"));
  }
  profile->type = SecurityProfile::Type::Localhost;
  config_.security.privileged = true;
  EXPECT_TRUE(build());
}

TEST_F(OciSpec, Selinux) {
  OtherHost host;
  modules_ = &host;
  pod_.id = "001002" + std::string(58, '0');
  config_.mounts = {{"/a", top_ + "/data", false, false, true, 0, "", ""},
                    {"/b", top_ + "/data/sub", false, false, false, 0, "", ""}};
  config_.security.selinux = SelinuxOptions{"", "", "own_t", ""};
  ASSERT_TRUE(build());
  EXPECT_EQ(json_["process"]["selinuxLabel"], "system_u:system_r:own_t:s0:c1,c2");
  const std::string files = "system_u:object_r:container_file_t:s0:c1,c2";
  EXPECT_EQ(json_["linux"]["mountLabel"], files);
  EXPECT_EQ(*mountLabel(host, pod_, record_), files);
  EXPECT_EQ(host.relabelled,
            (std::vector<std::pair<std::string, std::string>>{{top_ + "/pod", files}, {top_ + "/data", files}}));
  config_.security.selinux = SelinuxOptions{"u", "r", "t", "s0:c3,c4"};
  ASSERT_TRUE(build());
  EXPECT_EQ(json_["process"]["selinuxLabel"], "u:r:t:s0:c3,c4");
  config_.security.selinux->type = "a b";
  EXPECT_EQ(failure(), Code::InvalidArgument);
  config_.security.selinux->type = "t";
  host.modules = false;
  EXPECT_EQ(failure(), Code::NotSupported);
  config_.security.privileged = true;
  ASSERT_TRUE(build());
  EXPECT_FALSE(json_["process"].contains("selinuxLabel"));
  EXPECT_EQ(*mountLabel(host, pod_, record_), "");
}

TEST_F(OciSpec, Resources) {
  Resources wanted;
  wanted.cpuShares = 512;
  wanted.cpuQuota = 20000;
  wanted.cpuPeriod = 100000;
  wanted.memoryLimit = 64 << 20;
  wanted.cpusetCpus = "0";
  wanted.hugepageLimits = {{"2Mi", 0}};
  wanted.unified = {{"memory.high", "1000000"}, {"io.weight", "50"}};
  config_.resources = wanted;
  pidsLimit_ = 100;
  auto built = build();
  ASSERT_TRUE(built);
  ASSERT_TRUE(built->resources);
  EXPECT_EQ(built->resources->memoryLimit, 64 << 20);
  EXPECT_EQ(built->resources->cpusetCpus, "");
  EXPECT_EQ(built->resources->unified, (StringMap{{"memory.high", "1000000"}}));
  EXPECT_TRUE(built->resources->hugepageLimits.empty());
  const auto& resources = json_["linux"]["resources"];
  EXPECT_EQ(json_["linux"]["cgroupsPath"], "/pods/p1/c1");
  EXPECT_EQ(resources["cpu"]["quota"], 20000);
  EXPECT_EQ(resources["cpu"]["shares"], 512);
  EXPECT_EQ(resources["unified"]["cpu.weight"], "20");
  EXPECT_EQ(resources["memory"]["limit"], 64 << 20);
  EXPECT_EQ(resources["memory"]["swap"], 64 << 20);
  EXPECT_EQ(resources["pids"]["limit"], 100);
  EXPECT_EQ(resources["unified"]["memory.high"], "1000000");
  EXPECT_FALSE(resources["cpu"].contains("cpus"));
  EXPECT_FALSE(resources["unified"].contains("io.weight"));
  ASSERT_GE(warnings_.size(), 2U);
  EXPECT_NE(warnings_[0].find("cpuset"), std::string::npos);
  controllers_ = "";
  ASSERT_TRUE(build());
  EXPECT_FALSE(json_["linux"].contains("resources"));
  config_.resources->hugepageLimits = {{"2Mi", 2 << 20}};
  EXPECT_EQ(failure(), Code::NotSupported);
  EXPECT_NE(text_.find("2Mi"), std::string::npos);
}

TEST_F(OciSpec, Devices) {
  config_.devices = {{"/dev/my-null", "/dev/null", "rwm"}};
  ASSERT_TRUE(build());
  EXPECT_EQ(mountOn("/dev/my-null")["source"], "/dev/null");
  config_.devices = {{"/dev/x", "/no/such/device", "rwm"}};
  EXPECT_EQ(failure(), Code::InvalidArgument);
  config_.devices = {{"/dev/x", top_ + "/pod/hosts", "rwm"}};
  EXPECT_EQ(failure(), Code::InvalidArgument);
}

TEST_F(OciSpec, StopSignals) {
  EXPECT_EQ(build()->stopSignal, SIGTERM);
  image_.stopSignal = "SIGQUIT";
  EXPECT_EQ(build()->stopSignal, SIGQUIT);
  config_.stopSignal = SIGUSR1;
  EXPECT_EQ(build()->stopSignal, SIGUSR1);
  EXPECT_EQ(signalNumber("KILL"), 9);
  EXPECT_EQ(signalNumber("15"), 15);
  EXPECT_EQ(signalNumber("SIGRTMIN+3"), 37);
  EXPECT_EQ(signalNumber("RTMAX-1"), 63);
  for (const char* wrong : {"", "0", "65", "SIGNOTHING", "RTMIN+x", "999999999999"})
    EXPECT_LE(signalNumber(wrong), 34) << wrong;
}

TEST(OciMessages, AreTheRuntimesWordsOnly) {
  EXPECT_EQ(plainMessage("2026-01-02T03:04:05.000001Z: executable file `x` not found\n"),
            "executable file `x` not found");
  EXPECT_EQ(plainMessage("{\"msg\":\"no space\",\"level\":\"error\"}\n"), "no space");
  EXPECT_EQ(plainMessage("time=\"2026-01-02T03:04:05Z\" level=warning msg=\"so what\"\n"
                         "time=\"2026-01-02T03:04:05Z\" level=error msg=\"exec: \\\"/x\\\": no such file\"\n"),
            "exec: \"/x\": no such file");
  EXPECT_EQ(plainMessage("time=\"2026-01-02T03:04:05Z\" level=warning msg=\"so what\"\n"), "so what");
  EXPECT_EQ(plainMessage("[conmon:e]: one\ncrun: two\n\n"), "one; two");
  EXPECT_EQ(plainMessage(std::string("a\x01\xff", 3)), "a ?");
}

TEST(OciMessages, TheMonitorsAnswer) {
  EXPECT_EQ(parseMonitorAnswer("{\"data\": 42}\n")->pid, 42);
  EXPECT_EQ(parseMonitorAnswer("{\"data\": -1, \"message\": \"crun: no\"}")->words, "no");
  EXPECT_EQ(parseMonitorAnswer("{\"data\": -1, \"message\": \"no \xff\"}")->words, "no ?");
  EXPECT_EQ(parseMonitorAnswer("{\"data\": 4294967298}")->pid, 0);
  for (const char* none : {"", "{", "[1]", "{\"data\": \"1\"}", "{\"pid\": 1}"})
    EXPECT_FALSE(parseMonitorAnswer(none)) << none;
}

TEST(OciExitFile, CodeAndTime) {
  char pattern[] = "/tmp/oci-exit-XXXXXX";
  Paths paths;
  paths.runtime = ::mkdtemp(pattern);
  ASSERT_TRUE(makeDirectories(paths.exits()));
  EXPECT_FALSE(*readExitFile(paths, "none"));
  ASSERT_TRUE(writeFile(paths.exits() + "/c", "137"));
  auto exit = readExitFile(paths, "c");
  ASSERT_TRUE(exit && *exit);
  EXPECT_EQ((*exit)->code, 137);
  EXPECT_GT((*exit)->finishedAt, 1'700'000'000'000'000'000);
  ASSERT_TRUE(writeFile(paths.exits() + "/bad", "x"));
  EXPECT_FALSE(readExitFile(paths, "bad"));
  (void)removeTree(paths.runtime);
}

}  // namespace
}  // namespace userpod::oci
