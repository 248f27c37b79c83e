#include "daemon/streaming/session.hpp"

#include "daemon/streaming/attach.hpp"
#include "daemon/streaming/exec.hpp"
#include "daemon/streaming/port_forward.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::streaming {
namespace {

constexpr std::chrono::hours kIdle{4};

}  // namespace

void Session::start(std::function<void(Session&)> over) {
  over_ = std::move(over);
  connection_->start(*this);
}

void Session::check(Clock::time_point now) {
  if (now - connection_->lastUse() > kIdle) return fail("nothing was sent either way for four hours");
  connection_->check();
}

void Session::gone() {
  timer_.cancel();
  left();
  auto over = std::exchange(over_, nullptr);
  over(*this);  // may end this object
}

void Session::fail(const std::string& why) {
  logInfo("streaming: {}: {}", describe(), why);
  connection_->abort();
}

std::shared_ptr<Session> makeSession(SessionContext context, SessionRequest request) {
  if (auto* exec = std::get_if<Exec>(&request))
    return std::make_shared<ExecSession>(std::move(context), std::move(*exec));
  if (auto* attach = std::get_if<Attach>(&request))
    return std::make_shared<AttachSession>(std::move(context), std::move(*attach));
  return std::make_shared<PortForwardSession>(std::move(context), std::get<PortForward>(std::move(request)));
}

}  // namespace userpod::streaming
