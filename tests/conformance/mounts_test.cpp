// CreateContainer: mounts of host paths.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

namespace fs = std::filesystem;

// A tmpfs on the host, which the runtime sees too; gone with the object, and what was mounted below it.
class HostMount {
 public:
  explicit HostMount(const std::string& directory, unsigned long propagation = 0) : directory_(directory) {
    fs::create_directories(directory);
    if (::mount("conformance", directory.c_str(), "tmpfs", 0, "mode=755") < 0) fail("tmpfs");
    if (propagation != 0 && ::mount(nullptr, directory.c_str(), nullptr, propagation, nullptr) < 0) fail("propagation");
  }
  ~HostMount() { ::umount2(directory_.c_str(), MNT_DETACH); }
  HostMount(const HostMount&) = delete;
  HostMount& operator=(const HostMount&) = delete;
  const std::string& path() const { return directory_; }

 private:
  void fail(const char* what) const {
    throw std::runtime_error(std::string(what) + " on " + directory_ + ": " + std::strerror(errno));
  }
  std::string directory_;
};

std::function<void(v1::Mount&)> propagation(v1::MountPropagation value) {
  return [value](v1::Mount& m) { m.set_propagation(value); };
}
void recursively(v1::Mount& m) {
  m.set_readonly(true);
  m.set_recursive_read_only(true);
}

// A directory with a file "here".
std::string directoryWithFile() {
  auto directory = scratchDirectory();
  writeFile(directory + "/here", "content\n");
  return directory;
}

bool mountedAt(const std::string& path) {
  return readFile("/proc/self/mountinfo").find(" " + path + " ") != std::string::npos;
}

}  // namespace

TEST(CreateContainer, MountIsReadAndWritten) {
  PROMISE("1.3 mount");
  Pod pod;
  auto directory = directoryWithFile();
  auto ended = runToEnd(pod, mount(directory, "/d"), shell("cat /d/here; echo new > /d/made"));
  EXPECT_EQ(ended.out, "content\n");
  EXPECT_EQ(readFile(directory + "/made"), "new\n");
}

TEST(CreateContainer, MountOfAFile) {
  PROMISE("1.3 mount file");
  Pod pod;
  auto file = directoryWithFile() + "/here";
  auto ended = runToEnd(pod, mount(file, "/etc/a/new/place"), mount(file, "/etc/passwd"),
                        shell("cat /etc/a/new/place /etc/passwd; echo new > /etc/a/new/place"));
  EXPECT_EQ(ended.out, "content\ncontent\n") << ended.err;
  EXPECT_EQ(readFile(file), "new\n");
}

TEST(CreateContainer, ReadonlyMountCannotBeWritten) {
  PROMISE("1.3 mount readonly");
  Pod pod;
  auto directory = directoryWithFile();
  auto ended =
      runToEnd(pod, mount(directory, "/d", readOnly), shell("cat /d/here; echo x > /d/made; echo x > /d/here"));
  EXPECT_EQ(ended.out, "content\n");
  EXPECT_FALSE(fs::exists(directory + "/made"));
  EXPECT_EQ(readFile(directory + "/here"), "content\n");
}

TEST(CreateContainer, SymlinksOfTheSourceAreFollowed) {
  PROMISE("1.3 mount symlink");
  Pod pod;
  auto directory = directoryWithFile();
  auto link = scratchDirectory() + "/link";
  fs::create_directory_symlink(directory, link);
  EXPECT_EQ(runToEnd(pod, mount(link, "/d"), shell("cat /d/here; mount | grep -c ' on /d '")).out, "content\n1\n");
}

// As CRI-O and containerd do, though the interface's text says error.
TEST(CreateContainer, MissingSourceIsMadeADirectory) {
  PROMISE("1.3 mount missing");
  Pod pod;
  auto missing = scratchDirectory() + "/a/b";
  EXPECT_EQ(runToEnd(pod, mount(missing, "/d"), shell("echo x > /d/file && echo written")).out, "written\n");
  EXPECT_TRUE(fs::is_directory(missing));
  EXPECT_EQ(readFile(missing + "/file"), "x\n");
}

TEST(CreateContainer, TargetIsMadeWhenMissing) {
  PROMISE("1.3 mount target");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, mount(directoryWithFile(), "/not/there/yet"), shell("cat /not/there/yet/here")).out,
            "content\n");
}

// A link of the image leads to what it means inside, never to the host's.
TEST(CreateContainer, TargetThroughALinkStaysInTheRoot) {
  PROMISE("1.3 mount target");
  Pod pod;
  auto ended = runToEnd(pod, ofImage("test/layers:latest"), mount(directoryWithFile() + "/here", "/links/absolute"),
                        shell("cat /data/kept"));
  EXPECT_EQ(ended.out, "content\n") << ended.err;
  EXPECT_FALSE(fs::exists("/data/kept"));
}

