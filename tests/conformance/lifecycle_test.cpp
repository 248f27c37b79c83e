// A container's states, from CreateContainer to RemoveContainer.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

namespace fs = std::filesystem;

std::int64_t now() {
  return std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// The containers of a pod.
std::set<std::string> containersOf(const Pod& pod) {
  std::set<std::string> ids;
  auto listed =
      call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(pod.id()); }));
  for (const auto& container : listed.containers()) ids.insert(container.id());
  return ids;
}

}  // namespace

// ---- CreateContainer

TEST(CreateContainer, DoesNotRunYet) {
  PROMISE("1.1.8 created");
  Pod pod;
  auto begin = now();
  auto container = Container::created(pod, shell("echo ran"));
  auto status = container.status();
  EXPECT_EQ(status.state(), v1::CONTAINER_CREATED);
  EXPECT_GE(status.created_at(), begin - 1'000'000'000);
  EXPECT_LE(status.created_at(), now());
  EXPECT_EQ(status.started_at(), 0);
  EXPECT_EQ(status.finished_at(), 0);
  EXPECT_EQ(status.exit_code(), 0);
  EXPECT_EQ(status.reason(), "");
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(container.state(), v1::CONTAINER_CREATED);
  EXPECT_EQ(container.out(), "");
}

TEST(CreateContainer, SameMetadataAgainIsTheSameContainer) {
  PROMISE("1.0 duplicates");
  Pod pod;
  auto container = Container::created(pod);
  EXPECT_EQ(createContainer(pod, container.config()), container.id());
  container.start();
  EXPECT_EQ(createContainer(pod, container.config()), container.id());
  EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING);
}

TEST(CreateContainer, SameMetadataAtOnceIsOneContainer) {
  PROMISE("1.0 duplicates");
  Pod pod;
  auto config = containerConfig(pod);
  auto ids = atOnce(8, [&] { return createContainer(pod, config); });
  EXPECT_THAT(ids, testing::Each(ids[0]));
  EXPECT_EQ(containersOf(pod).size(), 1U);
}

TEST(CreateContainer, RetryFindsWhatALostClientMade) {
  PROMISE("1.1.8 retry");
  Pod pod;
  auto config = containerConfig(pod);
  for (int patient = 1; patient <= 40; patient += 5) attempt(createRequest(pod, config), milliseconds(patient));
  Container container(pod, config, Start::Yes);
  EXPECT_EQ(containersOf(pod), std::set<std::string>{container.id()});
  EXPECT_EQ(container.up().out(), "up\n");
}

TEST(CreateContainer, AnotherAttemptOrPodIsAnotherContainer) {
  PROMISE("1.0 attempts");
  Pod pod, other;
  auto first = Container::created(pod);
  auto config = first.config();
  config.mutable_metadata()->set_attempt(3);
  Container second(pod, config, Start::No);
  EXPECT_NE(second.id(), first.id());
  EXPECT_EQ(second.status().metadata().attempt(), 3U);
  EXPECT_EQ(second.status().metadata().name(), first.config().metadata().name());
  Container elsewhere(other, first.config(), Start::No);
  EXPECT_NE(elsewhere.id(), first.id());
}

TEST(CreateContainer, MissingPartsAreRefused) {
  PROMISE("1.1.8 missing");
  Pod pod;
  auto good = createRequest(pod, containerConfig(pod));
  auto without = [&](auto edit) {
    auto request = good;
    edit(request);
    return request;
  };
  expectFailure(without([](auto& r) { r.clear_config(); }), {}, "config");
  expectFailure(without([](auto& r) { r.clear_sandbox_config(); }), {}, "sandbox.?config");
  expectFailure(without([](auto& r) { r.mutable_sandbox_config()->clear_metadata(); }), {}, "metadata");
  expectFailure(without([](auto& r) { r.mutable_config()->clear_image(); }), {}, "image");
  expectFailure(without([](auto& r) { r.mutable_config()->mutable_image()->clear_image(); }), {}, "image");
  expectFailure(without([](auto& r) { r.mutable_config()->clear_metadata(); }), {}, "metadata");
  expectFailure(without([](auto& r) { r.mutable_config()->mutable_metadata()->clear_name(); }), {}, "name");
  expectFailure(without([](auto& r) { r.clear_pod_sandbox_id(); }));
  EXPECT_EQ(containersOf(pod).size(), 0U);
}

