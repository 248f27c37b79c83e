// What a check makes of records and of what was seen.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "daemon/core/check.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::core {
namespace {

const std::string kPod(64, 'a');
const std::string kContainer(64, 'c');
const std::string kStranger(64, 'e');

Paths somePaths() {
  return {.runtime = "/run/user/1/userpod", .data = "/data", .config = "/config", .node = "/run/userpod"};
}

// A pod with one running container, and all that belongs to them.
struct Scene {
  Scene() {
    pod.id = kPod;
    pod.state = PodRecord::State::Ready;
    pod.addresses = {"10.88.0.2"};
    container.id = kContainer;
    container.podId = kPod;
    container.state = ContainerRecord::State::Running;
    container.pid = 17;
    container.cgroup = "/pods/" + kPod + "/" + kContainer;
    seen.bundles = {kContainer};
    seen.podDirectories = {kPod};
    seen.pins = {kPod};
    seen.runtimeStates = {{kContainer, "crun"}};
    seen.mounts = {{"/data/containers/" + kContainer + "/merged", "overlay"},
                   {"/run/user/1/userpod/pods/" + kPod + "/shm", "tmpfs"}};
    seen.cgroups = {
        {"/pods/" + kPod, kPod, 0}, {container.cgroup, kContainer, 1}, {"/mon/" + kContainer, kContainer, 1}};
    seen.processes[kContainer] = {true, true, true, false, true, false};
    seen.roots[kContainer] = true;
    seen.overlaid = {kContainer};
    seen.paths = {{"/data", 0700, true, 0700, true}};
    seen.storedRead = seen.mountsRead = true;
  }
  Findings run() {
    if (!storedDiffers) {
      seen.stored.pods = {pod};
      seen.stored.containers = {container};
    }
    known.pods[kPod] = {std::make_shared<PodRecord>(pod), podBusy};
    known.containers[kContainer] = {std::make_shared<ContainerRecord>(container), containerBusy};
    return compare(known, seen, somePaths());
  }
  std::vector<std::string> codes() {
    std::vector<std::string> all;
    for (const auto& finding : run()) all.push_back(finding.code + " " + finding.id);
    return all;
  }

  PodRecord pod;
  ContainerRecord container;
  bool podBusy = false, containerBusy = false, storedDiffers = false;
  Known known;
  Seen seen;
};

using Codes = std::vector<std::string>;

TEST(CheckCompare, AllInOrderIsNothing) {
  EXPECT_EQ(Scene().codes(), Codes{});
}

TEST(CheckCompare, WhatNoRecordHasIsMendable) {
  Scene scene;
  scene.seen.bundles.push_back(kStranger);
  scene.seen.podDirectories.push_back(kStranger);
  scene.seen.pins.push_back(kStranger);
  scene.seen.exitFiles.push_back(kStranger);
  scene.seen.runtimeStates.emplace_back(kStranger, "crun");
  scene.seen.mounts.push_back({"/data/containers/" + kStranger + "/merged", "overlay"});
  scene.seen.mounts.push_back({"/data/containers/" + kStranger + "/merged", "overlay"});
  scene.seen.mounts.push_back({"/data/elsewhere", "tmpfs"});
  scene.seen.cgroups.push_back({"/pods/" + kStranger, kStranger, 2});
  scene.seen.cgroups.push_back({"/mon/" + kStranger, kStranger, 1});
  scene.seen.cgroups.push_back({"/fuse/" + kStranger + "-volume-0", kStranger, 1});
  auto found = scene.run();
  for (const auto& finding : found) {
    EXPECT_TRUE(finding.repairable) << finding.code;
    EXPECT_EQ(finding.severity, Finding::Severity::Warning) << finding.code;
  }
  EXPECT_EQ(
      scene.codes(),
      (Codes{"bundle-unknown /run/user/1/userpod/containers/" + kStranger,
             "pod-directory-unknown /run/user/1/userpod/pods/" + kStranger, "pin-unknown /run/userpod/ns/" + kStranger,
             "exit-file-unknown /run/user/1/userpod/exits/" + kStranger, "runtime-state-unknown " + kStranger,
             "mount-unknown /data/containers/" + kStranger + "/merged", "cgroup-unknown /pods/" + kStranger,
             "monitor-unknown /mon/" + kStranger, "server-unknown /fuse/" + kStranger + "-volume-0"}));
}

TEST(CheckCompare, ALivingContainerNeedsAllOfIt) {
  Scene scene;
  auto& process = scene.seen.processes[kContainer];
  process = {true, false, false, true, false, false};
  scene.seen.roots[kContainer] = false;
  scene.seen.mounts.clear();
  for (const auto& finding : scene.run()) EXPECT_FALSE(finding.repairable) << finding.code << ": it would end it";
  EXPECT_EQ(scene.codes(), (Codes{"container-files-missing " + kContainer, "process-astray " + kContainer,
                                  "monitor-missing " + kContainer, "server-missing " + kContainer,
                                  "bundle-missing " + kContainer, "root-not-mounted " + kContainer}));
  scene.containerBusy = true;
  EXPECT_EQ(scene.codes(), Codes{}) << "it is being made or ended";
}

TEST(CheckCompare, AnEndThatNobodySaw) {
  Scene scene;
  scene.seen.processes[kContainer].alive = false;
  EXPECT_EQ(scene.codes(), Codes{"process-missing " + kContainer});
  scene.seen.processes[kContainer].exitFile = true;
  EXPECT_EQ(scene.codes(), Codes{"exit-unseen " + kContainer});
}

TEST(CheckCompare, AnEndedContainerLeavesItsFilesOnly) {
  Scene scene;
  scene.container.state = ContainerRecord::State::Exited;
  scene.container.pid = 0;
  auto codes = scene.codes();
  EXPECT_EQ(codes,
            (Codes{"mount-left " + kContainer, "runtime-state-left " + kContainer, "cgroup-left " + kContainer}));
  scene.seen.mounts.clear();
  scene.seen.runtimeStates.clear();
  scene.seen.cgroups.clear();
  EXPECT_EQ(scene.codes(), Codes{});
  scene.container.reason = "MonitorLost";
  auto found = scene.run();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].code, "container-lost");
  EXPECT_EQ(found[0].severity, Finding::Severity::Info);
}

