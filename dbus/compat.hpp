// sdbus-c++ 1.2 and 2.x from one tree: every place where the two differ. The adaptors are generated at build time by
// the installed version's own generator, whose classes have the same members in both.
#pragma once

#include <sdbus-c++/sdbus-c++.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::bus {

using VariantMap = std::map<std::string, sdbus::Variant>;

#ifdef USERPOD_SDBUS_V2

using AsyncError = std::optional<sdbus::Error>;

inline sdbus::Error makeError(std::string name, std::string text) {
  return sdbus::Error(sdbus::Error::Name(std::move(name)), std::move(text));
}
inline std::string senderOf(sdbus::IObject& object) {
  const char* sender = object.getCurrentlyProcessedMessage().getSender();
  return sender != nullptr ? sender : "";
}
inline void emitChanged(sdbus::IObject& object, const char* interface, const std::vector<std::string>& names) {
  std::vector<sdbus::PropertyName> properties(names.begin(), names.end());
  object.emitPropertiesChangedSignal(sdbus::InterfaceName(interface), properties);
}
inline void requestName(sdbus::IConnection& connection, const char* name) {
  connection.requestName(sdbus::ServiceName(name));
}
inline std::unique_ptr<sdbus::IProxy> makeProxy(sdbus::IConnection& connection, const char* service, const char* path) {
  return sdbus::createProxy(connection, sdbus::ServiceName(service), sdbus::ObjectPath(path));
}
inline bool processOne(sdbus::IConnection& connection) {
  return connection.processPendingEvent();
}

#else

using AsyncError = const sdbus::Error*;

inline sdbus::Error makeError(const std::string& name, const std::string& text) {
  return sdbus::Error(name, text);
}
inline std::string senderOf(sdbus::IObject& object) {
  const sdbus::Message* message = object.getCurrentlyProcessedMessage();
  return message != nullptr ? message->getSender() : "";
}
inline void emitChanged(sdbus::IObject& object, const char* interface, const std::vector<std::string>& names) {
  object.emitPropertiesChangedSignal(interface, names);
}
inline void requestName(sdbus::IConnection& connection, const char* name) {
  connection.requestName(name);
}
inline std::unique_ptr<sdbus::IProxy> makeProxy(sdbus::IConnection& connection, const char* service, const char* path) {
  return sdbus::createProxy(connection, service, path);
}
inline bool processOne(sdbus::IConnection& connection) {
  return connection.processPendingRequest();
}

#endif

inline sdbus::Error makeError(const Error& error) {
  return makeError(std::string(dbusErrorName(error.code())), error.text());
}

}  // namespace userpod::bus