TEST(CreateContainer, NeedsAPod) {
  PROMISE("1.1.8 pod");
  Pod pod;
  auto request = createRequest(pod, containerConfig(pod));
  request.set_pod_sandbox_id(kUnknown);
  expectFailure(request, {StatusCode::NOT_FOUND});
}

TEST(CreateContainer, NeedsAnImageThatIsHere) {
  PROMISE("1.1.8 image");
  Pod pod;
  auto name = imageName("test/not-pulled:1");
  expectFailure(createRequest(pod, containerConfig(pod, [&](auto& c) { c.mutable_image()->set_image(name); })), {},
                "not-pulled");
  EXPECT_EQ(containersOf(pod).size(), 0U);
}

TEST(CreateContainer, FailureLeavesNothing) {
  PROMISE("1.1.8 failure");
  Pod pod;
  Container other(pod);
  auto groups = fs::path(cgroupOf(other.pid())).parent_path();
  auto entries = [&] { return std::distance(fs::directory_iterator(groups), fs::directory_iterator()); };
  auto before = entries();
  auto config = containerConfig(pod, command({"/no/such/program"}));
  auto created = attempt(createRequest(pod, config));
  if (created.status.ok()) {
    removeContainer(created.value.container_id());
    GTEST_SKIP() << "this runtime sees at the start only that there is no such program";
  }
  EXPECT_THAT(created.status.error_message(), testing::HasSubstr("/no/such/program"));
  EXPECT_EQ(containersOf(pod), std::set<std::string>{other.id()});
  EXPECT_FALSE(fs::exists(pod.config().log_directory() + "/" + config.log_path()));
  EXPECT_EQ(entries(), before);
  shell("echo again")(config);
  EXPECT_EQ(runToEnd(pod, config).out, "again\n");
}

// ---- StartContainer

