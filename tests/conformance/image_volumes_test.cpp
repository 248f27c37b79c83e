// CreateContainer: mounts of images.
#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

// test/layers: /data/kept "second", /links with absolute and relative symlinks to it, /owned 1000:2000.
constexpr const char* kImage = "test/layers:latest";

Edit imageMount(const std::string& name, const std::string& target, const std::string& subPath = "") {
  return [=](Config& c) {
    auto* added = c.add_mounts();
    added->mutable_image()->set_image(image(name));
    added->set_container_path(target);
    added->set_image_sub_path(subPath);
    added->set_readonly(true);
  };
}

}  // namespace

TEST(CreateContainer, ImageVolumeShowsTheImage) {
  PROMISE("1.3 image volume");
  Pod pod;
  auto ended =
      runToEnd(pod, imageMount(kImage, "/volume"),
               shell("cat /volume/data/kept /volume/again; echo; stat -c %u:%g:%a /volume/owned; ls /volume/data"));
  EXPECT_EQ(ended.out, "second\nfourth\n1000:2000:600\nkept\nuntouched\n") << ended.err;
}

TEST(CreateContainer, ImageVolumeByName) {
  PROMISE("1.3 image volume");
  Pod pod;
  image(kImage);
  auto ended = runToEnd(pod, imageMount(kImage, "/volume"), shell("cat /volume/data/kept"),
                        [](Config& c) { c.mutable_mounts(0)->mutable_image()->set_image(imageName(kImage)); });
  EXPECT_EQ(ended.out, "second\n");
}

TEST(CreateContainer, ImageVolumeCannotBeWritten) {
  PROMISE("1.3 image volume readonly");
  Pod pod;
  auto script =
      shell("touch /volume/new || echo no; echo x > /volume/data/kept || echo no; rm /volume/again || echo no");
  EXPECT_EQ(runToEnd(pod, imageMount(kImage, "/volume"), script).out, "no\nno\nno\n");
}

TEST(CreateContainer, ImageVolumeThatIsNotReadonlyIsRefused) {
  PROMISE("1.3 image volume readonly");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "readonly", imageMount(kImage, "/volume"),
                [](Config& c) { c.mutable_mounts(0)->set_readonly(false); });
}

TEST(CreateContainer, ImageVolumeOfTheContainersOwnImage) {
  PROMISE("1.3 image volume");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, imageMount("test/busybox:1", "/volume"), shell("echo x > /etc/new; ls /volume/etc")).out,
            "group\npasswd\n");
}

TEST(CreateContainer, ImageVolumeWithSubPath) {
  PROMISE("1.3 image volume sub-path");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, imageMount(kImage, "/volume", "data"), shell("ls /volume; cat /volume/kept")).out,
            "kept\nuntouched\nsecond\n");
  EXPECT_EQ(runToEnd(pod, imageMount(kImage, "/volume", "implied/./parents"), shell("ls /volume")).out, "file\n");
}

TEST(CreateContainer, ImageVolumeSubPathThatIsMissingIsRefused) {
  PROMISE("1.3 image volume sub-path");
  Pod pod;
  expectRefused(pod, {}, "^ImageVolumeMountFailed.*no-such", imageMount(kImage, "/volume", "data/no-such"));
}

TEST(CreateContainer, ImageVolumeSubPathMayNotClimb) {
  PROMISE("1.3 image volume sub-path");
  Pod pod;
  for (const auto* path : {"..", "data/../..", "/data", "../../../etc"})
    expectRefused(pod, {}, "image_sub_path|ImageVolumeMountFailed", imageMount(kImage, "/volume", path));
}

// /links/absolute leads to /data/kept: the image's or nothing, never the host's.
TEST(CreateContainer, ImageVolumeSubPathThroughALinkStaysInTheImage) {
  PROMISE("1.3 image volume sub-path");
  Pod pod;
  for (const auto* path : {"links/absolute", "links/relative"}) {
    auto config = containerConfig(pod, imageMount(kImage, "/volume", path), shell("cat /volume"));
    auto answer = attempt(createRequest(pod, config));
    if (!answer.status.ok()) {
      EXPECT_EQ(answer.status.error_message().rfind("ImageVolumeMountFailed", 0), 0U) << answer.status.error_message();
      continue;
    }
    removeContainer(answer.value.container_id());
    EXPECT_EQ(runToEnd(pod, config).out, "second\n");
  }
  expectRefused(pod, {}, "^ImageVolumeMountFailed", imageMount(kImage, "/volume", "links/dangling"));
}

TEST(CreateContainer, ImageVolumeOfAMissingImageIsRefusedByItsWord) {
  PROMISE("1.3 image volume missing");
  Pod pod;
  expectRefused(pod, {}, "^ImageVolumeMountFailed.*test/not-pulled", imageMount(kImage, "/volume"), [](Config& c) {
    c.mutable_mounts(0)->mutable_image()->set_image(imageName("test/not-pulled:latest"));
  });
}

TEST(CreateContainer, ImageVolumeTogetherWithAHostPathIsRefused) {
  PROMISE("1.3 image volume alone");
  Pod pod;
  expectRefused(pod, {}, "host_path", imageMount(kImage, "/volume"),
                [](Config& c) { c.mutable_mounts(0)->set_host_path(scratchDirectory()); });
  expectRefused(pod, {}, "image_sub_path",
                mount(scratchDirectory(), "/d", [](v1::Mount& m) { m.set_image_sub_path("a"); }));
}

TEST(RemoveImage, OfAMountedVolumeIsRefusedOrTheVolumeStays) {
  PROMISE("1.3 image volume used");
  Pod pod;
  Container container(pod, imageMount(kImage, "/volume"));
  container.up();
  attempt(with<v1::RemoveImageRequest>([](auto& r) { r.mutable_image()->set_image(image(kImage)); }));
  EXPECT_EQ(container.text("cat /volume/data/kept"), "second");
  call(with<v1::PullImageRequest>([](auto& r) { r.mutable_image()->set_image(imageName(kImage)); }));
}

TEST(ContainerStatus, ShowsTheImageOfAVolume) {
  PROMISE("1.1.14 mounts image_ref");
  Pod pod;
  image(kImage);
  Container container(pod, imageMount(kImage, "/volume", "data"),
                      [](Config& c) { c.mutable_mounts(0)->mutable_image()->set_image(imageName(kImage)); });
  auto status = container.status();
  ASSERT_EQ(status.mounts_size(), 1);
  EXPECT_EQ(status.mounts(0).image().image(), imageName(kImage));
  EXPECT_EQ(status.mounts(0).image().image_ref(), image(kImage));
  EXPECT_EQ(status.mounts(0).image_sub_path(), "data");
  EXPECT_TRUE(status.mounts(0).readonly());
  EXPECT_EQ(status.mounts(0).host_path(), "");
}

}  // namespace userpod::conformance
