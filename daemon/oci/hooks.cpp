#include "daemon/oci/hooks.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "daemon/sys/util.hpp"

namespace userpod::oci {

Hook readHook(Fields& fields) {
  Hook hook{fields.text("path", true), fields.texts("args"), fields.texts("env"), 0};
  if (!hook.path.starts_with("/")) fields.wrong("path", "is not absolute; begin it with /");
  for (const auto& entry : hook.environment)
    if (entry.find('=') == std::string::npos || entry.front() == '=') fields.wrong("env", "has what is not NAME=value");
  if (auto timeout = fields.number("timeout")) {
    hook.timeout = *timeout;
    if (*timeout <= 0 || *timeout > INT32_MAX) fields.wrong("timeout", "is not a number of seconds above 0");
  }
  return hook;
}

Status checkHook(const std::string& stage, const Hook& hook) {
  if (stage == "startContainer" || ::access(hook.path.c_str(), X_OK) == 0) return {};
  int reason = errno;
  return Error(Code::InvalidArgument,
               fmt::format("its hook {} cannot be run: {}; install it, or take the hook out", excerpt(hook.path, 256),
                           sysError("open", reason).text()),
               reason);
}

void addHook(Json& spec, const std::string& stage, const Hook& hook) {
  Json entry = {{"path", hook.path}};
  if (!hook.args.empty()) entry["args"] = hook.args;
  if (!hook.environment.empty()) entry["env"] = hook.environment;
  if (hook.timeout > 0) entry["timeout"] = hook.timeout;
  spec["hooks"][stage].push_back(std::move(entry));
}

}  // namespace userpod::oci