TEST(StartContainer, Runs) {
  PROMISE("1.1.9 start");
  Pod pod;
  auto container = Container::created(pod);
  auto begin = now();
  container.start();
  auto status = container.status();
  EXPECT_EQ(status.state(), v1::CONTAINER_RUNNING);
  EXPECT_GE(status.started_at(), begin - 1'000'000'000);
  EXPECT_GE(status.started_at(), status.created_at());
  EXPECT_LE(status.started_at(), now());
  EXPECT_EQ(status.finished_at(), 0);
  container.up();
}

TEST(StartContainer, OnlyOnce) {
  PROMISE("1.1.9 only created");
  Pod pod;
  Container running(pod);
  expectFailure(ofContainer<v1::StartContainerRequest>(running.id()));
  EXPECT_EQ(running.state(), v1::CONTAINER_RUNNING);
  Container over(pod, shell("exit 0"));
  over.ended();
  expectFailure(ofContainer<v1::StartContainerRequest>(over.id()));
  EXPECT_EQ(over.state(), v1::CONTAINER_EXITED);
}

TEST(StartContainer, AtOnceRunsItOnce) {
  PROMISE("1.1.9 only created");
  Pod pod;
  auto container = Container::created(pod);
  auto results = atOnce(6, [&] { return attempt(ofContainer<v1::StartContainerRequest>(container.id())).status.ok(); });
  EXPECT_EQ(std::count(results.begin(), results.end(), true), 1);
  EXPECT_EQ(container.up().out(), "up\n");
}

TEST(StartContainer, UnknownIsNotFound) {
  PROMISE("1.1.9 unknown");
  expectFailure(ofContainer<v1::StartContainerRequest>(kUnknown), {StatusCode::NOT_FOUND});
}

TEST(StartContainer, EmptyIdIsAnError) {
  PROMISE("1.0 empty id");
  expectFailure(v1::StartContainerRequest());
  expectFailure(v1::StopContainerRequest());
  expectFailure(v1::RemoveContainerRequest());
  expectFailure(v1::ContainerStatusRequest());
  expectFailure(v1::ReopenContainerLogRequest());
  expectFailure(v1::UpdateContainerResourcesRequest());
  expectFailure(with<v1::ExecSyncRequest>([](auto& r) { r.add_cmd("true"); }));
}

TEST(StartContainer, FailureIsAnEndWithItsReason) {
  PROMISE("1.1.9 failure");
  Pod pod;
  // What waits in the created container is gone: there is nothing that could be started.
  auto container = Container::created(pod);
  auto pid = container.pid();
  killProcess(pid);
  waitUntil([&] { return kill(pid, 0) != 0; }, "the end of the process");
  expectFailure(ofContainer<v1::StartContainerRequest>(container.id()));
  auto status = container.ended();
  EXPECT_NE(status.exit_code(), 0);
  EXPECT_NE(status.reason(), "");
  EXPECT_GT(status.finished_at(), 0);
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
}

TEST(StartContainer, ProgramThatCannotRunIsAnEndWithItsReason) {
  PROMISE("1.1.9 failure");
  auto directory = scratchDirectory();
  writeFile(directory + "/program", "#!/no/such/interpreter\n");
  chmod((directory + "/program").c_str(), 0755);
  Pod pod;
  auto container = Container::created(pod, command({"/mnt/program"}), [&](auto& c) {
    auto* mount = c.add_mounts();
    mount->set_container_path("/mnt");
    mount->set_host_path(directory);
  });
  attempt(ofContainer<v1::StartContainerRequest>(container.id()));
  auto status = container.ended();
  EXPECT_NE(status.exit_code(), 0);
  EXPECT_NE(status.reason(), "");
  EXPECT_NE(status.reason(), "Completed");
}

// ---- Ends

TEST(ContainerStatus, EndHasCodeReasonAndTimes) {
  PROMISE("1.1.14 end");
  Pod pod;
  for (int code : {0, 1, 7, 255}) {
    auto status = runToEnd(pod, shell("exit " + std::to_string(code))).status;
    EXPECT_EQ(status.exit_code(), code);
    EXPECT_EQ(status.reason(), code == 0 ? "Completed" : "Error");
    EXPECT_GE(status.started_at(), status.created_at());
    EXPECT_GE(status.finished_at(), status.started_at());
    EXPECT_LE(status.finished_at(), now());
  }
}

TEST(ContainerStatus, EndBySignalIs128AndTheSignal) {
  PROMISE("1.1.14 end");
  Pod pod;
  Container container(pod, shell("echo up; exec sleep 3600"));
  container.up();
  killProcess(container.pid());
  auto status = container.ended();
  EXPECT_EQ(status.exit_code(), 137);
  EXPECT_EQ(status.reason(), "Error");
}

TEST(ContainerStatus, TimeOfTheEndIsThatOfTheEnd) {
  PROMISE("1.1.14 end");
  Pod pod;
  auto status = runToEnd(pod, shell("sleep 1")).status;
  EXPECT_GE(status.finished_at() - status.started_at(), 900'000'000);
  EXPECT_LE(status.finished_at() - status.started_at(), patience(milliseconds(2500)) / std::chrono::nanoseconds(1));
}

TEST(ContainerStatus, LostMonitorIsAnEndWithItsReason) {
  PROMISE("1.5 lost");
  Pod pod;
  Container container(pod);
  auto pid = container.up().pid();
  killProcess(parentOf(pid));
  waitUntil([&] { return container.state() != v1::CONTAINER_RUNNING; }, "another state");
  auto status = container.status();
  EXPECT_THAT(status.state(), testing::AnyOf(v1::CONTAINER_EXITED, v1::CONTAINER_UNKNOWN));
  EXPECT_NE(status.exit_code(), 0);
  EXPECT_NE(status.reason(), "");
  waitUntil([&] { return kill(pid, 0) != 0; }, "the end of the process");
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
}

TEST(ContainerStatus, UnknownIsNotFound) {
  PROMISE("1.1.14 unknown");
  expectFailure(ofContainer<v1::ContainerStatusRequest>(kUnknown), {StatusCode::NOT_FOUND});
}

TEST(ContainerStatus, InfoOnlyWhenVerbose) {
  PROMISE("1.1.14 info");
  Pod pod;
  Container container(pod);
  EXPECT_EQ(call(ofContainer<v1::ContainerStatusRequest>(container.id())).info_size(), 0);
  EXPECT_TRUE(container.info().is_object());
}

TEST(ContainerStatus, ImageIsThatOfPullImage) {
  PROMISE("1.1.14 image");
  Pod pod;
  auto container = Container::created(
      pod, [](auto& c) { c.mutable_image()->set_user_specified_image(imageName("test/busybox:1")); });
  auto status = container.status();
  EXPECT_EQ(status.image_id(), busybox());
  EXPECT_NE(status.image_ref(), "");
  EXPECT_NE(status.image().image(), "");
  auto listed = call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_id(container.id()); }));
  ASSERT_EQ(listed.containers_size(), 1);
  EXPECT_EQ(listed.containers(0).image_id(), busybox());
  EXPECT_EQ(listed.containers(0).image_ref(), status.image_ref());
}

