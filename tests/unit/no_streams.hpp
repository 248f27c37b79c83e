// A core for tests in which nothing streams, and nothing is measured or checked.
#pragma once

#include "daemon/core/core.hpp"

namespace userpod::tests {

class NoStreams : public core::Core {
 public:
  void openExec(const std::string&, core::ExecRequest, core::Callback<oci::ExecStreams> started,
                core::Callback<std::int32_t>) override {
    started(Error(Code::NotSupported, "not in this test"));
  }
  void attach(const std::string&, bool, core::Callback<oci::Attachment> done) override {
    done(Error(Code::NotSupported, "not in this test"));
  }
  void detach(const std::string&, UniqueFd, bool) override {}
  void resizeTerminal(const std::string&, oci::TerminalSize, core::DoneCallback done) override { done({}); }
  void podSockets(const std::string&, core::Callback<network::TcpSockets> done) override {
    done(Error(Code::NotSupported, "not in this test"));
  }
  Result<network::LoopbackListeners> loopbackListeners() override {
    return Error(Code::NotSupported, "not in this test");
  }
  void subscribeEvents(std::function<void(const core::Event&)>) override {}
  void leaveEnds() override {}
  void containerFigures(std::vector<std::shared_ptr<const ContainerRecord>>, stats::Detail,
                        std::function<void(std::vector<stats::ContainerFigures>)> done) override {
    done({});
  }
  void podFigures(std::vector<std::shared_ptr<const PodRecord>>, stats::Detail,
                  std::function<void(std::vector<stats::PodFigures>)> done) override {
    done({});
  }
  std::uint32_t checkJob(core::CheckOptions, const std::string&) override { return 0; }
};

}  // namespace userpod::tests