TEST(CreateContainer, MountsNestInAnyOrder) {
  PROMISE("1.3 mount nested");
  Pod pod;
  auto outer = scratchDirectory(), inner = directoryWithFile();
  fs::create_directory(outer + "/in");
  auto script = shell("cat /o/in/here; ls /o");
  EXPECT_EQ(runToEnd(pod, mount(outer, "/o"), mount(inner, "/o/in"), script).out, "content\nin\n");
  EXPECT_EQ(runToEnd(pod, mount(inner, "/o/in"), mount(outer, "/o"), script).out, "content\nin\n");
}

TEST(CreateContainer, SourceOfAMountMayBeMountedTwice) {
  PROMISE("1.3 mount nested");
  Pod pod;
  auto directory = directoryWithFile();
  auto ended = runToEnd(pod, mount(directory, "/a"), mount(directory, "/b", readOnly),
                        shell("echo new > /a/made; cat /b/made; touch /b/x || echo refused"));
  EXPECT_EQ(ended.out, "new\nrefused\n");
}

TEST(CreateContainer, MountCarriesWhatIsMountedBelow) {
  PROMISE("1.3 mount recursive");
  Pod pod;
  auto directory = scratchDirectory();
  HostMount below(directory + "/sub");
  writeFile(directory + "/sub/file", "below\n");
  EXPECT_EQ(runToEnd(pod, mount(directory, "/d"), shell("cat /d/sub/file")).out, "below\n");
}

TEST(CreateContainer, ReadonlyMountLeavesWhatIsBelowWritable) {
  PROMISE("1.3 mount recursive");
  Pod pod;
  auto directory = scratchDirectory();
  HostMount below(directory + "/sub");
  auto ended =
      runToEnd(pod, mount(directory, "/d", readOnly), shell("touch /d/x || echo refused; touch /d/sub/x && echo made"));
  EXPECT_EQ(ended.out, "refused\nmade\n") << ended.err;
}

TEST(CreateContainer, RecursiveReadOnlyHoldsForWhatIsBelow) {
  PROMISE("1.3 mount recursive_read_only");
  Pod pod;
  auto directory = scratchDirectory();
  HostMount below(directory + "/sub");
  auto ended =
      runToEnd(pod, mount(directory, "/d", recursively), shell("touch /d/x || echo no; touch /d/sub/x || echo no"));
  EXPECT_EQ(ended.out, "no\nno\n");
  EXPECT_TRUE(fs::is_empty(directory + "/sub"));
}

TEST(CreateContainer, RecursiveReadOnlyNeedsReadonlyAndPrivate) {
  PROMISE("1.3 mount recursive_read_only");
  Pod pod;
  auto directory = scratchDirectory();
  expectRefused(pod, {}, "recursive.?read.?only|RROUnsupported",
                mount(directory, "/d", [](v1::Mount& m) { m.set_recursive_read_only(true); }));
  expectRefused(pod, {}, "recursive.?read.?only|RROUnsupported", mount(directory, "/d", [](v1::Mount& m) {
                  recursively(m);
                  m.set_propagation(v1::PROPAGATION_HOST_TO_CONTAINER);
                }));
}

TEST(CreateContainer, PrivateMountSeesNothingOfLaterMounts) {
  PROMISE("1.3 propagation PRIVATE");
  Pod pod(privilegedPod);
  HostMount shared(scratchDirectory(), MS_SHARED);
  fs::create_directories(shared.path() + "/host");
  fs::create_directories(shared.path() + "/inside");
  Container container(pod, privileged, mount(shared.path(), "/d"));
  HostMount later(shared.path() + "/host");
  writeFile(shared.path() + "/host/file", "later\n");
  EXPECT_EQ(container.up().text("ls /d/host"), "");
  container.text("mount -t tmpfs x /d/inside");
  EXPECT_FALSE(mountedAt(shared.path() + "/inside"));
}

TEST(CreateContainer, HostToContainerMountSeesLaterMountsOfTheHost) {
  PROMISE("1.3 propagation HOST_TO_CONTAINER");
  Pod pod(privilegedPod);
  HostMount shared(scratchDirectory(), MS_SHARED);
  fs::create_directories(shared.path() + "/host");
  fs::create_directories(shared.path() + "/inside");
  Container container(pod, privileged, mount(shared.path(), "/d", propagation(v1::PROPAGATION_HOST_TO_CONTAINER)));
  container.up();
  HostMount later(shared.path() + "/host");
  writeFile(shared.path() + "/host/file", "later\n");
  EXPECT_EQ(container.text("cat /d/host/file"), "later");
  container.text("mount -t tmpfs x /d/inside");
  EXPECT_FALSE(mountedAt(shared.path() + "/inside"));
}

