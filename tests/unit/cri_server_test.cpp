// The CRI front end over a real socket: who may connect, what the limits are, and that each call is answered once,
// whatever the core and the client do. The core is a small double: the real one is tested with the whole daemon.
#include <fmt/core.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "api.grpc.pb.h"
#include "daemon/cri/server.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/cri_bed.hpp"

namespace userpod {
namespace {

namespace v1 = ::runtime::v1;
using namespace std::chrono_literals;
using tests::CriServer;
using tests::kMebibyte;
using tests::makeContainer;
using tests::makePod;

TEST_F(CriServer, VersionIsWhatKubeletDemands) {
  grpc::ClientContext context;
  v1::VersionResponse response;
  ASSERT_TRUE(runtime_->Version(&context, {}, &response).ok());
  EXPECT_EQ(response.version(), "0.1.0");
  EXPECT_EQ(response.runtime_name(), "userpod");
  EXPECT_EQ(response.runtime_api_version(), "v1");
  struct stat info{};
  ASSERT_EQ(::stat(socket_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(CriServer, StatusTellsConditionsHandlersAndDiagnosis) {
  grpc::ClientContext context;
  v1::StatusRequest request;
  request.set_verbose(true);
  v1::StatusResponse response;
  ASSERT_TRUE(runtime_->Status(&context, request, &response).ok());
  ASSERT_EQ(response.status().conditions_size(), 2);
  EXPECT_FALSE(response.status().conditions(1).status());
  EXPECT_EQ(response.status().conditions(1).reason(), "NetworkPluginNotReady");
  ASSERT_EQ(response.runtime_handlers_size(), 2);
  EXPECT_EQ(response.runtime_handlers(0).name(), "");
  EXPECT_FALSE(response.runtime_handlers(0).features().user_namespaces());
  EXPECT_NE(response.info().at("config").find("\"stateDir\":\"/data\""), std::string::npos);
  EXPECT_NE(response.info().at("diagnosis").find("subordinate-ids"), std::string::npos);
  grpc::ClientContext second;
  v1::RuntimeConfigResponse config;
  ASSERT_TRUE(runtime_->RuntimeConfig(&second, {}, &config).ok());
  EXPECT_EQ(config.linux().cgroup_driver(), v1::CGROUPFS);
}

TEST_F(CriServer, WhatCannotBeAnswersUnimplemented) {
  grpc::ClientContext context;
  v1::CheckpointContainerResponse response;
  auto status = runtime_->CheckpointContainer(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_NE(status.error_message().find("CRIU"), std::string::npos);
}

TEST_F(CriServer, WithoutAStreamingServerItsCallsSayWhereToLook) {
  v1::PortForwardRequest request;
  request.set_pod_sandbox_id("p");
  v1::PortForwardResponse response;
  grpc::ClientContext context;
  auto status = runtime_->PortForward(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("condition Streaming"), std::string::npos) << status.error_message();
  EXPECT_EQ(response.url(), "");
}

TEST_F(CriServer, UpdateOfAPodSaysWhatIsAbsent) {
  core_.set({makePod('a')}, {});
  v1::UpdatePodSandboxResourcesRequest request;
  v1::UpdatePodSandboxResourcesResponse response;
  auto update = [&](const std::string& id) {
    grpc::ClientContext context;
    request.set_pod_sandbox_id(id);
    return runtime_->UpdatePodSandboxResources(&context, request, &response);
  };
  EXPECT_EQ(update("bbbb").error_code(), grpc::StatusCode::NOT_FOUND);
  request.mutable_resources()->set_memory_limit_in_bytes(4096);
  EXPECT_TRUE(update("aaaa").ok());
  EXPECT_EQ(core_.told, std::vector<std::string>{"updatePod " + std::string(64, 'a') + " none 4096"});
  request.mutable_overhead()->set_cpu_shares(-1);
  EXPECT_EQ(update("aaaa").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CriServer, CodesOfUnknownAndEmptyIds) {
  auto code = [&](auto method, const std::string& id) {
    grpc::ClientContext context;
    return method(context, id).error_code();
  };
  auto status = [&](grpc::ClientContext& context, const std::string& id) {
    v1::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    v1::PodSandboxStatusResponse response;
    return runtime_->PodSandboxStatus(&context, request, &response);
  };
  auto stop = [&](grpc::ClientContext& context, const std::string& id) {
    v1::StopPodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    v1::StopPodSandboxResponse response;
    return runtime_->StopPodSandbox(&context, request, &response);
  };
  core_.set({makePod('a'), makePod('b', Origin::Desktop)}, {});
  EXPECT_EQ(code(status, "aaa"), grpc::StatusCode::OK);
  EXPECT_EQ(code(status, "bbb"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(code(status, ""), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(status, std::string(65, 'a')), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(stop, "nosuch"), grpc::StatusCode::OK);
  EXPECT_EQ(code(stop, "bbb"), grpc::StatusCode::OK);
  EXPECT_EQ(code(stop, ""), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(core_.told.empty());
  EXPECT_EQ(code(stop, "aa"), grpc::StatusCode::OK);
  EXPECT_EQ(core_.told, std::vector<std::string>{"stopPod " + std::string(64, 'a')});
}

TEST_F(CriServer, CreateChecksThePodFirst) {
  core_.set({makePod('a')}, {});
  v1::CreateContainerRequest request;
  request.set_pod_sandbox_id("aaaa");
  request.mutable_config()->mutable_metadata()->set_name("main");
  request.mutable_config()->mutable_image()->set_image("busybox");
  v1::CreateContainerResponse response;
  auto create = [&] {
    grpc::ClientContext context;
    return runtime_->CreateContainer(&context, request, &response);
  };
  EXPECT_NE(create().error_message().find("sandbox_config.metadata"), std::string::npos);
  request.mutable_sandbox_config()->mutable_metadata()->set_name("pod");
  request.mutable_config()->mutable_linux()->mutable_security_context()->set_privileged(true);
  EXPECT_NE(create().error_message().find("privileged"), std::string::npos);
  request.mutable_config()->clear_linux();
  EXPECT_TRUE(create().ok());
  EXPECT_EQ(response.container_id(), std::string(64, 'd'));
  request.set_pod_sandbox_id("c");
  EXPECT_EQ(create().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(CriServer, VerboseContainerStatus) {
  core_.set({}, {makeContainer(std::string(64, 'c'))});
  grpc::ClientContext context;
  v1::ContainerStatusRequest request;
  request.set_container_id("c");
  request.set_verbose(true);
  v1::ContainerStatusResponse response;
  ASSERT_TRUE(runtime_->ContainerStatus(&context, request, &response).ok());
  const std::string& info = response.info().at("info");
  EXPECT_NE(info.find("\"pid\":1007"), std::string::npos);
  EXPECT_NE(info.find("\"ociVersion\":\"1.0.2\""), std::string::npos);
}

TEST_F(CriServer, ExecSyncFitsIntoOneMessageAndNamesTheTimeout) {
  core_.set({}, {makeContainer(std::string(64, 'c'))});
  v1::ExecSyncRequest request;
  request.set_container_id("c");
  request.add_cmd("big");
  v1::ExecSyncResponse response;
  grpc::ClientContext big;
  auto status = runtime_->ExecSync(&big, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(response.stdout().size(), 15 * kMebibyte);
  EXPECT_EQ(response.stderr(), "err");
  EXPECT_EQ(response.exit_code(), 3);
  request.set_cmd(0, "late");
  grpc::ClientContext late;
  EXPECT_EQ(runtime_->ExecSync(&late, request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  request.set_timeout(-1);
  grpc::ClientContext negative;
  EXPECT_EQ(runtime_->ExecSync(&negative, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CriServer, MessagesAbove16MebibytesAreRefused) {
  auto request = runRequest();
  (*request.mutable_config()->mutable_annotations())["big"] = std::string(17 * kMebibyte, 'x');
  grpc::ClientContext context;
  v1::RunPodSandboxResponse response;
  EXPECT_EQ(runtime_->RunPodSandbox(&context, request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(CriServer, StreamsComeInChunksWithoutTheDesktops) {
  std::vector<std::shared_ptr<const ContainerRecord>> containers;
  for (int i = 0; i < 2500; ++i) containers.push_back(makeContainer(fmt::format("{:064x}", i)));
  containers.push_back(makeContainer(std::string(64, 'f'), Origin::Desktop));
  core_.set({}, containers);
  grpc::ClientContext context;
  auto reader = runtime_->StreamContainers(&context, {});
  v1::StreamContainersResponse chunk;
  std::vector<int> sizes;
  std::set<std::string> ids;
  while (reader->Read(&chunk)) {
    sizes.push_back(chunk.containers_size());
    for (const auto& item : chunk.containers()) ids.insert(item.id());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(sizes, (std::vector<int>{1000, 1000, 500}));
  EXPECT_EQ(ids.size(), 2500U);
  grpc::ClientContext empty;
  auto pods = runtime_->StreamPodSandboxes(&empty, {});
  v1::StreamPodSandboxesResponse none;
  EXPECT_FALSE(pods->Read(&none));
  EXPECT_TRUE(pods->Finish().ok());
}

TEST_F(CriServer, ListOfAThousandContainers) {
  std::vector<std::shared_ptr<const ContainerRecord>> containers;
  for (int i = 0; i < 1000; ++i) containers.push_back(makeContainer(fmt::format("{:064x}", i)));
  core_.set({}, containers);
  std::vector<double> times;
  for (int round = 0; round < 30; ++round) {
    grpc::ClientContext context;
    v1::ListContainersResponse response;
    auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(runtime_->ListContainers(&context, {}, &response).ok());
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    ASSERT_EQ(response.containers_size(), 1000);
  }
  std::sort(times.begin(), times.end());
  RecordProperty("p50_ms", fmt::format("{:.2f}", times[times.size() / 2]));
  fmt::print("ListContainers of 1000, client included: p50 {:.2f} ms\n", times[times.size() / 2]);
}

TEST_F(CriServer, AClientThatLeavesUndoesNothing) {
  auto request = runRequest();
  v1::RunPodSandboxResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 100ms);
  EXPECT_EQ(runtime_->RunPodSandbox(&context, request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  core_.takeHeld()(std::string(64, 'e'));  // the core finishes later: nobody listens, nothing breaks
  EXPECT_EQ(core_.lastPod.logDirectory, "/var/log/pods/default_pod_u");
  grpc::ClientContext again;
  v1::VersionResponse version;
  EXPECT_TRUE(runtime_->Version(&again, {}, &version).ok());
}

TEST_F(CriServer, ACancelledPullIsStopped) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image("busybox");
  request.mutable_auth()->set_auth("dXNlcjpwYXNz");
  grpc::ClientContext context;
  auto call = std::async(std::launch::async, [&] {
    v1::PullImageResponse response;
    return images_->PullImage(&context, request, &response);
  });
  auto done = core_.takeHeld();
  EXPECT_EQ(core_.pull.credentials.password, "pass");
  EXPECT_FALSE(core_.pull.stop.stop_requested());
  context.TryCancel();
  EXPECT_EQ(call.get().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 500 && !core_.pull.stop.stop_requested(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(core_.pull.stop.stop_requested());
  done(Error(Code::Canceled, "pull of busybox cancelled"));
}

TEST_F(CriServer, ADroppedCallbackIsAnAnswer) {
  auto call = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    v1::RunPodSandboxResponse response;
    return runtime_->RunPodSandbox(&context, runRequest(), &response);
  });
  core_.takeHeld();  // and forgotten
  EXPECT_EQ(call.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(CriServer, StopAnswersWhatIsUnderWay) {
  auto call = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    v1::RunPodSandboxResponse response;
    return runtime_->RunPodSandbox(&context, runRequest(), &response);
  });
  auto done = core_.takeHeld();
  server_->stop(100ms);
  EXPECT_EQ(call.get().error_code(), grpc::StatusCode::UNAVAILABLE);
  done(std::string(64, 'e'));
}

TEST_F(CriServer, StopWaitsForACallWithinItsGrace) {
  auto call = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    v1::RunPodSandboxResponse response;
    return runtime_->RunPodSandbox(&context, runRequest(), &response);
  });
  auto done = core_.takeHeld();
  auto stopped = std::async(std::launch::async, [&] { server_->stop(20s); });
  std::this_thread::sleep_for(50ms);
  done(std::string(64, 'e'));
  done = nullptr;
  EXPECT_TRUE(call.get().ok());
  EXPECT_EQ(stopped.wait_for(10s), std::future_status::ready);
}

TEST_F(CriServer, ImageCallsThatAreIdempotent) {
  grpc::ClientContext context;
  v1::ImageStatusRequest request;
  request.mutable_image()->set_image("nowhere");
  v1::ImageStatusResponse response;
  EXPECT_TRUE(images_->ImageStatus(&context, request, &response).ok());
  EXPECT_FALSE(response.has_image());
  grpc::ClientContext second;
  v1::RemoveImageRequest remove;
  remove.mutable_image()->set_image("nowhere");
  v1::RemoveImageResponse removed;
  EXPECT_TRUE(images_->RemoveImage(&second, remove, &removed).ok());
  grpc::ClientContext third;
  v1::ImageFsInfoResponse usage;
  ASSERT_TRUE(images_->ImageFsInfo(&third, {}, &usage).ok());
  EXPECT_EQ(usage.image_filesystems(0).fs_id().mountpoint(), "/data");
  EXPECT_EQ(usage.container_filesystems(0).used_bytes().value(), 4U);
}

// The answer is made once for each list: it must be that of the list there is.
TEST_F(CriServer, ListImagesFollowsTheList) {
  auto image = [](int number) {
    auto record = std::make_shared<ImageRecord>();
    record->id = fmt::format("sha256:{:064x}", number);
    record->repoTags = {fmt::format("registry.example/image:{}", number)};
    record->size = 1000 + number;
    record->pinned = number % 2 == 1;
    record->manifestAnnotations = {{"number", std::to_string(number)}};
    return record;
  };
  auto list = [&](const std::string& filter = "") {
    grpc::ClientContext context;
    v1::ListImagesRequest request;
    request.mutable_filter()->mutable_image()->set_image(filter);
    v1::ListImagesResponse response;
    EXPECT_TRUE(images_->ListImages(&context, request, &response).ok());
    return response;
  };
  EXPECT_EQ(list().images_size(), 0);
  core_.setImages({image(1), image(2), image(3)});
  for (int again = 0; again < 2; ++again) {
    auto listed = list();
    ASSERT_EQ(listed.images_size(), 3);
    EXPECT_EQ(listed.images(2).id(), image(3)->id);
    EXPECT_EQ(listed.images(1).repo_tags(0), "registry.example/image:2");
    EXPECT_EQ(listed.images(1).spec().annotations().at("number"), "2");
    EXPECT_EQ(listed.images(1).size(), 1002U);
    EXPECT_TRUE(listed.images(0).pinned());
    EXPECT_FALSE(listed.images(1).pinned()) << "what the one before it has";
  }
  core_.setImages({image(2), image(4)});
  ASSERT_EQ(list().images_size(), 2);
  EXPECT_EQ(list().images(1).id(), image(4)->id);
  EXPECT_EQ(list("nowhere").images_size(), 0);
  core_.setImages({});
  EXPECT_EQ(list().images_size(), 0);
}

// Whether the server keeps a plain connection open for a moment; 1 closed, 0 open, others broken.
int connectionIsClosed(const std::string& path) {
  int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 2;
  timeval wait{2, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  char byte = 0;
  // A gRPC server speaks first (its settings); one that refused has closed.
  ssize_t got = ::recv(fd, &byte, 1, 0);
  ::close(fd);
  return got > 0 ? 0 : got == 0 || errno == ECONNRESET ? 1 : 3;
}

TEST_F(CriServer, OtherUsersAreClosedAtOnce) {
  if (::getuid() != 0) GTEST_SKIP() << "needs a second user id: runs only as root";
  EXPECT_EQ(connectionIsClosed(socket_), 0);
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  ASSERT_EQ(::chmod(socket_.c_str(), 0666), 0);
  pid_t child = ::fork();
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(9);
    ::_exit(connectionIsClosed(socket_));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST_F(CriServer, ShortageOfDescriptorsPausesWithoutSpinning) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  UniqueFd probe(::dup(client.get()));
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(probe.get());  // nothing above what is open
  probe.reset();
  std::vector<UniqueFd> fillers;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  while (true) {
    UniqueFd filler(::dup(client.get()));
    if (!filler) break;
    fillers.push_back(std::move(filler));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  rusage begin{};
  rusage end{};
  ::getrusage(RUSAGE_SELF, &begin);
  std::this_thread::sleep_for(500ms);
  ::getrusage(RUSAGE_SELF, &end);
  fillers.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  auto cpu = [](const rusage& usage) {
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
  };
  EXPECT_LT(cpu(end) - cpu(begin), 200);
  timeval wait{5, 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  char byte = 0;
  EXPECT_EQ(::recv(client.get(), &byte, 1, 0), 1) << "the waiting client is served once there are descriptors";
}

TEST(CriListener, ReplacesTheStaleAndRespectsTheLiving) {
  std::string name = ::testing::TempDir() + "/userpod-cri-XXXXXX";
  std::string directory = ::mkdtemp(name.data());
  std::string path = directory + "/cri.sock";
  {
    auto first = cri::openListener(path);
    ASSERT_TRUE(first) << first.error().text();
    auto second = cri::openListener(path);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Code::Busy);
  }
  EXPECT_TRUE(cri::openListener(path));
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_TRUE(writeFile(path, "precious"));
  EXPECT_EQ(cri::openListener(path).error().code(), Code::InvalidState);
  EXPECT_EQ(*readFile(path), "precious");
  EXPECT_EQ(cri::openListener(directory + "/" + std::string(200, 'x')).error().code(), Code::InvalidArgument);
  EXPECT_TRUE(removeTree(directory));
}

}  // namespace
}  // namespace userpod
