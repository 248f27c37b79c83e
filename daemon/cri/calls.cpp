#include "daemon/cri/calls.hpp"

#include <vector>

#include "daemon/cri/limits.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::cri {
namespace {

// gRPC sends the text as a header; clients take 8 KiB of headers, percent encoding can treble a byte.
constexpr std::size_t kMaxErrorText = 2048;

std::string_view clientPrefix(Code code) {
  if (code == Code::RegistryUnreachable) return "RegistryUnavailable";
  if (code == Code::SignatureRejected) return "SignatureValidationFailed";
  if (code == Code::RecursiveReadOnlyUnsupported) return "RROUnsupported";
  if (code == Code::ImageVolumeFailed) return "ImageVolumeMountFailed";
  return {};
}

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  std::stop_token token() const { return cancel_.get_token(); }
  void OnCancel() override { cancel_.request_stop(); }
  // Who has been answered, by whomever, waits for nothing any more.
  void OnDone() override {
    cancel_.request_stop();
    delete this;
  }

 private:
  std::stop_source cancel_;
};

}  // namespace

Error stopping() {
  return Error(Code::NotReady, "userpodd is stopping; ask again, what was begun is found by the next call");
}

std::string toText(std::string_view bytes) {
  if (isUtf8(bytes)) return std::string(bytes);
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    std::size_t length = 1;
    while (length < 4 && length < bytes.size() && !isUtf8(bytes.substr(0, length))) ++length;
    if (isUtf8(bytes.substr(0, length))) {
      text += bytes.substr(0, length);
    } else {
      text += '?';
      length = 1;
    }
    bytes.remove_prefix(length);
  }
  return text;
}

grpc::Status toGrpc(const Error& error) {
  std::string text = error.text();
  std::string_view prefix = clientPrefix(error.code());
  if (!prefix.empty() && !text.starts_with(prefix)) text = fmt::format("{}: {}", prefix, text);
  if (text.size() > kMaxErrorText) text.resize(kMaxErrorText);
  return {static_cast<grpc::StatusCode>(grpcStatus(error.code())), toText(text)};
}

void logFailure(const CallName& name, const Error& error) {
  std::string text = fmt::format("{} failed: {}: {}", name.method, codeName(error.code()), error.text());
  std::string object = excerpt(name.object, 300);
  LogFields fields{{"METHOD", name.method}};
  if (!name.field.empty()) fields.emplace_back(name.field, object);
  ArgumentFields more(error);
  fields.insert(fields.end(), more.fields().begin(), more.fields().end());
  logMessage(Level::Info, text, fields);
}

grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const CallName& name, const Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!status) logFailure(name, status.error());
  reactor->Finish(status ? grpc::Status::OK : toGrpc(status.error()));
  return reactor;
}

Status checkAnswer(std::size_t bytes, std::string_view instead) {
  if (bytes <= kMaxMessage) return {};
  return Error(Code::LimitsExceeded, fmt::format("the answer has {} bytes, more than the {} of one message; call {}, "
                                                 "or ask for less by a filter",
                                                 bytes, kMaxMessage, instead));
}

grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const CallName& name,
                                 const google::protobuf::MessageLite& response, std::string_view instead) {
  return answer(context, name, checkAnswer(response.ByteSizeLong(), instead));
}

Reply::~Reply() {
  fail(stopping());
  registry_->ended(this);
}

grpc::ServerUnaryReactor* Reply::claim() {
  std::lock_guard lock(mutex_);
  return std::exchange(reactor_, nullptr);
}

void Reply::ok(const std::function<void()>& fill) {
  grpc::ServerUnaryReactor* reactor = claim();
  if (reactor == nullptr) return;
  if (fill) fill();
  reactor->Finish(grpc::Status::OK);
}

void Reply::ok(const google::protobuf::MessageLite& response, std::string_view instead,
               const std::function<void()>& fill) {
  grpc::ServerUnaryReactor* reactor = claim();
  if (reactor == nullptr) return;
  fill();
  auto fits = checkAnswer(response.ByteSizeLong(), instead);
  if (!fits) logFailure(name_, fits.error());
  reactor->Finish(fits ? grpc::Status::OK : toGrpc(fits.error()));
}

void Reply::fail(const Error& error) {
  grpc::ServerUnaryReactor* reactor = claim();
  if (reactor == nullptr) return;
  logFailure(name_, error);
  reactor->Finish(toGrpc(error));
}

grpc::ServerUnaryReactor* CallRegistry::run(CallName name, const StartCall& start) {
  auto* reactor = new UnaryCall;  // gRPC's from here on: it ends in OnDone
  // Before an answer is possible: the reactor may be gone right after it.
  std::stop_token cancelled = reactor->token();
  auto reply = std::make_shared<Reply>(std::move(name), reactor, shared_from_this());
  bool refused = false;
  {
    std::lock_guard lock(mutex_);
    refused = closed_;
    if (!refused) waiting_.emplace(reply.get(), reply);
  }
  if (refused)
    reply->fail(stopping());
  else
    start(std::move(reply), std::move(cancelled));
  return reactor;
}

void CallRegistry::ended(Reply* reply) {
  std::lock_guard lock(mutex_);
  waiting_.erase(reply);
  changed_.notify_all();
}

void CallRegistry::close(std::chrono::milliseconds grace) {
  std::vector<std::shared_ptr<Reply>> late;
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.wait_for(lock, grace, [this] { return waiting_.empty(); });
    for (const auto& [address, reply] : waiting_)
      if (auto alive = reply.lock()) late.push_back(std::move(alive));
  }
  for (const auto& reply : late) reply->fail(stopping());
}

}  // namespace userpod::cri
