// ImageService: lists, status, pulls with credentials, and removal. test/tags-X is one image with three tags, and
// test/twin-X the same in another repository; each X is of one test here.
#include <thread>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

// Pulled anew; removed at the end, whatever the test did with it.
class Pulled {
 public:
  explicit Pulled(const std::string& name) : id_(pull(name)) {}
  Pulled(const Pulled&) = delete;
  Pulled& operator=(const Pulled&) = delete;
  ~Pulled() { (void)attempt(removal(id_)); }
  const std::string& id() const { return id_; }

  static std::string pull(const std::string& name) {
    return call(with<v1::PullImageRequest>([&](auto& r) { r.mutable_image()->set_image(imageName(name)); }))
        .image_ref();
  }
  static v1::RemoveImageRequest removal(const std::string& reference) {
    return with<v1::RemoveImageRequest>([&](auto& r) { r.mutable_image()->set_image(reference); });
  }

 private:
  const std::string id_;
};

v1::ImageStatusResponse imageStatus(const std::string& name) {
  return call(with<v1::ImageStatusRequest>([&](auto& r) { r.mutable_image()->set_image(name); }));
}

// Those of that id in the list: at most one.
std::vector<v1::Image> listed(const std::string& id) {
  std::vector<v1::Image> found;
  auto list = call(v1::ListImagesRequest());
  for (const auto& one : list.images())
    if (one.id() == id) found.push_back(one);
  return found;
}

std::set<std::string> tagsOf(const v1::Image& image) {
  return {image.repo_tags().begin(), image.repo_tags().end()};
}

std::string hexOf(const std::string& id) {
  return id.substr(id.find(':') + 1);
}

v1::PullImageRequest privatePull(const std::function<void(v1::AuthConfig&)>& edit) {
  return with<v1::PullImageRequest>([&](auto& r) {
    r.mutable_image()->set_image(options().tokenRegistry + "/private/test/tags-h:1");
    edit(*r.mutable_auth());
  });
}

}  // namespace

// ---- ListImages, StreamImages

TEST(ListImages, HasWhatWasPulled) {
  PROMISE("1.1.36 list");
  std::set<std::string> ids;
  auto all = call(v1::ListImagesRequest());
  for (const auto& one : all.images()) EXPECT_TRUE(ids.insert(one.id()).second) << one.id();
  EXPECT_EQ(ids.count(busybox()), 1U);
}

TEST(ListImages, HasAllNamesOfAnImageInOneEntry) {
  PROMISE("1.1.36 names");
  Pulled image("test/tags-a:1");
  EXPECT_EQ(Pulled::pull("test/tags-a:2"), image.id());
  EXPECT_EQ(Pulled::pull("test/twin-a:1"), image.id());
  auto entries = listed(image.id());
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(tagsOf(entries[0]), (std::set<std::string>{imageName("test/tags-a:1"), imageName("test/tags-a:2"),
                                                       imageName("test/twin-a:1")}));
  std::set<std::string> repositories;
  for (const auto& digest : entries[0].repo_digests()) {
    EXPECT_THAT(digest, testing::MatchesRegex(".*@sha256:[0-9a-f]+"));
    repositories.insert(digest.substr(0, digest.find('@')));
  }
  EXPECT_EQ(repositories, (std::set<std::string>{imageName("test/tags-a"), imageName("test/twin-a")}));
  EXPECT_GT(entries[0].size(), 0U);
}

TEST(ListImages, SaysWhoAnImageRunsAs) {
  PROMISE("1.1.36 user");
  auto numeric = imageStatus(image("test/user-numeric:latest")).image();
  EXPECT_EQ(numeric.uid().value(), 1234);
  EXPECT_EQ(numeric.username(), "");
  auto named = imageStatus(image("test/user:latest")).image();
  EXPECT_FALSE(named.has_uid());
  EXPECT_EQ(named.username(), "app");
  auto neither = imageStatus(busybox()).image();
  EXPECT_EQ(neither.username(), "");
  EXPECT_EQ(neither.uid().value(), 0);
}

