#include "userns/diagnose.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "daemon/sys/fd.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod {
namespace {

using diagnose::findVersion;
using diagnose::Version;

TEST(FindVersion, ReadsWhatTheProgramsPrint) {
  EXPECT_EQ(findVersion("crun version 1.8.1\ncommit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30"), (Version{1, 8, 1}));
  EXPECT_EQ(findVersion("crun version 1.14\n"), (Version{1, 14, 0}));
  EXPECT_EQ(findVersion("systemd 252 (252.39-1~deb12u2)\n+PAM +AUDIT"), (Version{252, 0, 0}));
  EXPECT_EQ(findVersion("slirp4netns version 1.2.0\ncommit: 656041d"), (Version{1, 2, 0}));
  EXPECT_EQ(findVersion("6.1.0-18-amd64"), (Version{6, 1, 0}));
  EXPECT_EQ(findVersion("5.10.0-rc1+"), (Version{5, 10, 0}));
}

TEST(FindVersion, RefusesWhatIsNone) {
  EXPECT_EQ(findVersion(""), std::nullopt);
  EXPECT_EQ(findVersion("slirp4netns"), std::nullopt);
  EXPECT_EQ(findVersion("no version"), std::nullopt);
}

TEST(FindVersion, Orders) {
  EXPECT_LT(*findVersion("1.8.1"), *findVersion("1.14"));
  EXPECT_LT(*findVersion("5.9.16"), *findVersion("5.11"));
}

TEST(VersionText, LeavesOutTrailingZeros) {
  EXPECT_EQ(diagnose::versionText({1, 8, 1}), "1.8.1");
  EXPECT_EQ(diagnose::versionText({1, 10, 0}), "1.10");
  EXPECT_EQ(diagnose::versionText({252, 0, 0}), "252");
}

class Directory {
 public:
  Directory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/var/tmp/userpod-diagnose-XXXXXX";
};

TEST(ExistingDirectory, GoesUpToWhatIsThere) {
  Directory directory;
  EXPECT_EQ(diagnose::existingDirectory(directory.path()), directory.path());
  EXPECT_EQ(diagnose::existingDirectory(directory.path() + "/a/b/c"), directory.path());
  ASSERT_TRUE(writeFile(directory.path() + "/file", ""));
  EXPECT_EQ(diagnose::existingDirectory(directory.path() + "/file"), directory.path());
  EXPECT_EQ(diagnose::existingDirectory("/no-such-directory/x"), "/");
}

TEST(KernelNumber, ReadsAndRefuses) {
  Directory directory;
  std::string file = directory.path() + "/number";
  ASSERT_TRUE(writeFile(file, "16384\n"));
  EXPECT_EQ(diagnose::kernelNumber(file), 16384);
  ASSERT_TRUE(writeFile(file, "max\n"));
  EXPECT_EQ(diagnose::kernelNumber(file), std::nullopt);
  EXPECT_EQ(diagnose::kernelNumber(directory.path() + "/none"), std::nullopt);
}

TEST(ProbeOverlay, LeavesNothing) {
  Directory directory;
  auto probe = diagnose::probeOverlay(directory.path());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << static_cast<int>(probe.step) << " " << probe.sysErrno;
}

TEST(ProbeOverlay, NamesADirectoryThatIsMissing) {
  auto probe = diagnose::probeOverlay("/no-such-directory");
  EXPECT_EQ(probe.step, diagnose::Probe::Step::Write);
  EXPECT_EQ(probe.sysErrno, ENOENT);
}

// Whatever the host is like: each check has a stable name of its own, words, and a mend where something is wrong.
TEST(DiagnoseHost, ChecksAreComplete) {
  Directory directory;
  Paths paths{directory.path() + "/run/userpod", directory.path() + "/data/userpod", directory.path() + "/config",
              "/run/userpod"};
  Settings settings;
  settings.runtimes["crun"] = {};
  settings.runtimes["missing-runtime"] = {directory.path() + "/missing"};
  auto checks = diagnoseHost(paths, settings);
  std::set<std::string> names;
  for (const auto& check : checks) {
    EXPECT_TRUE(names.insert(check.name).second) << check.name;
    EXPECT_TRUE(std::all_of(check.name.begin(), check.name.end(), [](unsigned char c) {
      return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '-';
    })) << check.name;
    EXPECT_FALSE(check.message.empty()) << check.name;
    bool mendable = check.severity != Check::Severity::Error || !check.hints.empty();
    EXPECT_TRUE(mendable) << check.name << ": " << check.message;
  }
  for (const char* name : {"ordinary-user",   "subordinate-ids",
                           "newuidmap",       "user-namespaces",
                           "cgroup-v2",       "user-manager",
                           "session-bus",     "linger",
                           "keyring-quota",   "inotify-instances",
                           "inotify-watches", "pipe-quota",
                           "pipe-hard-quota", "net-namespaces",
                           "mnt-namespaces",  "process-ids",
                           "mounts",          "tasks",
                           "open-files",      "data-file-system",
                           "overlay",         "dev-fuse",
                           "dev-net-tun",     "crun",
                           "conmon",          "slirp4netns",
                           "systemd",         "kernel",
                           "uplink"})
    EXPECT_TRUE(names.contains(name)) << name;
  auto severity = [&](std::string_view name) {
    return std::find_if(checks.begin(), checks.end(), [name](const Check& check) { return check.name == name; })
        ->severity;
  };
  EXPECT_EQ(severity("user-manager"), Check::Severity::Error);  // there is none in the test's directory
  EXPECT_EQ(severity("missing-runtime"), Check::Severity::Warning);
  EXPECT_FALSE(std::filesystem::exists(paths.data));
}

TEST(DiagnoseHost, WithoutUplinkNothingOfItIsNeeded) {
  Directory directory;
  Paths paths{directory.path(), directory.path(), directory.path(), "/run/userpod"};
  Settings settings;
  settings.uplink = "none";
  for (const auto& check : diagnoseHost(paths, settings)) {
    EXPECT_NE(check.name, "slirp4netns");
    EXPECT_TRUE(check.name != "uplink" || check.severity == Check::Severity::Ok) << check.message;
    EXPECT_TRUE(check.name != "dev-net-tun" || check.severity == Check::Severity::Ok) << check.message;
  }
}

TEST(DiagnoseHost, OnlyTheStorageDriverThatIsAskedForIsNeeded) {
  Directory directory;
  Paths paths{directory.path(), directory.path(), directory.path(), "/run/userpod"};
  Settings settings;
  for (const char* driver : {"overlay", "fuse-overlayfs", "copy"}) {
    settings.storageDriver = driver;
    std::string notNeeded = "not needed: storage-driver = \"" + settings.storageDriver + "\"";
    for (const auto& check : diagnoseHost(paths, settings)) {
      bool wanted =
          check.name == "overlay" ? settings.storageDriver == "overlay" : settings.storageDriver == "fuse-overlayfs";
      EXPECT_TRUE((check.name != "overlay" && check.name != "dev-fuse") || wanted == (check.message != notNeeded))
          << driver;
      EXPECT_TRUE(check.name != "fuse-overlayfs" || settings.storageDriver == "fuse-overlayfs") << driver;
    }
  }
}

}  // namespace
}  // namespace userpod
