// Lists as streams: chunks of bounded size, whatever is in them, and clients that read slowly, stop, or go away.
#include <fmt/core.h>

#include <set>

#include "tests/unit/cri_bed.hpp"

namespace userpod {
namespace {

namespace v1 = ::runtime::v1;
using tests::kMebibyte;

constexpr int kMany = 50'000;

core::Snapshot manyContainers(int count, const std::string& annotation) {
  core::Snapshot snapshot;
  for (int i = 0; i < count; ++i) {
    auto record = std::make_shared<ContainerRecord>(*tests::makeContainer(fmt::format("{:064x}", i)));
    if (!annotation.empty()) record->config.annotations["big"] = annotation;
    snapshot.containers.push_back(std::move(record));
  }
  return snapshot;
}

struct Streamed {
  grpc::Status status;
  std::set<std::string> ids;
  int items = 0, messages = 0, emptyMessages = 0;
  std::size_t bytes = 0, largest = 0;

  void take(std::size_t size, int count) {
    ++messages;
    emptyMessages += count == 0 ? 1 : 0;
    items += count;
    bytes += size;
    largest = std::max(largest, size);
  }
};

class CriStreams : public tests::CriServer {
 protected:
  Streamed containerStats(const v1::StreamContainerStatsRequest& request = {}) {
    Streamed streamed;
    grpc::ClientContext context;
    auto stream = runtime_->StreamContainerStats(&context, request);
    v1::StreamContainerStatsResponse chunk;
    while (stream->Read(&chunk)) {
      streamed.take(chunk.ByteSizeLong(), chunk.container_stats_size());
      for (const auto& one : chunk.container_stats()) streamed.ids.insert(one.attributes().id());
    }
    streamed.status = stream->Finish();
    return streamed;
  }
  Streamed containers() {
    Streamed streamed;
    grpc::ClientContext context;
    auto stream = runtime_->StreamContainers(&context, {});
    v1::StreamContainersResponse chunk;
    while (stream->Read(&chunk)) {
      streamed.take(chunk.ByteSizeLong(), chunk.containers_size());
      for (const auto& one : chunk.containers()) streamed.ids.insert(one.id());
    }
    streamed.status = stream->Finish();
    return streamed;
  }
};

TEST_F(CriStreams, FiftyThousandContainersFiguresArriveInBoundedChunks) {
  core_.set({}, manyContainers(kMany, "").containers);
  auto streamed = containerStats();
  EXPECT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.items, kMany);
  EXPECT_EQ(streamed.ids.size(), static_cast<std::size_t>(kMany));
  EXPECT_EQ(streamed.emptyMessages, 0);
  EXPECT_GT(streamed.bytes, 16 * kMebibyte);
  EXPECT_LE(streamed.largest, 4 * kMebibyte);
  // Read chunk by chunk, not all at once.
  EXPECT_LE(core_.largestRead, 200U);
}

TEST_F(CriStreams, FiftyThousandContainersArriveInBoundedChunks) {
  core_.set({}, manyContainers(kMany, "").containers);
  auto streamed = containers();
  EXPECT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.ids.size(), static_cast<std::size_t>(kMany));
  EXPECT_EQ(streamed.items, kMany);
  EXPECT_EQ(streamed.emptyMessages, 0);
  EXPECT_GT(streamed.bytes, 16 * kMebibyte);
  EXPECT_LE(streamed.largest, 4 * kMebibyte);
}

TEST_F(CriStreams, ChunksOfLargeItemsHaveFewOfThem) {
  core_.set({}, manyContainers(100, std::string(kMebibyte, 'x')).containers);
  for (const auto& streamed : {containers(), containerStats()}) {
    EXPECT_TRUE(streamed.status.ok()) << streamed.status.error_message();
    EXPECT_EQ(streamed.ids.size(), 100U);
    EXPECT_GT(streamed.bytes, 100 * kMebibyte);
    EXPECT_LE(streamed.largest, 4 * kMebibyte);
  }
}