TEST(CheckCompare, WhereNoMountCouldBeReadNoneIsMissing) {
  Scene scene;
  scene.seen.mounts.clear();
  EXPECT_EQ(scene.codes(), Codes{"root-not-mounted " + kContainer});
  scene.seen.mountsRead = false;
  EXPECT_EQ(scene.codes(), Codes{});
}

TEST(CheckCompare, MountedTwice) {
  Scene scene;
  scene.seen.mounts.push_back(scene.seen.mounts.front());
  auto found = scene.run();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].code, "mount-twice");
  EXPECT_FALSE(found[0].repairable) << "nobody knows whose the upper one is";
}

TEST(CheckCompare, Pods) {
  Scene scene;
  scene.seen.lostPins[kPod] = {"network", "ipc"};
  scene.seen.lostPauses = {kPod};
  scene.seen.podDirectories.clear();
  EXPECT_EQ(scene.codes(), (Codes{"pin-missing " + kPod, "pause-missing " + kPod, "pod-directory-missing " + kPod}));
  scene.pod.state = PodRecord::State::NotReady;
  EXPECT_EQ(scene.codes(), Codes{"pin-left " + kPod});
  scene.podBusy = true;
  EXPECT_EQ(scene.codes(), Codes{});
}

TEST(CheckCompare, AnAddressOfTwoPods) {
  Scene scene;
  auto other = std::make_shared<PodRecord>(scene.pod);
  other->id = kStranger;
  scene.known.pods[kStranger] = {other, false};
  scene.seen.podDirectories.push_back(kStranger);
  scene.seen.storedRead = false;
  EXPECT_EQ(scene.codes(), Codes{"address-twice " + kStranger});
}

TEST(CheckCompare, ModesAndOwners) {
  Scene scene;
  scene.seen.paths = {{"/a", 0700, true, 0755, true},
                      {"/b", 0700, true, 0500, true},
                      {"/c", 0600, true, 0666, false},
                      {"/d", 0700, false, 0, false},
                      {"/e", 0711, true, 0700, true}};
  auto found = scene.run();
  EXPECT_EQ(scene.codes(), (Codes{"mode-wrong /a", "mode-wrong /b", "owner-wrong /c", "path-missing /d"}));
  EXPECT_NE(found[0].text.find("0755, open to others"), std::string::npos) << found[0].text;
  EXPECT_NE(found[1].text.find("keeps its owner out"), std::string::npos) << found[1].text;
}

