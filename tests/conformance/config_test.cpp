// What ContainerStatus and ListContainers tell of a configuration, and requests that are wrong.
#include <filesystem>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

v1::Container listed(const Container& container) {
  auto answer = call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_id(container.id()); }));
  if (answer.containers_size() != 1) throw std::runtime_error("the container is not in the list once");
  return answer.containers(0);
}

using Map = std::map<std::string, std::string>;
Map plain(const google::protobuf::Map<std::string, std::string>& map) {
  return {map.begin(), map.end()};
}

const Map kOdd = {{"a.b/c-d_e", "value"}, {"", "empty key"},       {"empty value", ""},
                  {"ünï", "€ \t\n\"'\\"}, {"control\x01", "\x7f"}, {"json", R"({"a": [1, 2]})"}};

// The request must fail, naming the field, and leave nothing.
void expectWrong(const Pod& pod, const std::string& field,
                 const std::function<void(v1::CreateContainerRequest&)>& edit) {
  auto request = createRequest(pod, containerConfig(pod));
  edit(request);
  expectFailure(request, {}, field);
  auto left = call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(pod.id()); }));
  EXPECT_EQ(left.containers_size(), 0);
}

}  // namespace

TEST(ContainerStatus, HasLabelsAndAnnotationsUnchanged) {
  PROMISE("1.0 labels");
  Pod pod;
  Container container(pod, [](Config& c) {
    for (const auto& [key, value] : kOdd) (*c.mutable_annotations())[key] = (*c.mutable_labels())[key] = value;
  });
  auto labels = kOdd;
  labels[kLabel] = "1";
  EXPECT_EQ(plain(container.status().annotations()), kOdd);
  EXPECT_EQ(plain(container.status().labels()), labels);
  EXPECT_EQ(plain(listed(container).annotations()), kOdd);
  EXPECT_EQ(plain(listed(container).labels()), labels);
}

TEST(ContainerStatus, HasLargeAnnotationsUnchanged) {
  PROMISE("1.0 labels");
  Pod pod;
  const std::string large(200'000, 'x');
  Container container(pod, [&](Config& c) { (*c.mutable_annotations())["large"] = large; });
  EXPECT_EQ(container.status().annotations().at("large"), large);
}

TEST(CreateContainer, LabelAbove4096BytesIsRefused) {
  PROMISE("1.0 labels");
  Pod pod;
  expectRefused(pod, {}, "label", [](Config& c) { (*c.mutable_labels())["k"] = std::string(4096, 'x'); });
  Container container(pod, [](Config& c) { (*c.mutable_labels())["k"] = std::string(4095, 'x'); });
  EXPECT_EQ(container.status().labels().at("k").size(), 4095U);
}

TEST(ContainerStatus, HasTheMetadata) {
  PROMISE("1.1.14 metadata");
  Pod pod;
  Container container(pod, [](Config& c) { c.mutable_metadata()->set_attempt(3); });
  for (const auto& metadata : {container.status().metadata(), listed(container).metadata()}) {
    EXPECT_EQ(metadata.name(), container.config().metadata().name());
    EXPECT_EQ(metadata.attempt(), 3U);
  }
  EXPECT_EQ(container.status().id(), container.id());
  EXPECT_EQ(listed(container).id(), container.id());
  EXPECT_EQ(listed(container).pod_sandbox_id(), pod.id());
}

TEST(CreateContainer, ImageMayBeNamedByTagAndTheIdIsTold) {
  PROMISE("1.1.14 image");
  Pod pod;
  busybox();
  Container container(pod, [](Config& c) { c.mutable_image()->set_image(imageName("test/busybox:1")); });
  EXPECT_EQ(container.status().image_id(), busybox());
  EXPECT_EQ(container.status().image().image(), imageName("test/busybox:1"));
}

TEST(ContainerStatus, HasTheImageTheUserNamed) {
  PROMISE("1.1.14 user_specified_image");
  Pod pod;
  Container container(pod, [](Config& c) { c.mutable_image()->set_user_specified_image("busybox:as-written"); });
  EXPECT_EQ(container.status().image().user_specified_image(), "busybox:as-written");
  EXPECT_EQ(listed(container).image().user_specified_image(), "busybox:as-written");
}

TEST(CreateContainer, StopSignalThatIsNoneIsRefused) {
  PROMISE("1.1.10 signal");
  Pod pod;
  expectRefused(pod, {}, "stop_signal", [](Config& c) { c.set_stop_signal(static_cast<v1::Signal>(999)); });
}

TEST(ContainerStatus, LogPathIsAbsolute) {
  PROMISE("1.1.14 log_path");
  Pod pod;
  auto nested = [&](Config& c) {
    std::filesystem::create_directories(pod.config().log_directory() + "/main");
    c.set_log_path("main/0.log");
  };
  auto container = Container::created(pod, nested);
  EXPECT_EQ(container.status().log_path(), pod.config().log_directory() + "/main/0.log");
}

TEST(ContainerStatus, VerboseInfoIsForReadersOfCrictl) {
  PROMISE("1.1.14 info");
  Pod pod;
  Container container(pod, variable("IN_SPEC", "1"));
  auto info = container.up().info();
  EXPECT_EQ(info.value("sandboxID", ""), pod.id());
  EXPECT_GT(info.value("pid", 0), 0);
  auto process = info["runtimeSpec"]["process"];
  ASSERT_TRUE(process["args"].is_array());
  EXPECT_EQ(process["args"][0], "/bin/sh");
  EXPECT_NE(std::find(process["env"].begin(), process["env"].end(), "IN_SPEC=1"), process["env"].end());
  EXPECT_NE(readFile("/proc/" + std::to_string(container.pid()) + "/cmdline").find("sleep 3600"), std::string::npos);
}

// ---- Requests that are wrong

TEST(CreateContainer, NameThatIsNoneIsRefused) {
  PROMISE("1.0 names");
  Pod pod;
  for (auto name : {std::string("a/b"), std::string("../x"), std::string(1000, 'n'), std::string("a\nb")})
    expectWrong(pod, "name", [&](auto& r) { r.mutable_config()->mutable_metadata()->set_name(name); });
}

TEST(CreateContainer, UnknownPidModeIsRefused) {
  PROMISE("1.3 pid wrong");
  Pod pod;
  expectWrong(pod, "pid", [](auto& r) {
    securityOf(*r.mutable_config())->mutable_namespace_options()->set_pid(static_cast<v1::NamespaceMode>(17));
  });
}

TEST(CreateContainer, NulInAWordIsRefused) {
  PROMISE("1.3 words");
  Pod pod;
  const std::string bad("a\0b", 3);
  expectWrong(pod, "command", [&](auto& r) { r.mutable_config()->add_command(bad); });
  expectWrong(pod, "args", [&](auto& r) { r.mutable_config()->add_args(bad); });
  expectWrong(pod, "envs", [&](auto& r) {
    auto* added = r.mutable_config()->add_envs();
    added->set_key("A");
    added->set_value(bad);
  });
}

}  // namespace userpod::conformance
