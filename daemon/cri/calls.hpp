// Calls under way: each is answered exactly once, whoever comes first: the core, the end of the daemon, or nobody (a
// dropped callback), which is an answer too.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>

#include "daemon/sys/error.hpp"

namespace userpod::cri {

// The error as a client sees it: code from the one table, text at most 4 KiB of UTF-8, with the prefix of cri-api's
// errors package where that has one (RegistryUnavailable, SignatureValidationFailed, RROUnsupported,
// ImageVolumeMountFailed).
grpc::Status toGrpc(const Error& error);

// What a call is told that ends with the daemon.
Error stopping();

// The same bytes when they are UTF-8, else with '?' for what is not. A proto3 string must be UTF-8: one bad byte in one
// container's message would make whole lists unreadable to Go clients.
std::string toText(std::string_view bytes);

// What a call is about, for the log.
struct CallName {
  std::string_view method;
  std::string_view field;  // journal field of the object: POD_ID, CONTAINER_ID, IMAGE; empty: none
  std::string object;
};

// Finishes a call that needed no waiting; a failure is logged.
grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const CallName& name, const Status& status);
// With a list that may be too large.
grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const CallName& name,
                                 const google::protobuf::MessageLite& response, std::string_view instead);
// LimitsExceeded when an answer of so many bytes is more than clients take. instead: the call that gives it in chunks.
Status checkAnswer(std::size_t bytes, std::string_view instead);
void logFailure(const CallName& name, const Error& error);

class CallRegistry;

// The one answer of a call that waits for the core. Shared by whoever may give it; any thread.
class Reply {
 public:
  Reply(CallName name, grpc::ServerUnaryReactor* reactor, std::shared_ptr<CallRegistry> registry)
      : name_(std::move(name)), reactor_(reactor), registry_(std::move(registry)) {}
  ~Reply();

  // `fill` writes the response; it runs only if nobody has answered yet, because the response lives until then.
  void ok(const std::function<void()>& fill = {});
  // Alike, for an answer that may be too large: see checkAnswer().
  void ok(const google::protobuf::MessageLite& response, std::string_view instead, const std::function<void()>& fill);
  void fail(const Error& error);
  void finish(const Status& status) { status ? ok() : fail(status.error()); }

 private:
  grpc::ServerUnaryReactor* claim();

  CallName name_;
  std::mutex mutex_;
  grpc::ServerUnaryReactor* reactor_;  // guarded by mutex_; null once answered
  std::shared_ptr<CallRegistry> registry_;
};

// What starts a waiting call: the reply for the core, and the client's wish to have it no more. Most calls ignore that
// wish: work goes on and the client's retry finds it.
using StartCall = std::function<void(std::shared_ptr<Reply> reply, std::stop_token cancelled)>;

class CallRegistry : public std::enable_shared_from_this<CallRegistry> {
 public:
  // Runs `start`, unless the daemon is stopping, and returns what gRPC waits for.
  grpc::ServerUnaryReactor* run(CallName name, const StartCall& start);
  // From now on new calls are refused; waits for those under way, then answers the rest with NotReady.
  void close(std::chrono::milliseconds grace);

 private:
  friend class Reply;
  void ended(Reply* reply);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  std::unordered_map<Reply*, std::weak_ptr<Reply>> waiting_;
};

}  // namespace userpod::cri