TEST(ListImages, FollowsPullsAndRemovalsAtOnce) {
  PROMISE("1.1.36 at once");
  for (int round = 0; round < 5; ++round) {
    Pulled image("test/tags-b:1");
    EXPECT_EQ(listed(image.id()).size(), 1U);
    call(Pulled::removal(image.id()));
    EXPECT_EQ(listed(image.id()).size(), 0U);
  }
}

TEST(ListImages, FilterLooksOneUp) {
  PROMISE("1.1.36 filter");
  auto found = [](const std::string& name) {
    return call(with<v1::ListImagesRequest>([&](auto& r) { r.mutable_filter()->mutable_image()->set_image(name); }));
  };
  auto one = found(imageName("test/busybox:1"));
  ASSERT_EQ(one.images_size(), 1);
  EXPECT_EQ(one.images(0).id(), busybox());
  EXPECT_EQ(found(imageName("test/none:1")).images_size(), 0);
}

TEST(StreamImages, HasWhatTheListHas) {
  PROMISE("1.1.37 stream");
  auto parts = attempt(v1::StreamImagesRequest());
  if (parts.status.error_code() == StatusCode::UNIMPLEMENTED) GTEST_SKIP() << "this runtime has no streams";
  ASSERT_TRUE(parts.status.ok()) << parts.status.error_message();
  std::set<std::string> ids;
  for (const auto& part : parts.value) {
    EXPECT_GT(part.images_size(), 0);
    for (const auto& one : part.images()) EXPECT_TRUE(ids.insert(one.id()).second) << one.id();
  }
  EXPECT_EQ(ids.count(busybox()), 1U);
}

// ---- ImageStatus

TEST(ImageStatus, MissingIsNoErrorAndNoImage) {
  PROMISE("1.1.38 missing");
  for (const auto& name : {imageName("test/none:1"), imageName("test/busybox:none"),
                           imageName("test/none@sha256:" + std::string(64, '0'))})
    EXPECT_FALSE(imageStatus(name).has_image()) << name;
}

TEST(ImageStatus, DigitsOfNoImageAreNoError) {
  PROMISE("1.1.38 digits");
  for (const auto& name : {std::string("abcdef123456"), std::string("f00"), std::string(64, '0'),
                           "sha256:" + std::string(64, '0'), std::string(63, 'e'), std::string(65, 'e')})
    EXPECT_FALSE(imageStatus(name).has_image()) << name;
}

TEST(ImageStatus, IsFoundByEachOfItsNames) {
  PROMISE("1.1.38 names");
  Pulled image("test/tags-c:latest");
  auto found = imageStatus(image.id()).image();
  EXPECT_EQ(found.id(), image.id());
  ASSERT_EQ(found.repo_digests_size(), 1);
  const auto& digest = found.repo_digests(0);
  const auto hex = hexOf(image.id()), name = imageName("test/tags-c");
  for (const auto& reference :
       {name + ":latest", name, hex, hex.substr(0, 13), digest, name + ":latest" + digest.substr(digest.find('@'))})
    EXPECT_EQ(imageStatus(reference).image().id(), image.id()) << reference;
  EXPECT_FALSE(imageStatus(name + ":1").has_image()) << "a tag that was not pulled";
}

TEST(ImageStatus, HasTheAnnotationsOfTheManifest) {
  PROMISE("1.1.38 annotations");
  Pulled image("test/tags-g:latest");
  auto found = imageStatus(image.id()).image();
  ASSERT_TRUE(found.has_spec());
  EXPECT_EQ(found.spec().annotations().count("org.example.note"), 1U);
  EXPECT_EQ(found.spec().annotations().at("org.example.note"), "g");
}

