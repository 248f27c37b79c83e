// The CRI front end over a real socket, with a double behind it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "api.grpc.pb.h"
#include "daemon/cri/server.hpp"
#include "daemon/sys/util.hpp"
#include "tests/unit/fake_core.hpp"

namespace userpod::tests {

namespace v1 = ::runtime::v1;

inline std::shared_ptr<const PodRecord> makePod(char digit, Origin origin = Origin::Cri) {
  auto pod = std::make_shared<PodRecord>();
  pod->id = std::string(64, digit);
  pod->config.name = "pod";
  pod->config.nameSpace = "default";
  pod->config.uid = "u";
  pod->origin = origin;
  pod->state = PodRecord::State::Ready;
  pod->createdAt = 1;
  return pod;
}

inline std::shared_ptr<const ContainerRecord> makeContainer(const std::string& id, Origin origin = Origin::Cri) {
  auto container = std::make_shared<ContainerRecord>();
  container->id = id;
  container->podId = std::string(64, 'a');
  container->config.name = "main";
  container->config.image = "busybox";
  container->imageId = "sha256:1";
  container->origin = origin;
  container->state = ContainerRecord::State::Running;
  container->pid = 7;
  container->createdAt = 1;
  for (int i = 0; i < 5; ++i) {
    container->config.labels["io.kubernetes.label." + std::to_string(i)] = "some-value-of-usual-length";
    container->config.annotations["io.kubernetes.annotation." + std::to_string(i)] = "some-value-of-usual-length";
  }
  return container;
}

class CriServer : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/userpod-cri-XXXXXX";
    directory_ = ::mkdtemp(name.data());
    socket_ = directory_ + "/cri.sock";
    auto listener = cri::openListener(socket_);
    ASSERT_TRUE(listener) << listener.error().text();
    auto server = cri::Server::start(core_, nullptr, std::move(*listener));
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(16 * kMebibyte);
    arguments.SetMaxSendMessageSize(-1);
    auto channel = grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments);
    runtime_ = v1::RuntimeService::NewStub(channel);
    images_ = v1::ImageService::NewStub(channel);
  }
  void TearDown() override {
    server_.reset();
    EXPECT_TRUE(removeTree(directory_));
  }

  static v1::RunPodSandboxRequest runRequest() {
    v1::RunPodSandboxRequest request;
    auto* metadata = request.mutable_config()->mutable_metadata();
    metadata->set_name("pod");
    metadata->set_namespace_("default");
    metadata->set_uid("u");
    return request;
  }

  FakeCore core_;
  std::string directory_;
  std::string socket_;
  std::unique_ptr<cri::Server> server_;
  std::unique_ptr<v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<v1::ImageService::Stub> images_;
};

}  // namespace userpod::tests