TEST(CheckCompare, TheStoreIsComparedByObject) {
  Scene scene;
  scene.storedDiffers = true;
  scene.seen.stored.pods = {scene.pod};
  scene.seen.stored.containers = {scene.container};
  scene.seen.stored.pods[0].state = PodRecord::State::NotReady;
  scene.seen.stored.containers[0].id = kStranger;
  EXPECT_EQ(scene.codes(),
            (Codes{"record-differs " + kPod, "record-differs " + kStranger, "record-differs " + kContainer}));
  scene.podBusy = scene.containerBusy = true;
  EXPECT_EQ(scene.codes(), Codes{"record-differs " + kStranger}) << "a second look tells whether it stays";
}

TEST(CheckCompare, WhatHasMovedDuringTheLookIsNoFinding) {
  Scene scene;
  scene.storedDiffers = true;
  auto found = scene.run();
  ASSERT_EQ(found.size(), 2U);
  auto moved = [&](const Known& now) {
    return std::count_if(found.begin(), found.end(), [&](auto& one) { return hasMoved(scene.known, now, one); });
  };
  EXPECT_EQ(moved(scene.known), 0);
  auto now = scene.known;
  now.pods[kPod].busy = true;
  EXPECT_EQ(moved(now), 1);
  now = scene.known;
  now.containers[kContainer].record = std::make_shared<ContainerRecord>(scene.container);
  EXPECT_EQ(moved(now), 1) << "written anew, and what was read of the store may be the older";
  now.pods.erase(kPod);
  EXPECT_EQ(moved(now), 2);
  Finding stranger{.code = "record-differs", .kind = "record", .id = kStranger};
  EXPECT_FALSE(hasMoved(scene.known, now, stranger));
  now.pods[kStranger] = {std::make_shared<PodRecord>(), false};
  EXPECT_TRUE(hasMoved(scene.known, now, stranger));
}

TEST(CheckCompare, OnlyWhatIsNotThereIsGone) {
  auto start = processStartTime(::getpid());
  ASSERT_TRUE(start);
  EXPECT_FALSE(isGone(::getpid(), *start));
  EXPECT_TRUE(isGone(::getpid(), *start + 1)) << "the number has come again";
  EXPECT_TRUE(isGone(0, 0));
  EXPECT_TRUE(isGone(1 << 30, 0));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  bool gone = isGone(::getpid(), *start);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(gone) << "it could not be looked at";
}

TEST(CheckCompare, IdsInNames) {
  EXPECT_EQ(idIn(kPod), kPod);
  EXPECT_EQ(idIn(kPod + "-volume-12"), kPod);
  for (const auto& name :
       {std::string("pod1234"), kPod.substr(1), kPod + "a", kPod + "-other", std::string(64, 'g'), std::string()})
    EXPECT_EQ(idIn(name), "") << name;
}

TEST(CheckCompare, CgroupsBelowAContainersAreItsOwn) {
  std::string top = "/tmp/userpod-cgroups-XXXXXX";
  ASSERT_NE(::mkdtemp(top.data()), nullptr);
  std::string container = "/pods/" + kPod + "/" + kContainer;
  for (const auto& path : {container + "/docker/" + kStranger, "/kubepods/burstable/" + kStranger + "/below/" + kPod,
                           "/mon/" + kContainer, "/fuse/" + kStranger + "-volume-0"})
    ASSERT_TRUE(makeDirectories(top + path));
  ASSERT_TRUE(writeFile(top + container + "/docker/" + kStranger + "/cgroup.procs", "17\n"));
  ASSERT_TRUE(writeFile(top + "/mon/" + kContainer + "/cgroup.procs", "18\n19\n"));
  std::map<std::string, std::size_t> found;
  for (const auto& one : cgroupsWithIds(top, [](const std::string& id) { return id == kPod; }))
    found[one.path] = one.processes;
  EXPECT_EQ(found, (std::map<std::string, std::size_t>{{"/pods/" + kPod, 0},
                                                       {container, 0},
                                                       {"/kubepods/burstable/" + kStranger, 0},
                                                       {"/mon/" + kContainer, 2},
                                                       {"/fuse/" + kStranger + "-volume-0", 0}}));
  ASSERT_TRUE(removeTree(top));
}

}  // namespace
}  // namespace userpod::core