TEST(ContainerStatus, IsEqualInTheList) {
  PROMISE("1.1.12 as status");
  Pod pod;
  auto container = Container::created(pod, [](auto& c) {
    (*c.mutable_labels())["a/b"] = "";
    (*c.mutable_annotations())["note"] = "lines\nand \"ünï\"\t\\";
    (*c.mutable_annotations())["large"] = std::string(200'000, 'x');
  });
  auto listed = call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_id(container.id()); }));
  ASSERT_EQ(listed.containers_size(), 1);
  const auto& item = listed.containers(0);
  auto status = container.status();
  auto plain = [](const auto& map) { return std::map<std::string, std::string>(map.begin(), map.end()); };
  EXPECT_EQ(item.pod_sandbox_id(), pod.id());
  EXPECT_EQ(item.metadata().SerializeAsString(), container.config().metadata().SerializeAsString());
  EXPECT_EQ(status.metadata().SerializeAsString(), container.config().metadata().SerializeAsString());
  EXPECT_EQ(item.created_at(), status.created_at());
  EXPECT_EQ(item.state(), status.state());
  EXPECT_EQ(plain(status.annotations()), plain(container.config().annotations()));
  EXPECT_EQ(plain(item.annotations()), plain(container.config().annotations()));
  for (const auto& [key, value] : container.config().labels()) {
    EXPECT_EQ(status.labels().at(key), value);
    EXPECT_EQ(item.labels().at(key), value);
  }
}

// ---- RemoveContainer

TEST(RemoveContainer, KillsARunningOne) {
  PROMISE("1.1.11 remove");
  auto marker = uniqueName("marker");
  Pod pod;
  Container container(pod, shell("trap '' TERM; sleep 3600; echo " + marker));
  waitUntil([&] { return processesWith(marker).size() == 1; }, "the container's process");
  container.remove();
  EXPECT_EQ(processesWith(marker).size(), 0U);
  expectFailure(ofContainer<v1::ContainerStatusRequest>(container.id()), {StatusCode::NOT_FOUND});
  EXPECT_EQ(containersOf(pod).size(), 0U);
}

TEST(RemoveContainer, OfCreatedAndEnded) {
  PROMISE("1.1.11 remove");
  Pod pod;
  auto created = Container::created(pod);
  Container ended(pod, shell("exit 1"));
  ended.ended();
  created.remove();
  ended.remove();
  EXPECT_EQ(containersOf(pod).size(), 0U);
}

TEST(RemoveContainer, AgainAndUnknownIsFine) {
  PROMISE("1.1.11 idempotent");
  Pod pod;
  Container container(pod);
  atOnce(4, [&] { return container.remove(), 0; });
  container.remove();
  removeContainer(kUnknown);
}

TEST(RemoveContainer, FreesTheName) {
  PROMISE("1.1.11 name");
  Pod pod;
  auto config = containerConfig(pod);
  auto first = createContainer(pod, config);
  removeContainer(first);
  auto second = createContainer(pod, config);
  EXPECT_NE(second, first);
}

TEST(RemoveContainer, KeepsTheLog) {
  PROMISE("1.1.11 log");
  Pod pod;
  auto done = runToEnd(pod, shell("echo kept"), [](auto& c) { c.set_log_path("kept.log"); });
  EXPECT_EQ(done.status.exit_code(), 0);
  EXPECT_EQ(logText(readLog(pod.config().log_directory() + "/kept.log")), "kept\n");
}

TEST(RemoveContainer, LeavesNothingInItsPlace) {
  PROMISE("1.1.11 remove");
  Pod pod;
  Container other(pod);
  auto groups = fs::path(cgroupOf(other.pid())).parent_path();
  std::string group;
  {
    Container container(pod);
    container.text("echo written > /written");
    group = cgroupOf(container.pid());
    EXPECT_TRUE(fs::exists(group));
  }
  EXPECT_FALSE(fs::exists(group));
  EXPECT_EQ(Container(pod).exec("cat /written").code, 1);
}

}  // namespace userpod::conformance
