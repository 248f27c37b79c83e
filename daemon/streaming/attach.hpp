// A container's own streams, carried to a client by way of its monitor.
#pragma once

#include "daemon/streaming/pump.hpp"
#include "daemon/streaming/remote_command.hpp"

namespace userpod::streaming {

// The container's end is the session's, and so is the end of the client's stdin where the container's stays open
// (neither a terminal nor stdin_once). The monitor waits for those that do not read, and the container with it: a
// client that takes nothing for ten seconds is cut off.
class AttachSession final : public RemoteCommand {
 public:
  AttachSession(SessionContext context, Attach attach);

  void check(Clock::time_point now) override;

 private:
  void begin() override;
  void stdinReceived(std::string_view bytes) override { stdin_.take(bytes); }
  void stdinEnded() override;
  void resized(oci::TerminalSize size) override;
  void outputUnwanted(Kind) override {}
  void flushed() override;
  void left() override { detach(); }
  std::string describe() const override { return "attach to " + attach_.containerId; }

  void attached(Result<oci::Attachment> attachment);
  void endInput();
  void wait();
  void read();
  void detach();

  Attach attach_;
  Feeder stdin_;
  std::shared_ptr<Descriptor> monitor_;
  oci::Attachment attachment_;  // without its socket
  bool inputEnded_ = false;
  bool resizing_ = false;
  bool resizeAgain_ = false;
  bool blocked_ = false;  // until flushed()
};

}  // namespace userpod::streaming
