// The CRI as the conformance tests call it: by type of request, over the socket of any runtime. Blocking; any thread.
#pragma once

#include <gmock/gmock.h>
#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.pb.h"

namespace userpod::conformance {

namespace v1 = runtime::v1;
using grpc::StatusCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

// What the suite must be told of the world beyond the CRI; main.cpp has the command line.
struct Options {
  std::string endpoint;       // unix:///...
  std::string registry;       // host:port with the images of tests/testbed/registry
  std::string tokenRegistry;  // its second one, which asks for tokens; empty: tests of credentials are skipped
  std::string scratch;        // a directory that the runtime sees under the same path: host paths and logs
  std::string results;        // a file: one "STATUS<tab>Test.Name<tab>reason" a line
  // Shell commands; without them the tests that need them are skipped. To pause and resume, an id is added.
  std::string restart;  // starts the runtime anew
  std::string pause;
  std::string resume;
  int jobs = 1;
  bool slow = false;  // sanitizers, emulation: waits are four times as long
};
const Options& options();

// How long a wait may take here.
std::chrono::milliseconds patience(milliseconds usual);

class CallFailed : public std::runtime_error {
 public:
  CallFailed(const std::string& call, const grpc::Status& status);
  StatusCode code() const { return code_; }

 private:
  StatusCode code_;
};

template <typename Response>
struct Answer {
  grpc::Status status;
  Response value;
};

constexpr seconds kCallTime{60};

// The unary calls. X(service, name): its messages are nameRequest and nameResponse.
#define USERPOD_CONFORMANCE_CALLS(X)    \
  X(Runtime, Version)                   \
  X(Runtime, RunPodSandbox)             \
  X(Runtime, StopPodSandbox)            \
  X(Runtime, RemovePodSandbox)          \
  X(Runtime, PodSandboxStatus)          \
  X(Runtime, ListPodSandbox)            \
  X(Runtime, CreateContainer)           \
  X(Runtime, StartContainer)            \
  X(Runtime, StopContainer)             \
  X(Runtime, RemoveContainer)           \
  X(Runtime, ListContainers)            \
  X(Runtime, ContainerStatus)           \
  X(Runtime, UpdateContainerResources)  \
  X(Runtime, ReopenContainerLog)        \
  X(Runtime, ExecSync)                  \
  X(Runtime, Exec)                      \
  X(Runtime, Attach)                    \
  X(Runtime, PortForward)               \
  X(Runtime, ContainerStats)            \
  X(Runtime, ListContainerStats)        \
  X(Runtime, PodSandboxStats)           \
  X(Runtime, ListPodSandboxStats)       \
  X(Runtime, UpdateRuntimeConfig)       \
  X(Runtime, Status)                    \
  X(Runtime, CheckpointContainer)       \
  X(Runtime, CheckpointPod)             \
  X(Runtime, RestorePod)                \
  X(Runtime, ListMetricDescriptors)     \
  X(Runtime, ListPodSandboxMetrics)     \
  X(Runtime, RuntimeConfig)             \
  X(Runtime, UpdatePodSandboxResources) \
  X(Image, ListImages)                  \
  X(Image, ImageStatus)                 \
  X(Image, PullImage)                   \
  X(Image, RemoveImage)                 \
  X(Image, ImageFsInfo)

// The server streams whose messages are named alike; all of a stream, in a vector.
#define USERPOD_CONFORMANCE_STREAMS(X) \
  X(Runtime, StreamPodSandboxes)       \
  X(Runtime, StreamContainers)         \
  X(Runtime, StreamContainerStats)     \
  X(Runtime, StreamPodSandboxStats)    \
  X(Runtime, StreamPodSandboxMetrics)  \
  X(Image, StreamImages)

#define USERPOD_DECLARE(service, name) \
  Answer<v1::name##Response> attempt(const v1::name##Request& request, milliseconds deadline = kCallTime);
USERPOD_CONFORMANCE_CALLS(USERPOD_DECLARE)
#undef USERPOD_DECLARE

#define USERPOD_DECLARE(service, name) \
  Answer<std::vector<v1::name##Response>> attempt(const v1::name##Request& request, milliseconds deadline = kCallTime);
USERPOD_CONFORMANCE_STREAMS(USERPOD_DECLARE)
#undef USERPOD_DECLARE

// The call's answer; CallFailed when it fails.
template <typename Request>
auto call(const Request& request, milliseconds deadline = kCallTime) {
  auto answer = attempt(request, deadline);
  if (!answer.status.ok()) throw CallFailed(Request().GetTypeName(), answer.status);
  return std::move(answer.value);
}

// with<v1::StopContainerRequest>([&](auto& r) { r.set_timeout(1); })
template <typename Message, typename Edit>
Message with(Edit&& edit) {
  Message message;
  edit(message);
  return message;
}

// Requests that need no more than an id.
template <typename Request>
Request ofPod(const std::string& id) {
  return with<Request>([&](auto& r) { r.set_pod_sandbox_id(id); });
}
template <typename Request>
Request ofContainer(const std::string& id) {
  return with<Request>([&](auto& r) { r.set_container_id(id); });
}

// What GetContainerEvents tells from the object's making on.
class Events {
 public:
  using List = std::vector<v1::ContainerEventResponse>;
  // Returns when the runtime has answered that it tells.
  Events();
  ~Events();
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  // Those of a pod and its containers up to now.
  List of(const std::string& podId) const;
  // Alike, when one of them is this of this container or pod; throws after the time.
  List until(const std::string& podId, const std::string& id, v1::ContainerEventType type,
             milliseconds time = seconds(20)) const;
  // The status that the stream has ended with; throws after the time.
  grpc::Status ended(milliseconds time = seconds(20)) const;

 private:
  struct Stream;
  std::unique_ptr<Stream> stream_;
};

// What so many threads return that begin together; what one throws is thrown.
template <typename Work>
auto atOnce(int threads, Work&& work) {
  std::vector<std::future<std::invoke_result_t<Work>>> running;
  for (int thread = 0; thread < threads; ++thread) running.push_back(std::async(std::launch::async, work));
  std::vector<std::invoke_result_t<Work>> results;
  for (auto& one : running) results.push_back(one.get());
  return results;
}

using Codes = std::vector<StatusCode>;

void expectStatus(const std::string& call, const grpc::Status& status, const Codes& codes, const std::string& pattern,
                  const std::source_location& where);

// The call must fail with one of the codes (none: with any), and its text must have a match of the regular expression
// (in any case of letters).
template <typename Request>
void expectFailure(const Request& request, const Codes& codes = {}, const std::string& pattern = "",
                   const std::source_location& where = std::source_location::current()) {
  expectStatus(Request().GetTypeName(), attempt(request).status, codes, pattern, where);
}

}  // namespace userpod::conformance

// First in every test: the promise of the CRI that it stands for, a key of promises.md.
#define PROMISE(key) ::testing::Test::RecordProperty("promise", key)
