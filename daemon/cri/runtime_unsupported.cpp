// RuntimeService: the calls that it never can answer, with the reason.
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

}  // namespace

#define USERPOD_REFUSE(call)                                                                                        \
  grpc::ServerUnaryReactor* RuntimeService::call(Context* context, const v1::call##Request*, v1::call##Response*) { \
    return answer(context, {#call}, never(#call));                                                                  \
  }
USERPOD_REFUSED_CALLS(USERPOD_REFUSE)
#undef USERPOD_REFUSE

}  // namespace userpod::cri