TEST(ImageStatus, InfoOnlyWhenVerbose) {
  PROMISE("1.1.38 info");
  const auto id = image("test/config:latest");
  EXPECT_TRUE(imageStatus(id).info().empty());
  auto verbose = call(with<v1::ImageStatusRequest>([&](auto& r) {
    r.mutable_image()->set_image(id);
    r.set_verbose(true);
  }));
  ASSERT_EQ(verbose.info().count("info"), 1U);
  auto info = nlohmann::json::parse(verbose.info().at("info"));
  EXPECT_EQ(info["labels"]["org.example.label"], "value");
  EXPECT_EQ(info["imageSpec"]["config"]["StopSignal"], "SIGUSR1");
}

// ---- PullImage

TEST(PullImage, GivesTheIdAgain) {
  PROMISE("1.1.39 id");
  EXPECT_EQ(Pulled::pull("test/busybox:1"), busybox());
  EXPECT_EQ(imageStatus(imageName("test/busybox:1")).image().id(), busybox());
}

TEST(PullImage, SameImageOfTwoRepositoriesHasOneId) {
  PROMISE("1.1.39 id");
  Pulled image("test/tags-d:1");
  EXPECT_EQ(Pulled::pull("test/twin-d:1"), image.id());
  Pod pod;
  auto container = Container::created(pod, [&](auto& c) {
    c.mutable_image()->set_image(imageName("test/twin-d:1"));
    c.clear_args();
    c.clear_command();
    c.add_command("/tags");
  });
  auto status = call(ofContainer<v1::ContainerStatusRequest>(container.id())).status();
  EXPECT_EQ(status.image_ref(), image.id());
}

TEST(PullImage, ManyAtOnceAreOneImage) {
  PROMISE("1.1.39 at once");
  auto ids = atOnce(8, [] { return Pulled::pull("test/tags-e:1"); });
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 1U);
  EXPECT_EQ(listed(ids[0]).size(), 1U);
  call(Pulled::removal(ids[0]));
}

TEST(PullImage, UnknownIsAnErrorThatNamesIt) {
  PROMISE("1.1.39 unknown");
  expectFailure(with<v1::PullImageRequest>([](auto& r) { r.mutable_image()->set_image(imageName("test/none:1")); }), {},
                "test/none");
  expectFailure(v1::PullImageRequest());
}

TEST(PullImage, TakesWhatItNeedNotUse) {
  PROMISE("1.1.39 spec");
  auto pulled = call(with<v1::PullImageRequest>([](auto& r) {
    r.mutable_image()->set_image(imageName("test/busybox:1"));
    (*r.mutable_image()->mutable_annotations())["org.example/any"] = "value";
    r.mutable_image()->set_user_specified_image("busybox");
    *r.mutable_sandbox_config() = podConfig([](auto& c) { c.mutable_metadata()->set_namespace_("another"); });
  }));
  EXPECT_EQ(pulled.image_ref(), busybox());
}

TEST(PullImage, WithCredentialsOfEachForm) {
  PROMISE("1.1.39 auth");
  if (options().tokenRegistry.empty()) GTEST_SKIP() << "--token-registry is not given";
  auto works = [](const std::function<void(v1::AuthConfig&)>& edit) {
    auto id = call(privatePull(edit)).image_ref();
    call(Pulled::removal(id));
  };
  works([](auto& a) { a.set_username("test"), a.set_password("secret"); });
  works([](auto& a) { a.set_auth("dGVzdDpzZWNyZXQ="); });
  works([](auto& a) { a.set_auth("dGVzdDpzZWNyZXQ="), a.set_username("test"), a.set_password("secret"); });
  works([](auto& a) {
    a.set_username("test"), a.set_password("secret");
    a.set_server_address("http://" + options().tokenRegistry + "/v2/");
  });
}

TEST(PullImage, WithoutTheRightCredentialsIsAnError) {
  PROMISE("1.1.39 auth");
  if (options().tokenRegistry.empty()) GTEST_SKIP() << "--token-registry is not given";
  expectFailure(privatePull([](auto&) {}));
  expectFailure(privatePull([](auto& a) { a.set_username("test"), a.set_password("wrong"); }));
}

