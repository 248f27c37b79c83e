#include "tests/conformance/cri.hpp"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <regex>

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
