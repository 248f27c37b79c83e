// org.freedesktop.LogControl1: `systemctl --user service-log-level userpod.service debug` while the daemon runs.
#pragma once

#include <array>
#include <cstdlib>
#include <string>

#include "LogControl1_adaptor.h"
#include "daemon/sys/log.hpp"
#include "dbus/replies.hpp"

namespace userpod::bus {

class LogControl final
    : public sdbus::AdaptorInterfaces<sdbus::Properties_adaptor, org::freedesktop::LogControl1_adaptor> {
 public:
  explicit LogControl(sdbus::IConnection& connection)
      : AdaptorInterfaces(connection, sdbus::ObjectPath("/org/freedesktop/LogControl1")) {
    registerAdaptor();
  }
  LogControl(const LogControl&) = delete;
  LogControl& operator=(const LogControl&) = delete;
  ~LogControl() {
    attempt("unregister the log control", [this] { unregisterAdaptor(); });
  }

 private:
  // From syslog(3); the three above "err" are served by it.
  static constexpr std::array<const char*, 8> kNames = {"emerg",   "alert",  "crit", "err",
                                                        "warning", "notice", "info", "debug"};

  std::string LogLevel() override { return kNames.at(static_cast<std::size_t>(logLevel())); }
  // sdbus-c++ turns what a setter throws, if it is an sdbus::Error, into the reply.
  void LogLevel(const std::string& value) override {
    for (std::size_t i = 0; i < kNames.size(); ++i)
      if (value == kNames.at(i)) return setLogLevel(static_cast<Level>(std::max<std::size_t>(i, 3)));
    throw makeError(Error(Code::InvalidArgument, "no log level " + cleanText(value) + "; see syslog(3)"));
  }
  std::string LogTarget() override { return logsToJournal() ? "journal" : "console"; }
  void LogTarget(const std::string& value) override {
    if (value != LogTarget())
      throw makeError(Error(Code::NotSupported, "the log target is given by the unit: " + LogTarget()));
  }
  std::string SyslogIdentifier() override { return "userpodd"; }
};

}  // namespace userpod::bus