TEST(PullImage, CredentialsOfAnotherServerAreNotShown) {
  PROMISE("1.1.39 server");
  if (options().tokenRegistry.empty()) GTEST_SKIP() << "--token-registry is not given";
  expectFailure(privatePull([](auto& a) {
    a.set_username("test"), a.set_password("secret");
    a.set_server_address("https://registry.example/");
  }));
}

TEST(PullImage, CredentialsThatContradictAreRefusedByTheFieldsName) {
  PROMISE("1.1.39 contradiction");
  auto refused = [](const std::string& field, const std::function<void(v1::AuthConfig&)>& edit) {
    auto request = with<v1::PullImageRequest>([&](auto& r) {
      r.mutable_image()->set_image(imageName("test/busybox:1"));
      edit(*r.mutable_auth());
    });
    auto answer = attempt(request);
    EXPECT_EQ(answer.status.error_code(), StatusCode::INVALID_ARGUMENT) << answer.status.error_message();
    EXPECT_THAT(answer.status.error_message(), testing::HasSubstr(field));
    EXPECT_THAT(answer.status.error_message(), testing::Not(testing::HasSubstr("hunter2"))) << "a secret";
  };
  refused("auth.auth", [](auto& a) { a.set_auth("hunter2"); });
  refused("auth.auth", [](auto& a) { a.set_auth("dGVzdDpzZWNyZXQ="), a.set_username("hunter2"); });
  refused("auth.username", [](auto& a) { a.set_password("hunter2"); });
  refused("auth.identity_token",
          [](auto& a) { a.set_username("u"), a.set_password("hunter2"), a.set_identity_token("hunter2"); });
  refused("auth.registry_token", [](auto& a) { a.set_identity_token("hunter2"), a.set_registry_token("hunter2"); });
  refused("auth.server_address", [](auto& a) { a.set_server_address("hunter2 hunter2"); });
}

// ---- RemoveImage

TEST(RemoveImage, InUseIsAnError) {
  PROMISE("1.1.40 in use");
  Pod pod;
  const auto& used = image("test/busybox:2");  // of no other test: a runtime may remove it after all
  auto container = Container::created(pod, [&](auto& c) { c.mutable_image()->set_image(used); });
  expectFailure(Pulled::removal(used));
  EXPECT_TRUE(imageStatus(used).has_image());
  container.start();
}

TEST(RemoveImage, UnknownIsFine) {
  PROMISE("1.1.40 idempotent");
  call(Pulled::removal(imageName("test/none:1")));
  call(Pulled::removal(std::string(64, '0')));
  expectFailure(Pulled::removal(""));
}

TEST(RemoveImage, ByOneTagRemovesTheImageWithAll) {
  PROMISE("1.1.40 tags");
  Pulled image("test/tags-f:1");
  for (const auto* name : {"test/tags-f:2", "test/tags-f:latest", "test/twin-f:1"}) Pulled::pull(name);
  call(Pulled::removal(imageName("test/tags-f:2")));
  EXPECT_EQ(listed(image.id()).size(), 0U);
  for (const auto& name : {image.id(), imageName("test/tags-f:1"), imageName("test/twin-f:1")})
    EXPECT_FALSE(imageStatus(name).has_image()) << name;
  call(Pulled::removal(imageName("test/tags-f:2")));
}

TEST(RemoveImage, FiveAtOnceAllSucceedAndItIsGoneAfterEach) {
  PROMISE("1.1.40 at once");
  for (int round = 0; round < 5; ++round) {
    Pulled image("test/tags-i:1");
    auto seen = atOnce(5, [&]() -> int {
      call(Pulled::removal(image.id()));
      return (imageStatus(image.id()).has_image() ? 1 : 0) + static_cast<int>(listed(image.id()).size());
    });
    EXPECT_EQ(seen, std::vector<int>(5, 0));
  }
}

}  // namespace userpod::conformance