TEST_F(CriStreams, NothingSelectedIsAnEndAtOnce) {
  core_.set({}, manyContainers(3, "").containers);
  v1::StreamContainerStatsRequest request;
  request.mutable_filter()->set_id("no-such");
  auto streamed = containerStats(request);
  EXPECT_TRUE(streamed.status.ok());
  EXPECT_EQ(streamed.messages, 0);
  EXPECT_EQ(core_.reads, 0U);
  grpc::ClientContext context;
  v1::StreamPodSandboxStatsResponse chunk;
  auto pods = runtime_->StreamPodSandboxStats(&context, {});
  EXPECT_FALSE(pods->Read(&chunk));
  EXPECT_TRUE(pods->Finish().ok());
}

TEST_F(CriStreams, PodsFiguresAreThoseOfTheList) {
  core_.set({tests::makePod('a'), tests::makePod('b', Origin::Desktop), tests::makePod('c')}, {});
  grpc::ClientContext context;
  v1::StreamPodSandboxStatsResponse chunk;
  auto pods = runtime_->StreamPodSandboxStats(&context, {});
  ASSERT_TRUE(pods->Read(&chunk));
  ASSERT_EQ(chunk.pod_sandbox_stats_size(), 2);
  EXPECT_EQ(chunk.pod_sandbox_stats(0).attributes().id(), std::string(64, 'a'));
  EXPECT_EQ(chunk.pod_sandbox_stats(1).attributes().id(), std::string(64, 'c'));
  EXPECT_FALSE(pods->Read(&chunk));
  EXPECT_TRUE(pods->Finish().ok());
}

TEST_F(CriStreams, WhoReadsSlowlyHasFiguresReadForIt) {
  core_.set({}, manyContainers(kMany, "").containers);
  grpc::ClientContext context;
  auto stream = runtime_->StreamContainerStats(&context, {});
  v1::StreamContainerStatsResponse chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  // What is on its way is bounded by the connection, however long one waits.
  v1::VersionResponse version;
  grpc::ClientContext second;
  ASSERT_TRUE(runtime_->Version(&second, {}, &version).ok());
  EXPECT_LT(core_.reads, kMany / 200U / 2);
  int items = chunk.container_stats_size();
  while (stream->Read(&chunk)) items += chunk.container_stats_size();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(items, kMany);
}

TEST_F(CriStreams, AClientThatGoesAwayLeavesNothing) {
  core_.set({}, manyContainers(kMany, "").containers);
  std::weak_ptr<const ContainerRecord> held = core_.snapshot()->containers.back();
  grpc::ClientContext context;
  auto stream = runtime_->StreamContainerStats(&context, {});
  v1::StreamContainerStatsResponse chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  context.TryCancel();
  while (stream->Read(&chunk)) continue;
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  core_.set({}, {});
  server_.reset();  // returns when all calls have ended
  EXPECT_TRUE(held.expired());
}

TEST_F(CriStreams, FiguresThatNeverComeAreAnEnd) {
  core_.set({}, manyContainers(3, "").containers);
  core_.dropReads = true;
  auto streamed = containerStats();
  EXPECT_EQ(streamed.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(streamed.messages, 0);
}

TEST_F(CriStreams, AListThatNoClientTakesNamesItsStream) {
  core_.set({}, manyContainers(20, std::string(kMebibyte, 'x')).containers);
  grpc::ClientContext context;
  v1::ListContainersResponse list;
  auto status = runtime_->ListContainers(&context, {}, &list);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("call StreamContainers"), std::string::npos) << status.error_message();

  std::vector<std::shared_ptr<const PodRecord>> pods;
  for (int i = 0; i < 20; ++i) {
    auto pod = std::make_shared<PodRecord>(*tests::makePod('a'));
    pod->id = fmt::format("{:064x}", i);
    pod->config.annotations["big"] = std::string(kMebibyte, 'x');
    pods.push_back(std::move(pod));
  }
  core_.set(pods, {});
  grpc::ClientContext second;
  v1::ListPodSandboxResponse podList;
  status = runtime_->ListPodSandbox(&second, {}, &podList);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("call StreamPodSandboxes"), std::string::npos) << status.error_message();

  auto image = std::make_shared<ImageRecord>();
  image->id = "sha256:1";
  image->manifestAnnotations["big"] = std::string(kMebibyte, 'x');
  core_.setImages(core::ImageList(20, image));
  grpc::ClientContext third;
  v1::ListImagesResponse imageList;
  status = images_->ListImages(&third, {}, &imageList);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("call StreamImages"), std::string::npos) << status.error_message();
}

}  // namespace
}  // namespace userpod
