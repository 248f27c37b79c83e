// RuntimeService: the calls that it does not answer yet, or never can, each with the reason.
#include <fmt/core.h>

#include "daemon/cri/runtime_service.hpp"

namespace userpod::cri {
namespace {

Error never(std::string_view call) {
  return Error(
      Code::NotSupported,
      fmt::format("{}: CRIU needs privileges in the host's own user namespace to save or restore processes, and "
                  "userpod runs without any; stop the pod and start it anew instead",
                  call));
}

Error notYet(std::string_view call) {
  return Error(Code::NotSupported, fmt::format("{} is not implemented in userpod {}", call, USERPOD_VERSION));
}

// A stream that ends at once with the error.
template <typename Response>
class Refusal final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit Refusal(const Error& error) { this->Finish(toGrpc(error)); }
  void OnDone() override { delete this; }
};

}  // namespace

#define USERPOD_REFUSE(call, error)                                                                                 \
  grpc::ServerUnaryReactor* RuntimeService::call(Context* context, const v1::call##Request*, v1::call##Response*) { \
    return answer(context, {#call}, error(#call));                                                                  \
  }
USERPOD_REFUSED_CALLS(USERPOD_REFUSE)
#undef USERPOD_REFUSE

#define USERPOD_REFUSE(call, request, response)                                                \
  grpc::ServerWriteReactor<v1::response>* RuntimeService::call(Context*, const v1::request*) { \
    logFailure({#call}, notYet(#call));                                                        \
    return new Refusal<v1::response>(notYet(#call));                                           \
  }
USERPOD_REFUSED_STREAMS(USERPOD_REFUSE)
#undef USERPOD_REFUSE

}  // namespace userpod::cri
