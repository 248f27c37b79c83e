#include "tests/conformance/cri.hpp"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <regex>
#include <thread>

#include "api.grpc.pb.h"

namespace userpod::conformance {
namespace {

struct Stubs {
  std::unique_ptr<v1::RuntimeService::Stub> Runtime;
  std::unique_ptr<v1::ImageService::Stub> Image;
};

constexpr int kLargestAnswer = 64 << 20;  // two streams of 16 MiB, and more than a client of Kubernetes would take

const Stubs& stubs() {
  static const Stubs made = [] {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kLargestAnswer);
    auto channel = grpc::CreateCustomChannel(options().endpoint, grpc::InsecureChannelCredentials(), arguments);
    return Stubs{v1::RuntimeService::NewStub(channel), v1::ImageService::NewStub(channel)};
  }();
  return made;
}

void prepare(grpc::ClientContext& context, milliseconds deadline) {
  context.set_deadline(std::chrono::system_clock::now() + patience(deadline));
  context.set_wait_for_ready(true);  // across a restart of the runtime
}

std::string shortName(const std::string& type) {
  auto name = type.substr(type.rfind('.') + 1);
  return name.substr(0, name.rfind("Request"));
}

}  // namespace

milliseconds patience(milliseconds usual) {
  return options().slow ? 4 * usual : usual;
}

CallFailed::CallFailed(const std::string& call, const grpc::Status& status)
    : std::runtime_error(shortName(call) + ": status " + std::to_string(status.error_code()) + ": " +
                         status.error_message()),
      code_(status.error_code()) {}

#define USERPOD_DEFINE(service, name)                                                           \
  Answer<v1::name##Response> attempt(const v1::name##Request& request, milliseconds deadline) { \
    grpc::ClientContext context;                                                                \
    prepare(context, deadline);                                                                 \
    Answer<v1::name##Response> answer;                                                          \
    answer.status = stubs().service->name(&context, request, &answer.value);                    \
    return answer;                                                                              \
  }
USERPOD_CONFORMANCE_CALLS(USERPOD_DEFINE)
#undef USERPOD_DEFINE

#define USERPOD_DEFINE(service, name)                                                                        \
  Answer<std::vector<v1::name##Response>> attempt(const v1::name##Request& request, milliseconds deadline) { \
    grpc::ClientContext context;                                                                             \
    prepare(context, deadline);                                                                              \
    Answer<std::vector<v1::name##Response>> answer;                                                          \
    auto reader = stubs().service->name(&context, request);                                                  \
    for (v1::name##Response one; reader->Read(&one);) answer.value.push_back(one);                           \
    answer.status = reader->Finish();                                                                        \
    return answer;                                                                                           \
  }
USERPOD_CONFORMANCE_STREAMS(USERPOD_DEFINE)
#undef USERPOD_DEFINE

struct Events::Stream {
  Stream() {
    context.set_wait_for_ready(true);
    reader = stubs().Runtime->GetContainerEvents(&context, {});
    reader->WaitForInitialMetadata();
    thread = std::thread([this] { read(); });
  }
  ~Stream() {
    context.TryCancel();
    thread.join();
  }
  void read() {
    for (v1::ContainerEventResponse one; reader->Read(&one);) {
      std::lock_guard lock(mutex);
      events.push_back(one);
      changed.notify_all();
    }
    auto last = reader->Finish();
    std::lock_guard lock(mutex);
    status = last;
    changed.notify_all();
  }
  template <typename Condition>
  void wait(Condition&& condition, const std::string& what, milliseconds time) {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, patience(time), condition)) throw std::runtime_error("no " + what);
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::ContainerEventResponse>> reader;
  std::mutex mutex;
  std::condition_variable changed;
  List events;
  std::optional<grpc::Status> status;
  std::thread thread;
};

Events::Events() : stream_(std::make_unique<Stream>()) {}
Events::~Events() = default;

Events::List Events::of(const std::string& podId) const {
  std::lock_guard lock(stream_->mutex);
  List list;
  for (const auto& one : stream_->events)
    if (one.pod_sandbox_status().id() == podId) list.push_back(one);
  return list;
}

Events::List Events::until(const std::string& podId, const std::string& id, v1::ContainerEventType type,
                           milliseconds time) const {
  auto there = [&] {
    return std::any_of(stream_->events.begin(), stream_->events.end(),
                       [&](const auto& one) { return one.container_id() == id && one.container_event_type() == type; });
  };
  stream_->wait(there, v1::ContainerEventType_Name(type) + " of " + id, time);
  return of(podId);
}

grpc::Status Events::ended(milliseconds time) const {
  stream_->wait([&] { return stream_->status.has_value(); }, "end of the stream of events", time);
  return *stream_->status;
}

void expectStatus(const std::string& call, const grpc::Status& status, const Codes& codes, const std::string& pattern,
                  const std::source_location& where) {
  auto told = shortName(call) + ": status " + std::to_string(status.error_code()) + ": " + status.error_message();
  bool expected =
      codes.empty() ? !status.ok() : std::find(codes.begin(), codes.end(), status.error_code()) != codes.end();
  if (!expected) {
    std::string wanted = codes.empty() ? " any failure" : "";
    for (auto code : codes) wanted += " " + std::to_string(code);
    ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line())) << told << "\nexpected:" << wanted;
  } else if (!std::regex_search(status.error_message(),
                                std::regex(pattern, std::regex::ECMAScript | std::regex::icase))) {
    ADD_FAILURE_AT(where.file_name(), static_cast<int>(where.line())) << told << "\nexpected a text like: " << pattern;
  }
}

}  // namespace userpod::conformance