TEST(CreateContainer, BidirectionalMountCarriesMountsBothWays) {
  PROMISE("1.3 propagation BIDIRECTIONAL");
  Pod pod(privilegedPod);
  HostMount shared(scratchDirectory(), MS_SHARED);
  fs::create_directories(shared.path() + "/host");
  fs::create_directories(shared.path() + "/inside");
  Container container(pod, privileged, mount(shared.path(), "/d", propagation(v1::PROPAGATION_BIDIRECTIONAL)));
  container.up();
  HostMount later(shared.path() + "/host");
  writeFile(shared.path() + "/host/file", "later\n");
  EXPECT_EQ(container.text("cat /d/host/file"), "later");
  container.text("mount -t tmpfs x /d/inside && echo made > /d/inside/file");
  EXPECT_TRUE(mountedAt(shared.path() + "/inside"));
  EXPECT_EQ(readFile(shared.path() + "/inside/file"), "made\n");
}

TEST(CreateContainer, BidirectionalNeedsASharedSource) {
  PROMISE("1.3 propagation source");
  Pod pod(privilegedPod);
  HostMount alone(scratchDirectory(), MS_PRIVATE);
  expectRefused(pod, {}, "shared", privileged, mount(alone.path(), "/d", propagation(v1::PROPAGATION_BIDIRECTIONAL)));
}

TEST(CreateContainer, HostToContainerNeedsASharedOrSlaveSource) {
  PROMISE("1.3 propagation source");
  Pod pod;
  HostMount alone(scratchDirectory(), MS_PRIVATE);
  expectRefused(pod, {}, "shared|slave", mount(alone.path(), "/d", propagation(v1::PROPAGATION_HOST_TO_CONTAINER)));
}

TEST(CreateContainer, MountPathsMustBeAbsolute) {
  PROMISE("1.3 mount paths");
  Pod pod;
  auto directory = scratchDirectory();
  for (const auto* source : {"", "relative"}) expectRefused(pod, {}, "host_path", mount(source, "/d"));
  for (const auto* target : {"", "relative"}) expectRefused(pod, {}, "container_path", mount(directory, target));
}

TEST(CreateContainer, MountOverTheRootIsRefused) {
  PROMISE("1.3 mount paths");
  Pod pod;
  for (const auto* target : {"/", "//", "/."})
    expectRefused(pod, {}, "container_path", mount(scratchDirectory(), target));
}

TEST(CreateContainer, UnknownPropagationIsRefused) {
  PROMISE("1.3 mount paths");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "propagation",
                mount(scratchDirectory(), "/d", propagation(static_cast<v1::MountPropagation>(9))));
}

TEST(CreateContainer, IdmappedMountIsDoneOrRefusedByName) {
  PROMISE("1.3 mount idmap");
  Pod pod;
  auto directory = directoryWithFile();
  auto config = containerConfig(pod, shell("stat -c %u /d/here"), mount(directory, "/d", [](v1::Mount& m) {
                                  auto* mapping = m.add_uidmappings();
                                  mapping->set_host_id(100000);
                                  mapping->set_length(1000);
                                  *m.add_gidmappings() = *mapping;
                                }));
  auto answer = attempt(createRequest(pod, config));
  if (!answer.status.ok()) {
    EXPECT_NE(answer.status.error_message().find("idmap"), std::string::npos) << answer.status.error_message();
    return;
  }
  removeContainer(answer.value.container_id());
  EXPECT_EQ(runToEnd(pod, config).out, "100000\n");
}

TEST(ContainerStatus, ShowsTheMountsAsAskedFor) {
  PROMISE("1.1.14 mounts");
  Pod pod;
  HostMount shared(scratchDirectory(), MS_SHARED);
  auto plain = scratchDirectory();
  Container container(pod, mount(plain, "/a", recursively),
                      mount(shared.path(), "/b", propagation(v1::PROPAGATION_BIDIRECTIONAL)));
  std::map<std::string, v1::Mount> shown;
  auto status = container.status();
  for (const auto& one : status.mounts()) shown[one.container_path()] = one;
  ASSERT_EQ(shown.size(), 2U);
  EXPECT_EQ(shown["/a"].host_path(), plain);
  EXPECT_TRUE(shown["/a"].readonly());
  EXPECT_TRUE(shown["/a"].recursive_read_only());
  EXPECT_EQ(shown["/a"].propagation(), v1::PROPAGATION_PRIVATE);
  EXPECT_EQ(shown["/b"].host_path(), shared.path());
  EXPECT_FALSE(shown["/b"].readonly());
  EXPECT_EQ(shown["/b"].propagation(), v1::PROPAGATION_BIDIRECTIONAL);
}

}  // namespace userpod::conformance
