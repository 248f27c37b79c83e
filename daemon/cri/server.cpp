#include "daemon/cri/server.hpp"

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include "daemon/cri/acceptor.hpp"
#include "daemon/cri/image_service.hpp"
#include "daemon/cri/limits.hpp"
#include "daemon/cri/runtime_service.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::cri {
namespace {

// For streams that a client does not read: then their connections are cut.
constexpr std::chrono::milliseconds kStreamGrace{200};

void logGrpc(gpr_log_func_args* args) {
  logMessage(args->severity == GPR_LOG_SEVERITY_ERROR ? Level::Warning : Level::Debug,
             fmt::format("grpc: {}", args->message));
}

}  // namespace

struct Server::Parts {
  Parts(core::Core& core, streaming::Server* streaming, std::unique_ptr<EventHub> hub)
      : core(core), events(std::move(hub)), runtime(core, streaming, *events, calls), images(core, calls) {}

  core::Core& core;
  std::shared_ptr<CallRegistry> calls = std::make_shared<CallRegistry>();
  std::unique_ptr<EventHub> events;  // ends after gRPC
  RuntimeService runtime;
  ImageService images;
  std::unique_ptr<grpc::Server> grpc;
  std::unique_ptr<Acceptor> acceptor;
  std::unique_ptr<v1::RuntimeService::Stub> self;
};

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() {
  stop(std::chrono::milliseconds(0));
}

Result<std::unique_ptr<Server>> Server::start(core::Core& core, streaming::Server* streaming, UniqueFd listener) {
  gpr_set_log_function(&logGrpc);
  // Held for the life of the process. When its last user goes, gRPC joins a thread that polls for up to ten seconds
  // once a large answer has waited for its socket: a stop would wait for that.
  ::grpc_init();
  USERPOD_TRY(events, EventHub::start(core));
  auto parts = std::make_unique<Parts>(core, streaming, std::move(events));
  grpc::ServerBuilder builder;  // without ports: connections come from the acceptor
  builder.RegisterService(&parts->runtime);
  builder.RegisterService(&parts->images);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxMessage));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessage));
  parts->grpc = builder.BuildAndStart();
  if (!parts->grpc) return Error(Code::Internal, "the gRPC server of the CRI does not start; see the log above");
  parts->self = v1::RuntimeService::NewStub(parts->grpc->InProcessChannel({}));
  grpc::Server* grpc = parts->grpc.get();
  USERPOD_TRY(acceptor, Acceptor::start(std::move(listener), [grpc](UniqueFd connection) {
                grpc::AddInsecureChannelFromFd(grpc, connection.release());
              }));
  parts->acceptor = std::move(acceptor);
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

void Server::ping(std::function<void()> answer) {
  struct Call {
    grpc::ClientContext context;
    v1::VersionRequest request;
    v1::VersionResponse response;
  };
  auto call = std::make_shared<Call>();
  parts_->self->async()->Version(&call->context, &call->request, &call->response,
                                 [call, answer = std::move(answer)](const grpc::Status&) { answer(); });
}

void Server::stop(std::chrono::milliseconds grace) {
  if (!parts_) return;
  parts_->acceptor->stop();
  parts_->calls->close(grace);
  parts_->core.leaveEnds();
  parts_->events->close();
  parts_->grpc->Shutdown(std::chrono::system_clock::now() + kStreamGrace);
  parts_.reset();
}

}  // namespace userpod::cri
