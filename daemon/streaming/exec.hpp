// A command in a container, carried to a client.
#pragma once

#include "daemon/streaming/pump.hpp"
#include "daemon/streaming/remote_command.hpp"

namespace userpod::streaming {

// The client's end is a hang-up: the command gets SIGHUP, and its streams are closed soon after. The command's end is
// the session's, whoever else holds its pipes.
class ExecSession final : public RemoteCommand {
 public:
  ExecSession(SessionContext context, Exec exec);

 private:
  void begin() override;
  void stdinReceived(std::string_view bytes) override { stdin_.take(bytes); }
  void stdinEnded() override { stdin_.end(); }
  void resized(oci::TerminalSize size) override;
  void outputUnwanted(Kind kind) override;
  void flushed() override;
  void left() override;
  std::string describe() const override { return "exec in " + exec_.containerId; }

  void started(Result<oci::ExecStreams> streams);
  void processEnded(Result<std::int32_t> ended);
  void addPump(std::shared_ptr<Descriptor> from, Kind kind);
  void finishWhenDrained();

  Exec exec_;
  Feeder stdin_;
  std::array<std::unique_ptr<Pump>, kKinds> pumps_;
  Kind first_ = kStdout;  // that goes on first when the connection is ready again
  Kind second_ = kStderr;
  std::shared_ptr<Descriptor> terminal_;
  std::function<void()> hangUp_;
  std::optional<Result<std::int32_t>> ended_;
};

}  // namespace userpod::streaming
